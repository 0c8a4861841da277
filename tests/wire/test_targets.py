"""Upstreams with several targets on real sockets: who gets a request, what is sent twice, and targets that fail."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter

import pytest

from aiogate.proxy.balance import EjectionRule, Group, Target
from aiogate.proxy.forward import CompiledUpstream
from aiogate.proxy.pool import Origin, PoolOptions
from aiogate.testing import FakeClock

GET = b"GET /api/x?q=1 HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
LINE = b"HTTP/1.1 200 OK\r\n"


def named(name: bytes) -> bytes:
    return LINE + b"Content-Length: %d\r\n\r\n%b" % (len(name), name)


class Several:
    """A gate with two or more targets. `servers` are what stands behind them, `group` chooses."""

    def __init__(self, gate, servers, group, clock):
        self.gate = gate
        self.servers = servers
        self.group = group
        self.clock = clock

    @property
    def received(self):
        return [len(server.received) for server in self.servers]


@pytest.fixture
def several(wire):
    async def make(count=2, *, dead=(), rule=None, least_requests=False, options=None, weights=None, **upstream):
        gate = await wire.gate()
        servers = [await wire.upstream() for _ in range(count)]
        clock = FakeClock()
        targets = []
        for number, server in enumerate(servers):
            server.answer = named(b"%d" % number)
            port = server.port
            if number in dead:
                server.server.close()
            pool = gate.pools.lease(Origin("http", "127.0.0.1", port), options or PoolOptions())
            weight = weights[number] if weights else 1
            targets.append(Target(pool, f"t{number}", f"/base{number}", weight=weight))
        group = Group(targets, clock, least_requests=least_requests, rule=rule, api="shop")
        gate.api.upstream = CompiledUpstream(targets[0], group, **upstream)
        return Several(gate, servers, group, clock)

    return make


async def test_each_gets_its_share_its_path_and_its_name(several):
    it = await several(3, weights=[2, 1, 1])
    client = await it.gate.client()
    assert Counter([(await client.ask(GET)).body for _ in range(8)]) == {b"0": 4, b"1": 2, b"2": 2}
    for number, server in enumerate(it.servers):
        assert {request.target for request in server.received} == {f"/base{number}/x?q=1"}
        assert {tuple(request.values("Host")) for request in server.received} == {(f"t{number}",)}
        assert server.connections == 1


async def test_a_query_of_one_target_is_its_own(several):
    it = await several()
    it.group.targets[1].base_query = "k=1"
    client = await it.gate.client()
    for _ in range(2):
        await client.ask(GET)
    assert [server.received[0].target for server in it.servers] == ["/base0/x?q=1", "/base1/x?k=1&q=1"]


async def test_fewest_requests_first(several):
    it = await several(least_requests=True)
    it.servers[0].silence()
    slow = await it.gate.client()
    await slow.send(GET)
    await it.servers[0].begun.wait()
    client = await it.gate.client()
    assert [(await client.ask(GET)).body for _ in range(5)] == [b"1"] * 5
    assert it.received == [1, 5]


@pytest.mark.parametrize("ask", [GET, POST, POST.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked")[:-3]])
async def test_a_refused_connection_is_made_to_another_target(several, ask):
    """Whatever the method: nothing of the request was sent."""
    it = await several(dead=[0])
    client = await it.gate.client()
    if b"chunked" in ask:
        ask += b"3\r\nabc\r\n0\r\n\r\n"
    for _ in range(4):
        assert (await client.ask(ask)).body == b"1"
    assert it.received == [0, 4]
    assert it.gate.api.counts.upstream_repeats == 2
    assert {request.body for request in it.servers[1].received} == {b"" if ask == GET else b"abc"}


async def test_all_refuse(several):
    it = await several(3, dead=[0, 1, 2])
    attempts = []
    for target in it.group.targets:
        monkey(target.pool, attempts)
    for _ in range(30):
        reply = await it.gate.ask(GET)
        assert (reply.status, reply.code) == (502, "upstream_unreachable")
        assert 1 <= len(attempts) <= 2
        attempts.clear()


def monkey(pool, attempts):
    """Counts what the pool is asked for."""
    names = pool._names

    class Counting:
        async def addresses(self, host, port, ends):
            return await names.addresses(host, port, ends)

    pool._names = Counting()
    pool._refuse = lambda address, port: attempts.append(address) or ""


async def test_a_kept_connection_that_died_goes_to_another_target(several):
    it = await several()
    client = await it.gate.client()
    for _ in range(2):
        await client.ask(GET)

    async def die(request, writer):
        writer.transport.close()

    it.servers[0].answer = die
    assert (await client.ask(GET)).body == b"1"
    assert it.received == [2, 2]
    assert it.group.targets[0].failures == 0, "an upstream may close a connection that it did not use"


async def test_a_kept_connection_that_died_is_the_end_of_a_post(several):
    it = await several()
    client = await it.gate.client()
    for _ in range(2):
        await client.ask(POST)

    async def die(request, writer):
        writer.transport.close()

    it.servers[0].answer = die
    reply = await client.ask(POST)
    assert (reply.status, reply.code) == (502, "upstream_unreachable")
    assert it.received == [2, 1]


def reset(writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def hangs(request, writer):
    await asyncio.Event().wait()


async def resets(request, writer):
    reset(writer)


async def talks_nonsense(request, writer):
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")


async def breaks_the_head(request, writer):
    writer.write(LINE + b"Content-Le")
    await writer.drain()
    writer.transport.abort()


FAULTS = {
    "hang": (hangs, 504, "upstream_timeout"),
    "reset": (resets, 502, "upstream_unreachable"),
    "garbage": (talks_nonsense, 502, "upstream_invalid"),
    "half a head": (breaks_the_head, 502, "upstream_unreachable"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_told_once_and_ejects_the_target(several, fault):
    """Right code each time, no second attempt, at most three failures, one probe, back with the first answer."""
    how, status, code = FAULTS[fault]
    it = await several(rule=EjectionRule(failures=3, period=10), response_timeout=0.05)
    it.servers[0].answer = how
    client = await it.gate.client()
    replies = [await client.ask(GET) for _ in range(20)]
    failed = [reply for reply in replies if reply.status != 200]
    assert [(reply.status, reply.code) for reply in failed] == [(status, code)] * 3
    assert it.received == [3, 17], "as many attempts as requests"
    it.clock.advance(9)
    assert {(await client.ask(GET)).status for _ in range(5)} == {200}
    it.clock.advance(1)
    assert [(await client.ask(GET)).status for _ in range(5)] == [status, 200, 200, 200, 200]
    it.servers[0].answer = named(b"0")
    it.clock.advance(20)
    assert Counter([(await client.ask(GET)).body for _ in range(10)]) == {b"0": 5, b"1": 5}


async def test_a_refused_target_costs_no_client_anything(several, caplog):
    it = await several(dead=[1], rule=EjectionRule(failures=2))
    client = await it.gate.client()
    with caplog.at_level(logging.WARNING, "aiogate.upstream"):
        assert {(await client.ask(POST)).status for _ in range(20)} == {200}
    assert len(caplog.messages) == 1
    assert "API shop: the target http://127.0.0.1:" in caplog.messages[0]
    assert it.group.targets[1].ejections == 1


async def test_only_one_request_at_a_time_tries_a_target(several):
    it = await several(rule=EjectionRule(failures=1, period=10))
    it.servers[0].answer = resets
    client = await it.gate.client()
    await asyncio.gather(*[it.gate.ask(GET) for _ in range(2)])
    assert it.group.states()[0][1]
    it.servers[0].silence()
    it.servers[0].begun.clear()
    it.clock.advance(10)
    probe = await it.gate.client()
    await probe.send(GET)
    await it.servers[0].begun.wait()
    before = it.received[0]
    assert [(await client.ask(GET)).body for _ in range(5)] == [b"1"] * 5
    assert it.received[0] == before
    await probe.close()
    await it.servers[0].lost.wait()
    it.servers[0].answer = named(b"0")
    assert (await client.ask(GET)).body == b"0", "its client left, so another one tries"


async def test_a_client_that_breaks_its_body_is_no_fault_of_the_target(several):
    it = await several(rule=EjectionRule(failures=1))
    for _ in range(4):
        client = await it.gate.client()
        await client.send(POST.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked")[:-3] + b"zz\r\n")
        assert (await client.reply()).status == 400
    assert [target.failures for target in it.group.targets] == [0, 0]


async def test_connections_that_are_all_in_use_are_no_fault_of_the_target(several):
    it = await several(rule=EjectionRule(failures=1), options=PoolOptions(connections=1, queue=0))
    for server in it.servers:
        server.silence()
    busy = [await it.gate.client() for _ in range(2)]
    for client in busy:
        await client.send(GET)
    for server in it.servers:
        await server.begun.wait()
    for _ in range(4):
        reply = await it.gate.ask(GET)
        assert (reply.status, reply.code) == (503, "overloaded")
    assert [target.failures for target in it.group.targets] == [0, 0]


async def test_all_are_tried_when_all_fail_and_the_first_answer_ends_it(several):
    it = await several(3, rule=EjectionRule(failures=1))
    for server in it.servers:
        server.answer = resets
    client = await it.gate.client()
    for _ in range(12):
        assert (await client.ask(GET)).status == 502
    assert sum(it.received) == 12
    for number, server in enumerate(it.servers):
        server.answer = named(b"%d" % number)
    assert {(await client.ask(GET)).status for _ in range(12)} == {200}
    assert all(not left for _, left in it.group.states()), "all are back within as many requests as there are targets"


async def test_a_limit_on_all_of_it_counts_against_the_target(several):
    it = await several(rule=EjectionRule(failures=1), total=0.05)
    it.servers[0].answer = hangs
    client = await it.gate.client()
    statuses = [(await client.ask(GET)).status for _ in range(6)]
    assert sorted(statuses) == [200] * 5 + [504]
    assert it.received == [1, 5]


async def test_the_limit_of_a_step_does_not(several):
    it = await several(rule=EjectionRule(failures=1), total=5.0)
    it.servers[0].answer = hangs
    it.gate.api.before = lambda exchange: setattr(exchange, "upstream_timeout", 0.02)
    client = await it.gate.client()
    statuses = [(await client.ask(GET)).status for _ in range(4)]
    assert sorted(statuses) == [200, 200, 504, 504]


# One upstream


async def test_a_limit_on_all_of_it_cuts_a_body_that_never_ends(wire):
    gate = await wire.gate(total=0.2)

    async def endless(request, writer):
        writer.write(LINE + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\na\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    gate.upstream.answer = endless
    client = await gate.client()
    await client.send(GET)
    await client.reader.readuntil(b"\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert gate.pool.open == 0


async def test_an_upstream_that_speaks_first_is_not_asked(wire, until):
    """What came before the request cannot be its response; nothing was sent, so one more attempt is made."""
    gate = await wire.gate()
    connections = []

    async def talk(reader, writer):
        connections.append(writer)
        writer.write(b"220 mail.example ESMTP\r\n")

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    pool = gate.pools.lease(Origin("http", "127.0.0.1", server.sockets[0].getsockname()[1]), PoolOptions())
    gate.api.upstream = CompiledUpstream(Target(pool, "a"))
    reply = await gate.ask(POST)
    assert (reply.status, reply.code) in ((502, "upstream_unreachable"), (502, "upstream_invalid"))
    assert len(connections) <= 2
    server.close()
    for writer in connections:
        writer.transport.abort()
    await until(lambda: pool.open == 0)


async def test_a_connection_that_ends_before_its_use_is_made_again(wire, monkeypatch):
    gate = await wire.gate()
    connect = type(gate.pool).connect
    made = []

    async def dying(pool):
        connection = await connect(pool)
        made.append(connection)
        if len(made) == 1:
            connection._transport.abort()
            await asyncio.sleep(0.01)
        return connection

    monkeypatch.setattr(type(gate.pool), "connect", dying)
    assert (await gate.ask(POST)).status == 200
    assert (len(made), len(gate.upstream.received)) == (2, 1)


async def test_an_upstream_that_does_not_read_the_body(wire):
    gate = await wire.gate(write_timeout=0.1)
    gate.upstream.read_bodies = False
    gate.upstream.silence()
    client = await gate.client()
    client.writer.write(b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")

    async def pour():
        while True:
            client.writer.write(b"a" * 65536)
            await client.writer.drain()

    pouring = asyncio.ensure_future(pour())
    try:
        reply = await client.reply()
    finally:
        pouring.cancel()
        await asyncio.gather(pouring, return_exceptions=True)
    assert (reply.status, reply.code) == (504, "upstream_timeout")


async def test_the_time_to_connect_is_shared_by_all_addresses(wire, monkeypatch):
    gate = await wire.gate(pool=PoolOptions(connect=0.4))

    async def addresses(self, host, port, ends):
        return ("192.0.2.1", "127.0.0.1")

    loop = asyncio.get_running_loop()
    connect = type(gate.pool)._open_at

    async def open_at(pool, address, loop):
        if address == "192.0.2.1":
            await asyncio.Event().wait()
        return await connect(pool, address, loop)

    monkeypatch.setattr(type(gate.pool._names), "addresses", addresses)
    monkeypatch.setattr("aiogate.proxy.pool.is_address", lambda host: False)
    monkeypatch.setattr(type(gate.pool), "_open_at", open_at)
    began = loop.time()
    assert (await gate.ask(GET)).status == 200
    assert loop.time() - began >= 0.2


@pytest.mark.parametrize("answer", [None, socket.gaierror(-2, "Name or service not known")])
async def test_a_name_server_that_hangs_or_does_not_know(wire, monkeypatch, answer):
    gate = await wire.gate(pool=PoolOptions(connect=0.05))

    async def look_up(cache, name, loop):
        if answer is None:
            await asyncio.Event().wait()
        raise answer

    monkeypatch.setattr(type(gate.pool._names), "_look_up", look_up)
    pool = gate.pools.lease(Origin("http", "up.example", 80), PoolOptions(connect=0.05))
    gate.api.upstream = CompiledUpstream(Target(pool, "up.example"))
    replies = await asyncio.gather(*[gate.ask(GET) for _ in range(5)])
    told = (504, "upstream_timeout") if answer is None else (502, "upstream_unreachable")
    assert {(reply.status, reply.code) for reply in replies} == {told}
    assert (pool.open, pool.busy) == (0, 0)


async def test_ipv6(wire):
    try:
        server = await asyncio.start_server(lambda reader, writer: None, "::1", 0)
    except OSError:
        pytest.skip("there is no IPv6 here")
    server.close()
    gate = await wire.gate()
    seen = await wire.upstream(host="::1")
    pool = gate.pools.lease(Origin("http", "::1", seen.port), PoolOptions())
    gate.api.upstream = CompiledUpstream(Target(pool, "[::1]"))
    assert (await gate.ask(GET)).body == b"ok"
    assert seen.received[0].values("Host") == ["[::1]"]


async def test_a_socket_of_this_machine(wire, tmp_path):
    gate = await wire.gate()
    seen = await wire.upstream(path=tmp_path / "app.sock")
    pool = gate.pools.lease(Origin("http", "localhost", 80, str(tmp_path / "app.sock")), PoolOptions())
    gate.api.upstream = CompiledUpstream(Target(pool, b"localhost"))
    client = await gate.client()
    for _ in range(3):
        assert (await client.ask(POST)).body == b"ok"
    assert seen.connections == 1
    (tmp_path / "app.sock").unlink(missing_ok=True)
    gone = gate.pools.lease(Origin("http", "localhost", 80, str(tmp_path / "gone.sock")), PoolOptions())
    gate.api.upstream = CompiledUpstream(Target(gone, b"localhost"))
    reply = await gate.ask(GET)
    assert (reply.status, reply.code) == (502, "upstream_unreachable")


# Guarded pools


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_guarded_pool_asks_about_each_address(wire, host):
    asked = []

    def refuse(address, port):
        asked.append((address, port))
        return "" if len(asked) == 1 else "it is where the control API listens"

    gate = await wire.gate()
    gate.pools.refuse = refuse
    port = gate.upstream.port
    pool = gate.pools.lease(Origin("http", host, port), PoolOptions(guarded=True, idle=0.0))
    assert pool is not gate.pools.lease(Origin("http", host, port), PoolOptions(idle=0.0))
    gate.api.upstream = CompiledUpstream(Target(pool, "a"))
    if host == "localhost":
        asked.append(("", 0))
    reply = await gate.ask(GET)
    if host == "127.0.0.1":
        assert reply.status == 200
        gate.upstream.close_after = True
        pool.sweep(float("inf"))
        await gate.upstream.lost.wait()
        reply = await gate.ask(GET)
    assert (reply.status, reply.code) == (502, "upstream_unreachable")
    assert asked[-1] == ("127.0.0.1", port) or host == "localhost"


@pytest.mark.parametrize("found", [("169.254.169.254",), ("127.0.0.1", "169.254.169.254")])
async def test_a_name_is_judged_by_what_it_resolves_to(wire, monkeypatch, found):
    """Whatever it is called (`2130706433`), and although one of its addresses is harmless."""
    gate = await wire.gate()

    async def addresses(self, host, port, ends):
        return found

    monkeypatch.setattr(type(gate.pool._names), "addresses", addresses)
    gate.pools.refuse = lambda address, port: "" if address == "127.0.0.1" else f"{address} is link-local"
    pool = gate.pools.lease(Origin("http", "2130706433", gate.upstream.port), PoolOptions(guarded=True))
    gate.api.upstream = CompiledUpstream(Target(pool, "a"))
    reply = await gate.ask(GET)
    assert (reply.status, reply.code) == (502, "upstream_unreachable")
    assert "169.254" not in reply.body.decode()
    assert not gate.upstream.received


async def test_a_guarded_pool_uses_no_socket_of_this_machine(wire, tmp_path):
    gate = await wire.gate()
    gate.pools.refuse = lambda address, port: ""
    await wire.upstream(path=tmp_path / "docker.sock")
    pool = gate.pools.lease(Origin("http", "localhost", 80, str(tmp_path / "docker.sock")), PoolOptions(guarded=True))
    gate.api.upstream = CompiledUpstream(Target(pool, "a"))
    assert (await gate.ask(GET)).status == 502
