"""The engines that the contract suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest

from aiogate.clock import Clock
from aiogate.config.redis_url import parse_redis_url
from aiogate.config.settings import load_settings
from aiogate.stores.base import Store
from aiogate.stores.memory import MemoryStore
from aiogate.stores.redis.store import RedisStore
from aiogate.stores.sqlite import SqliteStore
from aiogate.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def _memory(request: pytest.FixtureRequest, clock: FakeClock) -> Store:
    return MemoryStore(clock)


def _sqlite(request: pytest.FixtureRequest, clock: FakeClock) -> Store:
    return SqliteStore(request.getfixturevalue("tmp_path") / "aiogate.db", clock)


def _redis(request: pytest.FixtureRequest, clock: FakeClock) -> Store:
    # A contract is about answers: how soon they come on a busy machine is not.
    return redis_store(request.getfixturevalue("redis_server").url, clock, redis__timeout="10s")


ENGINES: dict[str, Callable[[pytest.FixtureRequest, FakeClock], Store]] = {
    "memory": _memory,
    "redis": _redis,
    "sqlite": _sqlite,
}


def redis_store(url: str, clock: Clock, prefix: str = "", **settings: object) -> RedisStore:
    """A store on a Redis, not opened yet; its keys have a prefix of their own unless one is given."""
    flags = {"store": url, "redis.prefix": prefix or f"{uuid4().hex}:", "redis.timeout": "5s"}
    flags |= {name.replace("__", "."): value for name, value in settings.items()}  # type: ignore[misc]
    return RedisStore(parse_redis_url(url), load_settings(None, {}, flags), clock)


@pytest.fixture(params=sorted(ENGINES))
async def store(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Store]:
    """An open store of each engine."""
    store = ENGINES[request.param](request, clock)
    await store.open()
    yield store
    await store.close()
