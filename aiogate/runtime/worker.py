"""The process: sockets, signals, and an orderly end.

`run` reads as the life of a gateway: assemble, listen, say so, wait for signals, drain, close. SIGHUP reloads. SIGTERM
and SIGINT drain: the listener closes, running requests finish, and each later response on a kept-alive connection says
`Connection: close`; a second signal cuts what is left.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Final

import orjson
from aiohttp import web

from aiogate.chain.run import answer
from aiogate.clock import Clock
from aiogate.config.listening import Listen, named
from aiogate.config.settings import Address, Settings
from aiogate.domain.reach import forbidden_address, is_listener
from aiogate.errors import Diagnostic, DiagnosticsFound, Position
from aiogate.proxy.account import Account
from aiogate.proxy.doors import BACKLOG
from aiogate.proxy.listener import Door, Listener, ListenerOptions, check_runtime
from aiogate.proxy.router import Current
from aiogate.runtime import same_port
from aiogate.runtime.assembly import Place, all_mistakes, assemble
from aiogate.runtime.descriptors import room_for
from aiogate.runtime.gateway import Addresses, Gateway
from aiogate.runtime.last_good import Fallback, keep_each
from aiogate.runtime.notify import notify, notify_reloading
from aiogate.runtime.watch import Watcher
from aiogate.telemetry import logs
from aiogate.telemetry.access_log import AccessLog

__all__ = ["Doors", "serve", "serving"]

_log = logging.getLogger("aiogate")
Doors = Callable[[Gateway], web.Application]
"""Makes the control application of a gateway."""
Bound = tuple[socket.socket, list[socket.socket]]
"""The control API's socket, and the gateway's."""

FallBack = Callable[[DiagnosticsFound], Fallback]
"""From the mistakes of a start to what is served instead. Raises `DiagnosticsFound` where there is nothing."""
NOT_IN_FILES: Final = frozenset(("address_in_use", "store_unavailable", "access_log_unwritable", "worker_failed"))
"""Why a start fails that no other files would mend."""


def serve(read_settings: Callable[[], Settings], doors: Doors, fall_back: FallBack | None = None) -> int:
    """Serve until a signal stops the process. Returns the exit code.

    `read_settings` is called at the start and at every reload, `fall_back` when the start finds mistakes. Raises
    `DiagnosticsFound` when the gateway cannot start, and `RuntimeUnfit` on an interpreter that it must not run on.
    """
    check_runtime()
    logs.configure()
    try:
        settings = read_settings()
    except DiagnosticsFound as some:
        mistakes = asyncio.run(all_mistakes(some))
        if fall_back is None:
            raise mistakes from some
    else:
        try:
            return start(settings, read_settings, doors)
        except DiagnosticsFound as some:
            if fall_back is None or any(one.code in NOT_IN_FILES for one in some.diagnostics):
                raise
            mistakes = some
    fallback = fall_back(mistakes)
    return start(fallback.settings, read_settings, doors, fallback)


def start(
    settings: Settings, read_settings: Callable[[], Settings], doors: Doors, fallback: Fallback | None = None
) -> int:
    """Serve in this process, or be the parent of several that do."""
    if settings.workers > 1:
        from aiogate.runtime import workers

        return workers.supervise(settings, read_settings, doors, fallback)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run(settings, read_settings, doors, fallback))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def run(
    settings: Settings, read_settings: Callable[[], Settings], doors: Doors, fallback: Fallback | None = None
) -> int:
    """The life of a gateway of one process."""
    # Handlers first: a signal during the start must not kill the process, and a reload asked for then is not lost.
    loop = asyncio.get_running_loop()
    stop, cut, hangup = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def stopping() -> None:
        (cut if stop.is_set() else stop).set()

    loop.add_signal_handler(signal.SIGTERM, stopping)
    loop.add_signal_handler(signal.SIGINT, stopping)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    try:
        room, complaint = room_for(settings.limits.connections)
        async with serving(settings, read_settings, doors, cut=cut, fallback=fallback, connections=room) as gateway:
            settled()
            reloads = loop.create_task(_reload_on(hangup, gateway))
            say_ready(gateway.addresses())
            if complaint:
                _log.warning("%s", complaint)
            await stop.wait()
            notify("STOPPING=1")
            reloads.cancel()
            _log.info("draining: %d connections", gateway.connections())
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
    return 0


def settled() -> None:
    """What the start has made is never looked through again: neither now nor in a pause between two requests."""
    gc.freeze()
    gc.enable()


def say_ready(addresses: Addresses) -> None:
    """The one line on standard output."""
    urls = ", ".join(addresses.listen)
    print(f"aiogate ready: gateway {urls}, control {addresses.control}", flush=True)  # noqa: T201
    notify("READY=1")


async def _reload_on(hangup: asyncio.Event, gateway: Gateway) -> None:
    """A reload for every signal; those that arrive while one runs share the next."""
    while True:
        await hangup.wait()
        hangup.clear()
        notify_reloading()
        await gateway.reload("SIGHUP")
        notify("READY=1")


@asynccontextmanager
async def serving(
    settings: Settings,
    read_settings: Callable[[], Settings],
    doors: Doors,
    *,
    clock: Clock | None = None,
    cut: asyncio.Event | None = None,
    fallback: Fallback | None = None,
    connections: int | None = None,
    bound: Bound | None = None,
    place: Place | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway with its sockets open; at the end it drains, at most `timeouts.drain` seconds or until `cut` is set.

    `connections` is how many clients there is room for; None: as many as the settings say. `bound` are sockets that a
    parent has bound, and `place` is that of a worker among several.

    Raises `DiagnosticsFound` when it cannot start.
    """
    # Looked at before anything is read: what changes from now on is a change.
    watcher = Watcher(settings) if settings.watch else None
    control_socket, sockets = bound or bind(settings)
    own = same_port.definitions(control_socket.getsockname()[1]) if settings.control.listen == "same" else ()
    async with AsyncExitStack() as stack:
        for opened in (control_socket, *sockets):
            stack.callback(opened.close)
        gateway = await stack.enter_async_context(assemble(settings, read_settings, clock, own, fallback, place))
        gateway.access_log = access_log(settings)
        if gateway.access_log is not None:
            stack.callback(gateway.access_log.close)
        listener = Listener(
            gateway.current,
            answer,
            clock=gateway.clock,
            decide=gateway.store.decisions.append,
            hello=lambda: hello(gateway),
            pools=gateway.services.upstreams,
            options=listener_options(settings, connections),
            sessions=gateway.sessions,
            account=Account(gateway.services.metrics, gateway.clock, gateway.access_log),
        )
        control = web.AppRunner(doors(gateway), access_log=None, keepalive_timeout=75.0)
        await control.setup()
        try:
            await web.SockSite(control, control_socket).start()
            await listener.start(doors=doors_of(settings.listen, sockets, gateway.current))
            gateway.listen_addresses = tuple(str(Address(*address)) for address in listener.addresses)
            gateway.services.upstreams.refuse = kept_out(settings, control_socket, listener if own else None)
            gateway.control_listener = control_socket.getsockname()[:2]
            schemes = (one.scheme for one in settings.listen)
            gateway.listen_urls = tuple(
                f"{scheme}://{address}" for scheme, address in zip(schemes, gateway.listen_addresses, strict=True)
            )
            private = f"http://{Address(*gateway.control_listener)}"
            gateway.control_url = gateway.listen_urls[0] if own else private
            gateway.private_url = private
            gateway.connections = lambda: listener.connections
            async with AsyncExitStack() as work:
                if place is None:
                    stack.enter_context(run_file(settings, gateway.addresses()))
                    await work.enter_async_context(beside("keeping accepted files", lambda: keep_each(gateway)))
                if watcher is not None:
                    await work.enter_async_context(beside("watching", lambda: watcher.run(gateway)))
                yield gateway
            gateway.draining = True
            await drain(listener, settings.timeouts.drain, cut or asyncio.Event())
        finally:
            await listener.drain(0)
            await control.cleanup()


