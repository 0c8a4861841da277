"""Listening sockets, and what happens on a new connection before its first request: a PROXY header, a TLS handshake.

A plain door is the event loop's own server. The others accept here, because what a connection is made with is chosen
when it arrives: the certificates are those of that moment, and a PROXY header comes before the handshake. Both together
may take as long as the header block of a request, and connections that are being admitted are bounded like those that
are open.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiogate.proxy.proxy_protocol import ProxyHeaderBroken, read_source
from aiogate.proxy.requests import is_trusted, normal_address

if TYPE_CHECKING:
    from aiogate.proxy.listener import Clients, ListenerOptions

__all__ = ["BACKLOG", "Admission", "Door"]

_log = logging.getLogger("aiogate.listener")

BACKLOG: Final = 1024
_AT_A_TIME: Final = 16
_SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Door:
    """A bound socket and how connections on it begin. `tls` gives the context for a handshake that begins now."""

    socket: socket.socket
    tls: Callable[[], ssl.SSLContext] | None = None
    proxy_protocol: bool = False

    @property
    def plain(self) -> bool:
        return self.tls is None and not self.proxy_protocol


class Admission:
    """Accepts at one door that is not plain."""

    def __init__(self, door: Door, clients: Clients, options: ListenerOptions, loop: asyncio.AbstractEventLoop) -> None:
        self._door = door
        self._clients = clients
        self._options = options
        self._loop = loop
        self._pause: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True
        door.socket.setblocking(False)
        door.socket.listen(BACKLOG)
        loop.add_reader(door.socket, self._accept)

    def stop_accepting(self) -> None:
        """Close the socket; connections that are being admitted go on."""
        if not self._open:
            return
        self._open = False
        if self._pause is None:
            self._loop.remove_reader(self._door.socket)
            self._accept()  # who waits at the door would be reset by its end
        self._rest_no_more()
        self._door.socket.close()

    async def settled(self, timeout: float) -> None:
        """Wait until nobody is being admitted, and cut what is left after `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_AT_A_TIME):
            try:
                sock, address = self._door.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SCARCE:
                    raise
                self._rest(error)
                return
            sock.setblocking(False)
            if len(self._tasks) >= self._options.connections:
                sock.close()
                continue
            task = self._loop.create_task(self._admit(sock, normal_address(str(address[0]))))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _rest(self, error: OSError) -> None:
        """Out of descriptors or memory: the readiness of the socket would call us in a circle."""
        _log.error("connections wait: %s", error.strerror)
        self._loop.remove_reader(self._door.socket)
        self._pause = self._loop.call_later(_PAUSE, self._loop.add_reader, self._door.socket, self._accept)

    def _rest_no_more(self) -> None:
        if self._pause is not None:
            self._pause.cancel()

    async def _admit(self, sock: socket.socket, peer: str) -> None:
        began = self._loop.time()
        patience = self._options.client_header
        try:
            told = ""
            if self._door.proxy_protocol:
                if not is_trusted(peer, self._options.trusted_proxies):
                    raise ProxyHeaderBroken("not one of trusted_proxies")
                async with asyncio.timeout(patience):
                    told = normal_address(await read_source(sock))
            context = self._door.tls() if self._door.tls is not None else None
            await self._loop.connect_accepted_socket(
                functools.partial(self._clients.connection, told),
                sock,
                ssl=context,
                ssl_handshake_timeout=max(patience - (self._loop.time() - began), 0.1) if context else None,
                ssl_shutdown_timeout=self._options.send_stall if context else None,
            )
        except (OSError, TimeoutError, ProxyHeaderBroken) as error:
            _log.debug("connection from %s not admitted: %s", peer, error or "not in time")
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise
