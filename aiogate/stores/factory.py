"""From the setting `store` to an engine. An engine is imported only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from aiogate.clock import Clock
from aiogate.stores.base import Store, StoreUnavailable

__all__ = ["open_store"]


def open_store(url: str, state: Path, clock: Clock) -> Store:
    """The store that the setting names: `sqlite` (a file in `state`) or `memory`. The caller awaits its `open`.

    Raises `StoreUnavailable` for a store that does not exist.
    """
    if url == "memory":
        from aiogate.stores.memory import MemoryStore

        return MemoryStore(clock)
    if url == "sqlite":
        from aiogate.stores.sqlite import SqliteStore

        return SqliteStore(state / "aiogate.db", clock)
    raise StoreUnavailable(f"there is no store {url.partition(':')[0]!r}; there are `sqlite` and `memory`")
