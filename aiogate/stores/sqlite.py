"""The embedded store: memory in front, one SQLite file behind, exact for one process.

* A session is committed with `synchronous=FULL` before its write returns.
* Counters live in memory and are written behind every 50 ms in one transaction with `synchronous=NORMAL`: after
  `kill -9` at most the last 50 ms of counts are forgotten, and no commit waits for the disk.
* Decisions are written behind as well, bounded, and dropped rather than waited for.

No statement runs on the event loop: there is one thread that writes and one that reads. A batch goes to SQLite as one
JSON array in one statement, because a statement per row would hand the interpreter lock back and forth for each.
A lock on a file beside the database keeps a second gateway away from the same state.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from aiogate.clock import Clock
from aiogate.domain.limits import Counter
from aiogate.domain.session import Record, granted_apis
from aiogate.stores.base import CounterStore, DecisionStore, SessionStore, StoreUnavailable, VaultStore
from aiogate.stores.memory import MemoryCounters
from aiogate.telemetry.decisions import Decision, text_of

__all__ = ["SqliteStore"]

_log = logging.getLogger("aiogate.stores.sqlite")

_T = TypeVar("_T")

_WRITE_BEHIND: Final = 0.05
_PURGE_EVERY: Final = 60.0
_WAITING: Final = 5_000
_BUSY_SECONDS: Final = 2.0
_CHECKED_BYTES: Final = 32 * 1024 * 1024
_OLDEST_SQLITE: Final = (3, 38, 0)

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE sessions (
        name_hash TEXT PRIMARY KEY,
        org TEXT NOT NULL,
        kind TEXT NOT NULL,
        label TEXT NOT NULL,
        document BLOB NOT NULL,
        revision INTEGER NOT NULL,
        delete_at REAL NOT NULL
    );
    CREATE INDEX sessions_by_org ON sessions (org, name_hash);
    CREATE INDEX sessions_by_end ON sessions (delete_at) WHERE delete_at > 0;
    CREATE TABLE grants (
        api TEXT NOT NULL,
        name_hash TEXT NOT NULL REFERENCES sessions (name_hash) ON DELETE CASCADE,
        PRIMARY KEY (api, name_hash)
    ) WITHOUT ROWID;
    CREATE INDEX grants_by_session ON grants (name_hash);
    CREATE TABLE counters (
        key TEXT PRIMARY KEY,
        count INTEGER NOT NULL,
        ends REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE decisions (
        number INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        api TEXT NOT NULL,
        shadow INTEGER NOT NULL,
        decision TEXT NOT NULL
    );
    CREATE INDEX decisions_by_request ON decisions (request_id);
    """,
    """
    CREATE TABLE vault (
        name TEXT PRIMARY KEY,
        document BLOB NOT NULL,
        until REAL NOT NULL
    );
    CREATE INDEX vault_by_end ON vault (until) WHERE until > 0;
    CREATE TABLE vault_groups (
        part TEXT NOT NULL,
        name TEXT NOT NULL REFERENCES vault (name) ON DELETE CASCADE,
        PRIMARY KEY (part, name)
    ) WITHOUT ROWID;
    CREATE INDEX vault_groups_by_name ON vault_groups (name);
    """,
)
"""What turns version n of the schema into n + 1. Entries are added, never changed."""


