"""One writer at a time per name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Locks"]


class Locks:
    """A lock per name, kept only while somebody holds it or waits for it."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        lock, users = self._held.get(name, (None, 0))
        if lock is None:
            lock = asyncio.Lock()
        self._held[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._held[name]
            if users == 1:
                del self._held[name]
            else:
                self._held[name] = (lock, users - 1)