@asynccontextmanager
async def beside(name: str, work: Callable[[], Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run it as long as the block; it failing is told, and ends nothing."""

    async def logged() -> None:
        try:
            await work()
        except Exception:
            _log.exception("%s has ended", name)

    task = asyncio.create_task(logged())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def kept_out(settings: Settings, control: socket.socket, shared: Listener | None) -> Callable[[str, int], str]:
    """Says why an API that came over HTTP may not be sent to an address and port; nothing where it may.

    `shared` is the listener that serves the control API as well.
    """
    doors = [control.getsockname()[:2], *(shared.addresses if shared is not None else ())]
    private = settings.control.private_upstreams

    def refuse(address: str, port: int) -> str:
        if any(is_listener(address, port, door) for door in doors):
            return f"the control API listens on {address} port {port}"
        return forbidden_address(address, private=private)

    return refuse


def access_log(settings: Settings) -> AccessLog | None:
    """The access log, begun; None: there is none. Raises `DiagnosticsFound` when its file cannot be opened."""
    declared = settings.access_log
    if declared.format == "off":
        return None
    log = AccessLog(declared.file, combined=declared.format == "combined", query=declared.query)
    try:
        log.start()
    except OSError as error:
        message = f"the access log {declared.file} cannot be opened: {error.strerror or error}"
        place = settings.place("access_log", "file")
        raise DiagnosticsFound([Diagnostic.at(place, "access_log_unwritable", message)]) from error
    return log


def bind(settings: Settings) -> Bound:
    """The control API's socket and the gateway's, all bound, before anything is loaded.

    Raises `DiagnosticsFound` with the address that cannot be bound.
    """
    control = Address("127.0.0.1", 0) if settings.control.listen == "same" else settings.control.listen
    opened: list[socket.socket] = []
    wanted: list[tuple[Address, tuple[str | int, ...]]] = [(control, ("control", "listen"))]
    wanted += [(one.address, ("listen", index, "address")) for index, one in enumerate(settings.listen)]
    for address, path in wanted:
        try:
            opened.append(bind_one(address))
        except OSError as error:
            for one in opened:
                one.close()
            raise DiagnosticsFound([not_bound(address, settings.place(*path), error)]) from error
    return opened[0], opened[1:]


def doors_of(listens: Sequence[Listen], sockets: Sequence[socket.socket], current: Current) -> list[Door]:
    """The bound sockets with how connections on them begin. Each handshake asks for the certificates of its moment."""

    def context(name: str) -> ssl.SSLContext:
        return current.tls.servers[name].context

    return [
        Door(sock, functools.partial(context, name) if one.tls is not None else None, one.proxy_protocol)
        for (name, one), sock in zip(named(listens), sockets, strict=True)
    ]


def not_bound(address: Address, place: Position, error: OSError) -> Diagnostic:
    """`place` is where the address was declared; a default, or a flag, stands in no file and is named by itself."""
    message = f"{address} cannot be bound: {error.strerror or error}"
    hint = "is another gateway running?" if error.errno == errno.EADDRINUSE else ""
    return Diagnostic.at(place if place.line else Position(str(address)), "address_in_use", message, hint)


def bind_one(address: Address) -> socket.socket:
    """A socket that is bound and does not listen yet. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    opened = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    opened.setblocking(False)
    return opened


async def drain(listener: Listener, timeout: float, cut: asyncio.Event) -> None:
    """Let the requests finish, until the limit or until a second signal."""
    draining = asyncio.ensure_future(listener.drain(timeout))
    waiting = asyncio.ensure_future(cut.wait())
    await asyncio.wait({draining, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if draining.done():
        lost = draining.result()
    else:
        draining.cancel()
        lost = await listener.drain(0)
    if lost:
        _log.warning("%d requests did not finish in time and were cut", lost)


def hello(gateway: Gateway) -> tuple[int, bytes]:
    """The liveness answer on the gateway's own port; it tells nothing that a stranger could use."""
    return 200, orjson.dumps({"status": "pass", "description": "aiogate"}) + b"\n"


def listener_options(settings: Settings, connections: int | None = None) -> ListenerOptions:
    timeouts, limits = settings.timeouts, settings.limits
    return ListenerOptions(
        trusted_proxies=settings.trusted_proxies,
        client_header=timeouts.client_header,
        client_body=timeouts.client_body,
        keepalive=timeouts.keepalive,
        send_stall=timeouts.send_stall,
        header_bytes=limits.header_bytes,
        connections=limits.connections if connections is None else connections,
    )


@contextmanager
def run_file(settings: Settings, addresses: Addresses) -> Iterator[None]:
    """`<state>/run.json`: how the commands find the running gateway."""
    path = settings.state / "run.json"
    aside = path.with_name(f".run.json.{os.getpid()}")
    running = {
        "pid": os.getpid(),
        "control": addresses.private,
        "listen": addresses.listen,
        "started": addresses.started,
    }
    aside.write_bytes(orjson.dumps(running) + b"\n")
    aside.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
