"""The engines that the contract suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aiogate.stores.base import Store
from aiogate.stores.memory import MemoryStore
from aiogate.stores.sqlite import SqliteStore
from aiogate.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def _memory(folder: Path, clock: FakeClock) -> Store:
    return MemoryStore(clock)


def _sqlite(folder: Path, clock: FakeClock) -> Store:
    return SqliteStore(folder / "aiogate.db", clock)


ENGINES: dict[str, Callable[[Path, FakeClock], Store]] = {"memory": _memory, "sqlite": _sqlite}


@pytest.fixture(params=sorted(ENGINES))
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    """An open store of each engine."""
    store = ENGINES[request.param](tmp_path, clock)
    await store.open()
    yield store
    await store.close()
