"""From the settings to an engine. An engine is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiogate.clock import Clock
from aiogate.config.redis_url import is_redis_url, parse_redis_url
from aiogate.stores.base import Store, StoreUnavailable

if TYPE_CHECKING:
    from aiogate.config.settings import Settings

__all__ = ["engine_of", "open_store"]


def open_store(settings: Settings, clock: Clock) -> Store:
    """The store that `settings.store` names: `sqlite` (in `state`), `memory` or a Redis. The caller awaits its `open`.

    Raises `StoreUnavailable` for a store that does not exist.
    """
    return engine_of(settings.store)(settings, clock)


def engine_of(url: str) -> Callable[[Settings, Clock], Store]:
    """What makes the store of this name; it is imported, and nothing is opened. Raises `StoreUnavailable`."""
    if url == "memory":
        from aiogate.stores.memory import MemoryStore

        return lambda _, clock: MemoryStore(clock)
    if url == "sqlite":
        from aiogate.stores.sqlite import SqliteStore

        return lambda settings, clock: SqliteStore(settings.state / "aiogate.db", clock)
    if is_redis_url(url):
        from aiogate.stores.redis.store import RedisStore

        return lambda settings, clock: RedisStore(parse_redis_url(url), settings, clock)
    raise StoreUnavailable(f"there is no store {url.partition(':')[0]!r}; there are `sqlite`, `memory` and `redis://…`")