class SqliteStore:
    """Sessions, counters and decisions in the file `path`, made with mode 0600 when it is not there.

    `decisions` rows of decisions are kept. `trouble` is why the last write behind failed, empty when it did not: what
    could not be written stays in memory and is tried again.
    """

    name = "sqlite"
    needed = True
    peers = None

    def __init__(self, path: Path, clock: Clock, *, decisions: int = 10_000) -> None:
        self._path = path
        self._clock = clock
        self._lock: int | None = None
        self._writer = _Lane("store-writer")
        self._reader = _Lane("store-reader")
        self._sessions = _Sessions(self._writer, self._reader, clock)
        self._counters = _Counters(self._writer)
        self._decisions = _Decisions(self._writer, self._reader, decisions)
        self._vault = _Vault(self._writer, self._reader, clock)
        self._ticking: asyncio.Task[None] | None = None
        self.trouble = ""

    @property
    def sessions(self) -> SessionStore:
        return self._sessions

    @property
    def counters(self) -> CounterStore:
        return self._counters

    @property
    def decisions(self) -> DecisionStore:
        return self._decisions

    @property
    def vault(self) -> VaultStore:
        return self._vault

    async def open(self) -> None:
        """Lock the state, migrate the file, load the counters. Raises `StoreUnavailable` with the reason."""
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreUnavailable(f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or newer is needed")
        try:
            self._lock = _claim(self._path)
            await self._writer.start(self._open_writer)
            await self._reader.start(self._open_reader)
            now = self._clock.now()
            self._counters.load(await self._reader.run(lambda files: _live_counters(files["main"], now)), now)
        except BaseException:
            await self._let_go()
            raise
        self._ticking = asyncio.get_running_loop().create_task(self._write_behind(), name="store-write-behind")
        self._ticking.add_done_callback(_tell_end)

    async def close(self) -> None:
        """Write what is left, fold the journal into the file, and let go of the lock."""
        if self._ticking is None:
            return
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self._ticking = None
        try:
            await self._counters.flush(self._clock.now())
            await self._decisions.flush()
            await self._writer.run(lambda files: files["main"].execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        except StoreUnavailable as trouble:
            _log.error("the last counters and decisions could not be written and are lost: %s", trouble)
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        await self._reader.stop()
        await self._writer.stop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open_writer(self) -> dict[str, sqlite3.Connection]:
        self._path.touch(mode=0o600)
        self._path.chmod(0o600)
        files = {"main": _connect(self._path, "FULL")}
        try:
            _check(files["main"], self._path)
            _migrate(files["main"], self._path)
            files["behind"] = _connect(self._path, "NORMAL")
        except BaseException:
            for file in files.values():
                file.close()
            raise
        return files

    def _open_reader(self) -> dict[str, sqlite3.Connection]:
        file = _connect(self._path, "NORMAL")
        file.execute("PRAGMA query_only=ON")
        return {"main": file}

    async def _write_behind(self) -> None:
        purge_at = 0.0
        while True:
            await asyncio.sleep(_WRITE_BEHIND)
            now = self._clock.now()
            try:
                await self._counters.flush(now)
                await self._decisions.flush()
                if self._clock.monotonic() >= purge_at:
                    purge_at = self._clock.monotonic() + _PURGE_EVERY
                    await self._writer.run(partial(_purge, now))
            except StoreUnavailable as trouble:
                if not self.trouble:
                    _log.error("counters and decisions cannot be written, they wait in memory: %s", trouble)
                self.trouble = str(trouble)
            else:
                if self.trouble:
                    _log.warning("counters and decisions are written again")
                self.trouble = ""


class _Lane:
    """One thread with its own connections; whatever runs there runs in the order of asking."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: ThreadPoolExecutor | None = None
        self._files: dict[str, sqlite3.Connection] = {}

    async def start(self, connect: Callable[[], dict[str, sqlite3.Connection]]) -> None:
        self._thread = ThreadPoolExecutor(1, self._name)

        def open_files() -> None:
            self._files = connect()

        await self._run(open_files)

    async def stop(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None

        def close_files() -> None:
            for file in self._files.values():
                file.close()
            self._files = {}

        await asyncio.get_running_loop().run_in_executor(thread, close_files)
        thread.shutdown(wait=False)

    async def run(self, work: Callable[[dict[str, sqlite3.Connection]], _T]) -> _T:
        """Run `work` in the thread. Raises `StoreUnavailable` for whatever SQLite says."""
        return await self._run(lambda: work(self._files))

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._thread is None:
            raise StoreUnavailable("the store is not open")
        future = asyncio.get_running_loop().run_in_executor(self._thread, _translated, work)
        future.add_done_callback(_seen)
        # Shielded: the work of a caller that goes away is done all the same.
        return await asyncio.shield(future)


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # nobody may be left to ask for it


def _tell_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("writing behind has ended, counters live in memory only", exc_info=task.exception())


def _translated(work: Callable[[], _T]) -> _T:
    try:
        return work()
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(_reason(error)) from error


def _reason(error: sqlite3.Error | OSError) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    for beginning, reason in _REASONS:
        if name.startswith(beginning):
            return f"{reason} ({error})"
    return str(error)


_REASONS: Final = (
    ("SQLITE_FULL", "the disk is full"),
    ("SQLITE_BUSY", "the database is locked by another process"),
    ("SQLITE_READONLY", "the database is read-only"),
    ("SQLITE_CANTOPEN", "the database cannot be opened"),
    ("SQLITE_NOTADB", "the file is not an SQLite database"),
    ("SQLITE_CORRUPT", "the database is damaged"),
    ("SQLITE_IOERR", "the disk failed"),
)


def _claim(path: Path) -> int:
    """Lock the state folder for this process. The lock ends with the process, however it ends."""
    lock_path = path.parent / "aiogate.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"the state folder {path.parent} cannot be used: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(lock, 32).decode("ascii", "replace").strip()
        os.close(lock)
        by = f" (process {holder})" if holder else ""
        raise StoreUnavailable(
            f"another gateway{by} uses the state folder {path.parent}; give each its own with --state"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
    return lock


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, cached_statements=32)
    try:
        file.execute("PRAGMA journal_mode=WAL").fetchall()
        file.execute(f"PRAGMA synchronous={synchronous}")
        file.execute("PRAGMA foreign_keys=ON")
        file.execute("PRAGMA journal_size_limit=16777216")
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def _transaction(file: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    file.execute("BEGIN IMMEDIATE")
    try:
        yield file
        file.execute("COMMIT")
    except BaseException:
        # A full disk rolls back by itself; a second ROLLBACK would hide the reason.
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


def _check(file: sqlite3.Connection, path: Path) -> None:
    """Find damage at the start, where it can be told, as long as the file is small enough to read it all."""
    if path.stat().st_size > _CHECKED_BYTES:
        return
    found = file.execute("PRAGMA quick_check(1)").fetchone()
    if found[0] != "ok":
        raise StoreUnavailable(f"the database {path} is damaged: {found[0]}")


def _migrate(file: sqlite3.Connection, path: Path) -> None:
    with _transaction(file):
        file.execute("CREATE TABLE IF NOT EXISTS schema (version INTEGER NOT NULL)")
        row = file.execute("SELECT version FROM schema").fetchone()
        version = 0 if row is None else int(row[0])
        if version > len(MIGRATIONS):
            raise StoreUnavailable(
                f"the database {path} has schema {version}, made by a newer aiogate; this one knows {len(MIGRATIONS)}"
            )
        for migration in MIGRATIONS[version:]:
            for statement in migration.split(";"):
                file.execute(statement)
        if version < len(MIGRATIONS):
            file.execute("DELETE FROM schema")
            file.execute("INSERT INTO schema VALUES (?)", (len(MIGRATIONS),))


def _live_counters(file: sqlite3.Connection, now: float) -> list[tuple[str, int, float]]:
    return file.execute("SELECT key, count, ends FROM counters WHERE ends = 0 OR ends > ?", (now,)).fetchall()


def _purge(now: float, files: dict[str, sqlite3.Connection]) -> None:
    with _transaction(files["behind"]) as file:
        file.execute("DELETE FROM sessions WHERE delete_at > 0 AND delete_at <= ?", (now,))
        file.execute("DELETE FROM counters WHERE ends > 0 AND ends <= ?", (now,))
        file.execute("DELETE FROM vault WHERE until > 0 AND until <= ?", (now,))


_COLUMNS: Final = "name_hash, org, kind, label, document, revision, delete_at"


class _Sessions:
    """Records in the table `sessions`; `grants` has a row for each API that a document grants directly."""

    def __init__(self, writer: _Lane, reader: _Lane, clock: Clock) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock

    async def get(self, name_hash: str) -> Record | None:
        now = self._clock.now()
        query = f"SELECT {_COLUMNS} FROM sessions WHERE name_hash = ? AND (delete_at = 0 OR delete_at > ?)"  # noqa: S608
        row = await self._reader.run(lambda files: files["main"].execute(query, (name_hash, now)).fetchone())
        return None if row is None else Record(*row)

    async def put(self, record: Record) -> None:
        apis = orjson.dumps(sorted(granted_apis(record.document))).decode()

        def write(files: dict[str, sqlite3.Connection]) -> None:
            with _transaction(files["main"]) as file:
                file.execute(
                    f"INSERT INTO sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, 1, ?) "  # noqa: S608
                    "ON CONFLICT (name_hash) DO UPDATE SET org = excluded.org, kind = excluded.kind, "
                    "label = excluded.label, document = excluded.document, revision = revision + 1, "
                    "delete_at = excluded.delete_at",
                    (record.name_hash, record.org, record.kind, record.label, record.document, record.delete_at),
                )
                file.execute("DELETE FROM grants WHERE name_hash = ?", (record.name_hash,))
                file.execute("INSERT INTO grants SELECT value, ? FROM json_each(?)", (record.name_hash, apis))

        await self._writer.run(write)

    async def delete(self, name_hash: str) -> bool:
        now = self._clock.now()

        def write(files: dict[str, sqlite3.Connection]) -> bool:
            with _transaction(files["main"]) as file:
                query = "SELECT 1 FROM sessions WHERE name_hash = ? AND (delete_at = 0 OR delete_at > ?)"
                found = file.execute(query, (name_hash, now)).fetchone() is not None
                file.execute("DELETE FROM sessions WHERE name_hash = ?", (name_hash,))
            return found

        return await self._writer.run(write)

    async def page(
        self, *, org: str | None = None, api: str | None = None, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        where, values = self._filter(org, api, prefix)
        query = f"SELECT {_COLUMNS} FROM sessions WHERE {where} AND name_hash > ? ORDER BY name_hash LIMIT ?"  # noqa: S608
        values = [*values, after, max(0, limit)]
        rows = await self._reader.run(lambda files: files["main"].execute(query, values).fetchall())
        return [Record(*row) for row in rows]

    async def count(self, *, org: str | None = None, api: str | None = None, prefix: str = "") -> int:
        where, values = self._filter(org, api, prefix)
        query = f"SELECT count(*) FROM sessions WHERE {where}"  # noqa: S608
        row = await self._reader.run(lambda files: files["main"].execute(query, values).fetchone())
        return int(row[0])

    async def organisations(self) -> Sequence[str]:
        query = "SELECT DISTINCT org FROM sessions WHERE delete_at = 0 OR delete_at > ? ORDER BY org"
        now = self._clock.now()
        rows = await self._reader.run(lambda files: files["main"].execute(query, (now,)).fetchall())
        return [row[0] for row in rows]

    def _filter(self, org: str | None, api: str | None, prefix: str) -> tuple[str, list[Any]]:
        where = ["(delete_at = 0 OR delete_at > ?)"]
        values: list[Any] = [self._clock.now()]
        if org is not None:
            where.append("org = ?")
            values.append(org)
        if api is not None:
            where.append("name_hash IN (SELECT name_hash FROM grants WHERE api = ?)")
            values.append(api)
        if prefix:
            where.append("substr(label, 1, ?) = ?")
            values += [len(prefix), prefix]
        return " AND ".join(where), values


class _Counters(MemoryCounters):
    """Counters in memory, with those that changed since the last write behind."""

    def __init__(self, writer: _Lane) -> None:
        super().__init__()
        self._writer = writer
        self._dirty: dict[str, Counter] = {}
        self._writing = asyncio.Lock()

    def load(self, rows: Sequence[tuple[str, int, float]], now: float) -> None:
        """Begin with what the file holds."""
        for key, count, ends in rows:
            self._keep(key, None, Counter(count, ends), now)
        self._dirty = {}

    async def flush(self, now: float) -> None:
        """Write what changed. What cannot be written is kept for the next time."""
        async with self._writing:
            if not self._dirty:
                return
            batch, self._dirty = self._dirty, {}
            try:
                await self._writer.run(lambda files: _write_counters(files["behind"], batch, now))
            except StoreUnavailable:
                for key in batch:
                    counter = self._live.get(key)
                    if counter is not None:
                        self._dirty[key] = counter
                raise

    async def reset(self, keys: Sequence[str]) -> None:
        # The lock keeps a batch that still holds the old counts from being written after they were deleted.
        async with self._writing:
            await super().reset(keys)
            text = orjson.dumps(list(keys)).decode()
            query = "DELETE FROM counters WHERE key IN (SELECT value FROM json_each(?))"
            await self._writer.run(lambda files: files["main"].execute(query, (text,)).fetchall())


def _write_counters(file: sqlite3.Connection, batch: dict[str, Counter], now: float) -> None:
    rows = [(key, count, ends) for key, (count, ends) in batch.items() if not ends or ends > now]
    with _transaction(file):
        # `WHERE true`: without it, SQLite takes ON CONFLICT for a join.
        file.execute(
            "INSERT INTO counters SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true "
            "ON CONFLICT (key) DO UPDATE SET count = excluded.count, ends = excluded.ends",
            (orjson.dumps(rows).decode(),),
        )


class _Decisions:
    """Decisions on their way to the table, at most `_WAITING` of them, and the last `capacity` in it."""

    def __init__(self, writer: _Lane, reader: _Lane, capacity: int) -> None:
        self._writer = writer
        self._reader = reader
        self._capacity = capacity
        self._waiting: deque[Decision] = deque()
        self._writing = asyncio.Lock()
        self.dropped = 0

    def append(self, decision: Decision) -> None:
        if len(self._waiting) < _WAITING:
            self._waiting.append(decision)
        else:
            self.dropped += 1

    async def get(self, request_id: str) -> Decision | None:
        await self.flush()
        # What a shadow rule would have refused is not why the request was refused.
        query = "SELECT decision FROM decisions WHERE request_id = ? ORDER BY shadow, number DESC LIMIT 1"
        row = await self._reader.run(lambda files: files["main"].execute(query, (request_id,)).fetchone())
        return None if row is None else Decision(**orjson.loads(row[0]))

    async def latest(
        self, limit: int = 100, *, api: str | None = None, shadow: bool | None = None
    ) -> Sequence[Decision]:
        await self.flush()
        query = (
            "SELECT decision FROM decisions WHERE (?1 IS NULL OR api = ?1) AND (?2 IS NULL OR shadow = ?2) "
            "ORDER BY number DESC LIMIT ?3"
        )
        values = (api, shadow, max(0, limit))
        rows = await self._reader.run(lambda files: files["main"].execute(query, values).fetchall())
        return [Decision(**orjson.loads(row[0])) for row in rows]

    async def flush(self) -> None:
        """Write what waits. What cannot be written waits on, as far as there is room."""
        async with self._writing:
            if not self._waiting:
                return
            batch, self._waiting = self._waiting, deque()
            try:
                await self._writer.run(lambda files: _write_decisions(files["behind"], batch, self._capacity))
            except StoreUnavailable:
                batch.extend(self._waiting)
                self._waiting = deque(islice(batch, _WAITING))
                self.dropped += len(batch) - len(self._waiting)
                raise


def _write_decisions(file: sqlite3.Connection, batch: Sequence[Decision], capacity: int) -> None:
    kept = islice(batch, max(0, len(batch) - capacity), None)
    rows = [(decision.request_id, decision.api, int(decision.shadow), text_of(decision)) for decision in kept]
    with _transaction(file):
        file.execute(
            "INSERT INTO decisions (request_id, api, shadow, decision) "
            "SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)",
            (orjson.dumps(rows).decode(),),
        )
        file.execute(
            "DELETE FROM decisions WHERE number <= (SELECT max(number) FROM decisions) - ?",
            (capacity,),
        )


_IN_TIME: Final = "(until = 0 OR until > ?)"


class _Vault:
    """Documents in the table `vault`; what has to be one step is one transaction of the writing thread."""

    def __init__(self, writer: _Lane, reader: _Lane, clock: Clock) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock

    async def get(self, name: str) -> bytes | None:
        now = self._clock.now()
        return await self._reader.run(lambda files: _document(files["main"], name, now))

    async def put(self, name: str, document: bytes, *, until: float = 0.0, groups: Sequence[str] = ()) -> None:
        parts = orjson.dumps(sorted(set(groups))).decode()

        def write(files: dict[str, sqlite3.Connection]) -> None:
            with _transaction(files["main"]) as file:
                file.execute("DELETE FROM vault WHERE name = ?", (name,))
                file.execute("INSERT INTO vault VALUES (?, ?, ?)", (name, document, until))
                file.execute("INSERT INTO vault_groups SELECT value, ? FROM json_each(?)", (name, parts))

        await self._writer.run(write)

    async def swap(self, name: str, document: bytes, *, until: float = 0.0) -> bytes | None:
        now = self._clock.now()

        def write(files: dict[str, sqlite3.Connection]) -> bytes | None:
            with _transaction(files["main"]) as file:
                before = _document(file, name, now)
                if before is not None:
                    file.execute("UPDATE vault SET document = ?, until = ? WHERE name = ?", (document, until, name))
            return before

        return await self._writer.run(write)

    async def take(self, name: str) -> bytes | None:
        now = self._clock.now()

        def write(files: dict[str, sqlite3.Connection]) -> bytes | None:
            with _transaction(files["main"]) as file:
                before = _document(file, name, now)
                file.execute("DELETE FROM vault WHERE name = ?", (name,))
            return before

        return await self._writer.run(write)

    async def page(self, group: str, *, after: str = "", limit: int = 100) -> Sequence[tuple[str, bytes]]:
        query = (
            "SELECT vault.name, document FROM vault_groups JOIN vault USING (name) "  # noqa: S608
            f"WHERE part = ? AND vault_groups.name > ? AND {_IN_TIME} ORDER BY vault_groups.name LIMIT ?"
        )
        values = (group, after, self._clock.now(), max(0, limit))
        rows = await self._reader.run(lambda files: files["main"].execute(query, values).fetchall())
        return [(name, document) for name, document in rows]


def _document(file: sqlite3.Connection, name: str, now: float) -> bytes | None:
    query = f"SELECT document FROM vault WHERE name = ? AND {_IN_TIME}"  # noqa: S608
    row = file.execute(query, (name, now)).fetchone()
    return None if row is None else bytes(row[0])
