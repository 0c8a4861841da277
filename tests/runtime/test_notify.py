"""Word to systemd, heard on a socket of our own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from aiogate.runtime.notify import notify, notify_reloading


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return opened


def test_states_arrive_in_one_message(heard: socket.socket) -> None:
    with heard:
        notify("READY=1", "STATUS=2 workers")
        assert heard.recv(1000) == b"READY=1\nSTATUS=2 workers"
        notify_reloading()
        first, second = heard.recv(1000).decode().split("\n")
        assert first == "RELOADING=1"
        assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


def test_an_abstract_name_begins_with_an_at_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind("\0aiogate-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@aiogate-test-notify")
        notify("STOPPING=1")
        assert opened.recv(1000) == b"STOPPING=1"


def test_nobody_who_listens_is_no_trouble(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert caplog.text == ""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    notify("READY=1")
    assert "systemd could not be told READY=1" in caplog.text
