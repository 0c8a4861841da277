"""Addresses of host names, so that requests do not wait for name servers.

Each name is looked up once at a time, however many wait. What is older than `_FRESH` is used for as long again while a
new lookup runs beside it, and for `_KEPT` when a lookup fails or hangs: name servers that are away do not take the
upstreams with them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final

__all__ = ["NameCache", "Unreachable", "is_address"]

_FRESH: Final = 30.0
_KEPT: Final = 600.0
_REMEMBERED: Final = 1024

Name = tuple[str, int]


class Unreachable(Exception):
    """No address of the origin took the connection. `timed_out`: because it did not answer in time."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class NameCache:
    """Host names with their addresses."""

    __slots__ = ("_asking", "_known")

    def __init__(self) -> None:
        self._known: dict[Name, tuple[float, tuple[str, ...]]] = {}
        self._asking: dict[Name, asyncio.Task[tuple[str, ...]]] = {}

    async def addresses(self, host: str, port: int, ends: float) -> tuple[str, ...]:
        """The addresses of a name, known by `ends` in the loop's time. Raises `Unreachable`."""
        loop = asyncio.get_running_loop()
        name = (host, port)
        known = self._known.get(name)
        age = loop.time() - known[0] if known is not None else _KEPT
        if known is not None and age < _FRESH:
            return known[1]
        asking = self._ask(name, loop)
        if known is not None and age < 2 * _FRESH:
            return known[1]
        # Not cancelled with who waits: others may wait for it, and its answer is of use later.
        await asyncio.wait((asking,), timeout=max(0.0, ends - loop.time()))
        answered = asking.done() and not asking.cancelled()
        error = asking.exception() if answered else None
        if answered and error is None:
            return asking.result()
        if known is not None and age < _KEPT:
            return known[1]
        if error is not None:
            raise Unreachable(f"{host} does not resolve: {error}") from error
        raise Unreachable(f"{host} did not resolve in time", timed_out=True)

    def _ask(self, name: Name, loop: asyncio.AbstractEventLoop) -> asyncio.Task[tuple[str, ...]]:
        """The lookup of this name that runs, or a new one."""
        asking = self._asking.get(name)
        if asking is not None and asking.get_loop() is loop:
            return asking
        asking = self._asking[name] = loop.create_task(self._look_up(name, loop))
        asking.add_done_callback(lambda done: self._ended(name, done))
        return asking

    async def _look_up(self, name: Name, loop: asyncio.AbstractEventLoop) -> tuple[str, ...]:
        found = await loop.getaddrinfo(*name, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[name] = (loop.time(), addresses)
        return addresses

    def _ended(self, name: Name, task: asyncio.Task[tuple[str, ...]]) -> None:
        if self._asking.get(name) is task:
            del self._asking[name]
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain when nobody waited


def is_address(host: str) -> bool:
    """Whether a host is an address, which needs no lookup."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
