"""Start, stop, limits, and what aiohttp's replaced `start` must still do."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys

import pytest

from aiogate.clock import SystemClock
from aiogate.domain.policy import PolicySet
from aiogate.proxy.listener import Door, Listener, ListenerOptions, RuntimeUnfit, check_runtime
from aiogate.proxy.pool import UpstreamPools
from aiogate.proxy.router import Current, RouteTable

GET = b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n"


def bare_listener(**kwargs) -> Listener:
    return Listener(
        Current(RouteTable(1, [], PolicySet(()), 0.0)),
        None,  # type: ignore[arg-type]
        clock=SystemClock(),
        decide=lambda decision: None,
        hello=lambda: (503, b'{"status":"fail"}'),
        pools=UpstreamPools(),
        **kwargs,
    )


async def test_hello_unless_an_api_listens_there(wire):
    gate = await wire.gate()
    reply = await gate.ask(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (reply.status, reply.body) == (200, b'{"status":"pass"}')
    assert reply["X-Request-Id"]
    gate.api.listen_path = "/hello/"
    gate.current.table = RouteTable(2, [gate.api], PolicySet(()), 0.0)
    assert (await gate.ask(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"ok"
    assert (await gate.ask(b"POST /hello HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"ok"


async def test_a_request_finishes_on_the_table_it_started_with(gate):
    gate.upstream.silence()
    client = await gate.client()
    await client.send(GET)
    await gate.upstream.begun.wait()
    gate.current.table = RouteTable(2, [], PolicySet(()), 0.0)
    assert gate.api.seen[0].generation == 1
    assert gate.api.lease.active == 1
    assert (await gate.ask(GET)).status == 404
    await client.close()


async def test_ports_and_sockets(gate):
    listener = bare_listener()
    bound = socket.create_server(("127.0.0.1", 0))
    await listener.start([("127.0.0.1", 0), ("::1", 0)], [Door(bound)])
    try:
        assert [host for host, _ in listener.addresses] == ["127.0.0.1", "::1", "127.0.0.1"]
        assert all(port for _, port in listener.addresses)
        assert listener.addresses[2][1] == bound.getsockname()[1]
        reader, writer = await asyncio.open_connection(*listener.addresses[2])
        writer.write(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        await writer.wait_closed()
    finally:
        await listener.drain(0)


async def test_an_address_in_use_is_an_error_and_leaves_nothing_open(gate):
    listener = bare_listener()
    with pytest.raises(OSError) as raised:
        await listener.start([("127.0.0.1", 0), ("127.0.0.1", gate.port)])
    assert raised.value.errno == errno.EADDRINUSE
    assert listener.addresses == []


async def test_stopping_announces_itself_and_waits_for_those_that_come(gate, until):
    busy, idle = await gate.client(), await gate.client()
    assert "Connection" not in await idle.ask(GET)
    release = asyncio.Event()

    async def answer(request, writer):
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    gate.upstream.answer = answer
    await busy.send(GET)
    await until(lambda: len(gate.upstream.received) == 2)
    port = gate.port
    draining = asyncio.ensure_future(gate.listener.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    release.set()
    reply = await busy.reply()
    assert (reply.body, reply["Connection"]) == (b"ok", "close")
    assert not draining.done(), "an idle connection may have a request on its way"
    reply = await idle.ask(GET)
    assert (reply.body, reply["Connection"]) == (b"ok", "close")
    async with asyncio.timeout(5):
        assert await draining == 0


async def test_the_drain_limit_cuts_what_is_left(gate, until):
    gate.upstream.silence()
    busy, idle = await gate.client(), await gate.client()
    await busy.send(GET)
    await until(lambda: gate.upstream.received and gate.listener.connections == 2)
    async with asyncio.timeout(5):
        assert await gate.listener.drain(0.05) == 1
    assert gate.listener.connections == 0
    assert await idle.rest() == b""
    assert await busy.rest() == b""
    assert gate.api.lease.active == 0
    await until(lambda: gate.pool.open == 0)


async def test_connections_over_the_limit_are_turned_away(wire, until):
    gate = await wire.gate(options=ListenerOptions(connections=2))
    first, second, third = [await gate.client() for _ in range(3)]
    reply = await third.reply()
    assert (reply.status, reply.code, reply["Connection"]) == (503, "overloaded", "close")
    assert [decision.request_id for decision in gate.decisions] == [reply["X-Request-Id"]]
    assert await third.rest() == b""
    assert (await first.ask(GET)).status == 200
    await second.close()
    await until(lambda: gate.listener.connections == 1)
    assert (await gate.ask(GET)).status == 200


async def test_connection_close_is_honoured(gate):
    client = await gate.client()
    reply = await client.ask(b"GET /api/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (reply.body, reply["Connection"]) == (b"ok", "close")
    assert await client.rest() == b""


async def test_bytes_behind_connection_close_are_no_request(gate):
    """In one read the parser refuses all of it; nothing of it is served twice or half."""
    client = await gate.client()
    reply = await client.ask(b"GET /api/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
    assert (reply.status, reply["Connection"]) == (400, "close")
    assert await client.rest() == b""
    assert not gate.upstream.received


async def test_a_parse_error_is_answered_in_its_turn(gate, until):
    gate.upstream.silence()
    client = await gate.client()
    await client.send(GET)
    await gate.upstream.begun.wait()
    (connection,) = gate.listener._clients._open
    for number, data in enumerate([GET, b"nonsense\r\n\r\n"], start=1):
        await client.send(data)
        await until(lambda number=number: len(connection._messages) == number)
    await client.send(GET)
    gate.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    await gate.elapse(31)
    assert [(await client.reply()).status for _ in range(3)] == [504, 200, 400]
    assert await client.rest() == b""


async def test_a_bug_behind_the_listener_ends_one_connection(gate, until, caplog):
    def bug(exchange):
        raise ZeroDivisionError

    gate.api.before = bug
    client = await gate.client()
    await client.send(GET)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await until(lambda: gate.listener.connections == 0)
    assert "a bug ended it" in caplog.text
    caplog.clear()
    assert gate.api.lease.active == 0
    gate.api.before = None
    assert (await gate.ask(GET)).status == 200


async def test_a_stream_of_a_step_that_fails_resets_the_client(gate, wire):
    class Failing:
        length = None
        closed = False

        async def read(self):
            if not self.closed:
                self.closed = True
                return b"part"
            raise ZeroDivisionError

        def close(self):
            self.closed = True

    gate.api.before = lambda exchange: wire.Response(200, Failing())
    client = await gate.client()
    await client.send(GET)
    await client.reader.readuntil(b"part")
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_tasks_and_connections_return_to_the_base(gate, until):
    base = len(asyncio.all_tasks())
    clients = [await gate.client() for _ in range(20)]
    await asyncio.gather(*[client.ask(GET) for client in clients])
    for client in clients:
        await client.close()
    await until(lambda: gate.listener.connections == 0)
    await gate.elapse(61)
    await until(lambda: gate.pool.open == 0)
    await until(lambda: len(asyncio.all_tasks()) <= base)


async def test_an_upgrade_that_waits_for_more_is_cut_in_time(gate, until):
    """The parser stands still behind an upgrade; nothing may grow or hang there."""
    client = await gate.client()
    await client.send(
        b"GET /api/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"x" * 1_000_000
    )
    reply = await client.reply()
    assert reply["Connection"] == "close"
    assert await client.rest() == b""


def test_the_runtime_is_fit():
    check_runtime()


@pytest.mark.parametrize(
    "flags,environment,words",
    [(["-O"], {}, "python -O"), ([], {"AIOHTTP_NO_EXTENSIONS": "1"}, "C parser")],
)
def test_an_unfit_runtime_is_refused(flags, environment, words):
    program = (
        "from aiogate.proxy.listener import Door, check_runtime, RuntimeUnfit\n"
        "try: check_runtime()\n"
        "except RuntimeUnfit as error: print(error)\n"
    )
    import os

    done = subprocess.run(
        [sys.executable, *flags, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert words in done.stdout, done.stderr
    assert issubclass(RuntimeUnfit, Exception)
