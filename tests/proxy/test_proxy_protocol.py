"""PROXY headers as plain functions: what a peer writes never raises anything but `ProxyHeaderBroken`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.proxy.proxy_protocol import SIGNATURE, ProxyHeaderBroken, parse_v1, parse_v2, read_source

ports = st.integers(0, 65535)


@given(st.ip_addresses(), st.data(), ports, ports)
def test_what_is_written_is_read(source, data, sport, dport):
    target = data.draw(st.ip_addresses(v=source.version))
    line = f"PROXY TCP{4 if source.version == 4 else 6} {source} {target} {sport} {dport}\r\n".encode()
    assert parse_v1(line) == str(source)
    head = SIGNATURE + bytes((0x21, 0x11 if source.version == 4 else 0x21)) + b"\0\0"
    body = source.packed + target.packed + struct.pack("!HH", sport, dport)
    assert parse_v2(head, body) == str(source)


@given(st.binary(max_size=120))
def test_whatever_else_is_refused_or_an_address(line):
    for text in (line, b"PROXY TCP4 " + line + b"\r\n", b"PROXY " + line + b"\r\n"):
        try:
            found = parse_v1(text)
        except ProxyHeaderBroken:
            continue
        assert found == "" or ipaddress.ip_address(found)


@given(st.binary(max_size=300))
def test_no_bytes_take_it_by_surprise(data):
    async def read(sent: bytes) -> str:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.sendall(sent)
            far.shutdown(socket.SHUT_WR)
            return await read_source(near)

    for sent in (data, b"PROXY " + data, SIGNATURE + data):
        try:
            found = asyncio.run(read(sent))
        except ProxyHeaderBroken:
            continue
        assert found == "" or ipaddress.ip_address(found)


@pytest.mark.parametrize("head", [b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 1\r\n", SIGNATURE + b"\x20\0\0\x03abc"])
async def test_what_follows_stays_in_the_socket(head):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.sendall(head + b"\x16\x03\x01")
        await read_source(near)
        assert near.recv(100) == b"\x16\x03\x01"
