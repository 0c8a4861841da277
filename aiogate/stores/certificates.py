"""Certificates that several gateways share: documents of the vault, and their ids in memory for requests to look up.

Whoever writes or removes one leaves a new mark; everybody looks at the mark twice a second, and reads the ids again
when it is another, or when that is long ago: whoever should have left a mark may have ended. A gateway that cannot look
for longer than it believes cached sessions knows nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection
from typing import Final

from aiogate.clock import Clock
from aiogate.stores.base import StoreUnavailable, VaultStore

__all__ = ["SharedCertificates"]

_log = logging.getLogger("aiogate.stores")
_GROUP: Final = "certificates"
_MARK: Final = "certificates"
_NAME: Final = "certificate:"
_AT_A_TIME: Final = 200
_SECONDS: Final = 0.5
"""Between two looks at the mark."""
_LONGEST: Final = 30.0
"""Seconds between two readings of the ids, at most."""


class SharedCertificates:
    """Certificates in a vault that others write too. Everything raises `StoreUnavailable`.

    `stale` seconds after the last look nothing is known.
    """

    def __init__(self, vault: VaultStore, clock: Clock, stale: float) -> None:
        self._vault = vault
        self._clock = clock
        self._stale = stale
        self._ids: set[str] = set()
        self._mark: bytes | None = None
        self._looked: float | None = None
        self._read_at = 0.0
        self._turn = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the ids, now and whenever they change. A store may be away for now: it is asked again."""
        await self._try()
        self._following = asyncio.get_running_loop().create_task(self._follow(), name="certificates")

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def known(self) -> Collection[str]:
        if self._looked is None or self._clock.monotonic() - self._looked > self._stale:
            raise StoreUnavailable("which certificates are stored is not known without the store")
        return self._ids

    async def read(self, identifier: str) -> bytes | None:
        return await self._vault.get(_NAME + identifier)

    async def write(self, identifier: str, pem: bytes) -> None:
        async with self._turn:
            await self._vault.put(_NAME + identifier, pem, groups=(_GROUP,))
            await self._leave_mark()
            self._ids.add(identifier)

    async def remove(self, identifier: str) -> None:
        async with self._turn:
            await self._vault.take(_NAME + identifier)
            # Without a mark others do not hear of it, so it counts as there: whoever asked may ask again.
            await self._leave_mark()
            self._ids.discard(identifier)

    async def look(self) -> None:
        """Read the ids again if somebody has left a mark."""
        async with self._turn:
            now = self._clock.monotonic()
            mark = await self._vault.get(_MARK) or b""
            if mark != self._mark or now - self._read_at >= _LONGEST:
                self._ids, self._mark, self._read_at = await self._listed(), mark, now
            self._looked = now

    async def _leave_mark(self) -> None:
        # Not noted as seen: what others wrote since the last look is read with the next one.
        await self._vault.put(_MARK, secrets.token_hex(8).encode())

    async def _listed(self) -> set[str]:
        found: set[str] = set()
        after = ""
        while page := await self._vault.page(_GROUP, after=after, limit=_AT_A_TIME):
            found.update(name.removeprefix(_NAME) for name, _ in page)
            after = page[-1][0]
        return found

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            await self._try()

    async def _try(self) -> None:
        try:
            await self.look()
        except StoreUnavailable as away:
            _log.debug("the stored certificates cannot be read: %s", away)
