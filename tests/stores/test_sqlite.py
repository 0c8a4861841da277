"""The embedded store: what survives, what is refused, and what is told."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiogate.config.settings import load_settings
from aiogate.domain.account import stored_name
from aiogate.domain.limits import Bucket, Counter
from aiogate.domain.session import Record
from aiogate.stores.base import StoreUnavailable
from aiogate.stores.factory import open_store
from aiogate.stores.sqlite import SqliteStore
from aiogate.telemetry.decisions import Decision
from aiogate.testing.clock import FakeClock

RATE = Bucket("rate::a", 100, 60, "rate")
QUOTA = Bucket("quota::a", 100, 3600, "quota")


@asynccontextmanager
async def opened(folder: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(folder / "aiogate.db", clock)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def record(name: str = "first") -> Record:
    return Record(stored_name("acme", name), "acme", "key", name, b'{"access_rights":{"login":{}}}')


async def test_everything_is_there_after_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as store:
        await store.sessions.put(record())
        store.counters.take((RATE, QUOTA), clock.now())
        store.counters.take((RATE, QUOTA), clock.now())
        store.decisions.append(Decision("r1", clock.now(), "GET", "/"))
    clock.advance(61)
    async with opened(tmp_path, clock) as store:
        assert await store.sessions.get(record().name_hash) is not None
        assert await store.counters.read(["rate::a", "quota::a"], clock.now()) == [
            None,
            Counter(2, clock.now() - 61 + 3600),
        ]
        assert await store.decisions.get("r1") is not None


async def test_a_reset_counter_stays_reset_after_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as store:
        store.counters.take((QUOTA,), clock.now())
        await store._counters.flush(clock.now())
        await store.counters.reset([QUOTA.key])
    async with opened(tmp_path, clock) as store:
        assert await store.counters.read([QUOTA.key], clock.now()) == [None]


async def test_counts_are_on_disk_within_moments(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as store:
        store.counters.take((QUOTA,), clock.now())
        file = sqlite3.connect(tmp_path / "aiogate.db")
        try:
            async with asyncio.timeout(5):
                while file.execute("SELECT count FROM counters").fetchall() != [(1,)]:
                    await asyncio.sleep(0.01)
        finally:
            file.close()


async def test_the_file_is_for_its_owner_only(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path / "state", clock) as store:
        await store.sessions.put(record())
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert set(modes) >= {"aiogate.db", "aiogate.db-wal", "aiogate.lock"}
    assert set(modes.values()) == {0o600}


async def test_a_second_gateway_on_the_same_state_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock):
        second = SqliteStore(tmp_path / "aiogate.db", clock)
        with pytest.raises(StoreUnavailable, match=rf"another gateway \(process {os.getpid()}\) uses the state folder"):
            await second.open()
        await second.close()
    async with opened(tmp_path, clock):
        pass


async def test_a_file_that_is_no_database_is_told(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "aiogate.db").write_bytes(b"these are not the bytes you are looking for" * 100)
    with pytest.raises(StoreUnavailable, match="not an SQLite database"):
        await SqliteStore(tmp_path / "aiogate.db", clock).open()


async def test_a_damaged_file_is_told(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as store:
        for number in range(200):
            await store.sessions.put(record(f"name{number}"))
    path = tmp_path / "aiogate.db"
    data = bytearray(path.read_bytes())
    data[8192 : len(data) - 4096] = random.Random(1).randbytes(len(data) - 12288)
    path.write_bytes(data)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await SqliteStore(path, clock).open()


async def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"the state folder .* cannot be used"):
        await SqliteStore(tmp_path / "file" / "aiogate.db", clock).open()


async def test_a_newer_schema_is_told(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock):
        pass
    file = sqlite3.connect(tmp_path / "aiogate.db")
    file.execute("UPDATE schema SET version = 99")
    file.commit()
    file.close()
    with pytest.raises(StoreUnavailable, match="schema 99, made by a newer aiogate"):
        await SqliteStore(tmp_path / "aiogate.db", clock).open()


async def test_a_locked_file_refuses_writes_serves_counts_and_recovers(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiogate.stores.sqlite._BUSY_SECONDS", 0.05)
    async with opened(tmp_path, clock) as store:
        await store.sessions.put(record())
        other = sqlite3.connect(tmp_path / "aiogate.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await store.sessions.put(record("second"))
        assert store.counters.take((QUOTA,), clock.now()).admitted  # type: ignore[union-attr]
        assert await store.sessions.get(record().name_hash) is not None
        with pytest.raises(StoreUnavailable):
            await store._counters.flush(clock.now())
        other.execute("ROLLBACK")
        other.close()
        await store._counters.flush(clock.now())
    async with opened(tmp_path, clock) as store:
        assert (await store.counters.read([QUOTA.key], clock.now()))[0] is not None
        assert await store.sessions.get(record("second").name_hash) is None


async def test_a_full_disk_refuses_writes_and_keeps_the_counts(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as store:
        await store.sessions.put(record())

        def fill(files: dict[str, sqlite3.Connection]) -> None:
            for file in files.values():
                pages = file.execute("PRAGMA page_count").fetchone()[0]
                file.execute(f"PRAGMA max_page_count={pages}").fetchall()

        await store._writer.run(fill)
        large = Record(stored_name("acme", "large"), "acme", "key", "x" * 100_000, b"{}")
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await store.sessions.put(large)
        assert await store.sessions.get(large.name_hash) is None
        assert await store.sessions.get(record().name_hash) is not None
        for number in range(5_000):
            store.counters.take((Bucket(f"quota::{number}", 5, 3600, "quota"),), clock.now())
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await store._counters.flush(clock.now())
        await store._writer.run(
            lambda files: [f.execute("PRAGMA max_page_count=100000").fetchall() for f in files.values()]
        )
        await store._counters.flush(clock.now())
    async with opened(tmp_path, clock) as store:
        read = await store.counters.read([f"quota::{number}" for number in range(5_000)], clock.now())
        assert all(counter == Counter(1, clock.now() + 3600) for counter in read)


async def test_a_read_only_file_is_told(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as store:
        await store._writer.run(lambda files: files["main"].execute("PRAGMA query_only=ON"))
        with pytest.raises(StoreUnavailable, match="read-only"):
            await store.sessions.put(record())


async def test_decisions_that_find_no_room_are_counted(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as store:
        for number in range(6_000):
            store.decisions.append(Decision(f"r{number}", clock.now(), "GET", "/"))
        assert store.decisions.dropped == 1_000


async def test_records_past_their_end_leave_the_file(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as store:
        ended = Record(stored_name("acme", "ended"), "acme", "key", "", b"{}", delete_at=clock.now() + 1)
        await store.sessions.put(ended)
        await store.sessions.put(record())
        store.counters.take((RATE,), clock.now())
    clock.advance(61)
    async with opened(tmp_path, clock) as store:
        async with asyncio.timeout(5):
            rows = [(2,), (1,)]
            while rows != [(1,), (0,)]:
                await asyncio.sleep(0.01)
                rows = [
                    await store._reader.run(
                        lambda files, t=table: files["main"].execute(f"SELECT count(*) FROM {t}").fetchone()
                    )
                    for table in ("sessions", "counters")
                ]


async def test_the_factory_knows_its_stores(tmp_path: Path, clock: FakeClock) -> None:
    settings = load_settings(None, {}, {"state": str(tmp_path)})
    for name in ("memory", "sqlite"):
        assert open_store(settings.model_copy(update={"store": name}), clock).name == name
    with pytest.raises(StoreUnavailable, match="no store 'mongodb'"):
        open_store(settings.model_copy(update={"store": "mongodb://secret@host"}), clock)


WRITER = """
import asyncio, sys, time
from pathlib import Path
from aiogate.clock import SystemClock
from aiogate.domain.account import stored_name
from aiogate.domain.limits import Bucket
from aiogate.domain.session import Record
from aiogate.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), SystemClock())
    await store.open()
    quota = Bucket("quota::a", 10**9, 0, "quota")
    number = 0
    while True:
        await store.sessions.put(Record(stored_name("acme", f"name{number}"), "acme", "key", f"name{number}", b"{}"))
        taken = store.counters.take((quota,), time.time())
        print(f"{number} {taken.counters[0].count} {time.monotonic()}", flush=True)
        number += 1

asyncio.run(main())
"""


@pytest.mark.slow
async def test_67_keys_survive_kill_9_and_counts_lose_moments_only(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "aiogate.db"
    writes = counted = 0
    for round_ in range(20):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(60 + 7 * round_)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        told = [line.split() for line in lines if line.endswith("\n")]
        writes = max(writes, int(told[-1][0]) + 1)
        last_count, last_at = int(told[-1][1]), float(told[-1][2])
        # Twice the period: one write may be under way while the next batch fills; a busy machine doubles that.
        old = max((int(count) for _, count, at in told if float(at) < last_at - 0.2), default=counted)
        store = SqliteStore(path, clock)
        await store.open()
        try:
            for number in range(writes):
                assert await store.sessions.get(stored_name("acme", f"name{number}")) is not None
            (counter,) = await store.counters.read(["quota::a"], clock.now())
            counted = counter.count if counter else 0
            assert old <= counted <= last_count + 1
        finally:
            await store.close()
        file = sqlite3.connect(path)
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        file.close()
