"""`watch: true`: a reload whenever something that was declared changes on disk.

What has changed is told by a stamp of all files (`config.files.stamp`), never by the notices of the operating system:
those only say when to look. So it works without `watchfiles` too, on folders that are made later, on network drives and
when a symbolic link is moved to another tree, as Kubernetes does. What is not declared (an editor's temporary file)
changes no stamp.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiogate.config import files
from aiogate.runtime.reload import stamp

if TYPE_CHECKING:
    from aiogate.config.settings import Settings
    from aiogate.runtime.gateway import Gateway

__all__ = ["Watcher"]

_log = logging.getLogger("aiogate.reload")
SETTLING: Final = 0.15
"""Seconds without a further change after which files are taken for written."""
LONGEST_SETTLING: Final = 3.0
"""Seconds after which files that never rest are read all the same."""
LOOK: Final = 1.0
"""Seconds between two looks where the operating system does not say that something happened."""
LOOK_IF_TOLD: Final = 2.0
"""Seconds between two looks where it does: it says nothing about folders that are not there yet."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment: the stamp of all that is declared, and those of further files that it names."""

    declared: bytes
    named: Mapping[Path, bytes]

    def differs(self, later: Look) -> bool:
        """Whether something has changed since. That other files are named is none: a load found them there."""
        both = self.named.keys() & later.named.keys()
        return self.declared != later.declared or any(self.named[path] != later.named[path] for path in both)


def look(settings: Settings, named: Iterable[Path] = ()) -> Look:
    certificates = (path for one in settings.listen if one.tls is not None for path in one.tls.files)
    return Look(stamp(settings), files.stamps({*named, *certificates}))


class Watcher:
    """Looks at the files of a gateway. Made before these are read, so that no change is missed."""

    def __init__(self, settings: Settings) -> None:
        self._seen = look(settings)

    async def run(self, gateway: Gateway) -> None:
        """Reload at each change until cancelled."""
        async with aclosing(self._turns(lambda: places(gateway.settings))) as turns:
            async for _ in turns:
                now = await self._looked(gateway)
                if self._seen.differs(now):
                    self._seen = await self._settled(gateway, now)
                    await gateway.reload("watch")
                else:
                    self._seen = now

    async def _looked(self, gateway: Gateway) -> Look:
        named = gateway.generation.declared.secrets if gateway.generation is not None else ()
        return await asyncio.to_thread(look, gateway.settings, named)

    async def _settled(self, gateway: Gateway, seen: Look) -> Look:
        """Wait until the files rest: an editor writes in steps, a checkout many files."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + LONGEST_SETTLING
        while loop.time() < latest:
            await asyncio.sleep(SETTLING)
            now = await self._looked(gateway)
            if not seen.differs(now):
                break
            seen = now
        return seen

    async def _turns(self, folders: Callable[[], list[Path]]) -> AsyncGenerator[None, None]:
        """When to look."""
        awatch = notifier()
        while True:
            watched = folders()
            if awatch is None or not watched:
                await asyncio.sleep(LOOK)
                yield
                continue
            patience = int(LOOK_IF_TOLD * 1000)
            told = awatch(
                *watched, watch_filter=None, debounce=100, step=20, rust_timeout=patience, yield_on_timeout=True
            )
            try:
                async with aclosing(told):
                    async for _ in told:
                        yield
                        if folders() != watched:
                            break
            except (OSError, RuntimeError) as error:
                _log.warning("the operating system does not tell changes (%s): files are looked at regularly", error)
                awatch = None


def places(settings: Settings) -> list[Path]:
    """The folders that exist, without symbolic links: a link that leads elsewhere is another place."""
    found = (settings.apis, settings.policies, settings.plugins)
    return sorted({folder.resolve() for folder in found if folder.is_dir()})


def notifier() -> Any:
    """`watchfiles.awatch`, or None where it is not installed."""
    try:
        from watchfiles import awatch
    except ImportError:
        return None
    return awatch
