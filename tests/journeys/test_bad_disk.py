"""A disk that is full, locked, damaged or cut off in the middle of a write: requests go on, and it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import resource
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiogate.testing import GatewayProcess, RecordingUpstream, running_gateway
from aiogate.testing.client import Reply

Start = Callable[..., Any]
GRANT = {"access_rights": {"api": {}}}


def files(upstream: RecordingUpstream) -> dict[str, str]:
    return {"apis.d/api.yaml": f"{{listen: /api/, auth: key, upstream: '{upstream.url}'}}"}


async def make_key(gateway: GatewayProcess, name: str) -> Reply:
    return await gateway.tyk("POST", f"/tyk/keys/{name}", GRANT)


async def told(gateway: GatewayProcess, text: str) -> None:
    """Wait until the log says so."""
    async with asyncio.timeout(10):
        while text not in gateway.log.read_text():
            await asyncio.sleep(0.02)


@contextmanager
def full_disk(gateway: GatewayProcess) -> Iterator[None]:
    """No file of the gateway can grow beyond what its journal has now: the kernel refuses the write."""
    size = (gateway.folder / "var/aiogate.db-wal").stat().st_size
    before = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def locked(gateway: GatewayProcess) -> Iterator[None]:
    """Another process writes and does not finish."""
    other = sqlite3.connect(gateway.folder / "var/aiogate.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault,reason", [(full_disk, "the disk failed"), (locked, "the database is locked by another process")]
)
async def test_67_no_write_goes_through(start: Start, load: Any, upstream: RecordingUpstream, fault: Any, reason: str):
    """A limit of size on the journal stands for a disk without room; SQLite's own word for it is in tests/stores."""
    open_api = f"{{listen: /open/, auth: none, upstream: '{upstream.url}'}}"
    async with start({**files(upstream), "apis.d/open.yaml": open_api}) as gateway:
        key = await gateway.create_key("api", name="the-known-key", quota_max=100_000)
        assert (await gateway.get("/api/", key=key)).status == 200
        clients = load(gateway)
        clients.send("/open/", clients=4)
        with fault(gateway):
            refused = asyncio.create_task(make_key(gateway, "a-key-that-is-not-kept"))
            for _ in range(50):
                assert (await gateway.get("/api/", key=key)).status == 200
            reply = await refused
            assert (reply.status, reason in reply.text) == (503, True), reply.text
            assert (await gateway.get("/api/", key="a-key-that-is-not-kept")).status == 403, "a look-up needs no write"
            await told(gateway, f"counters and decisions cannot be written, they wait in memory: {reason}")
            await clients.has_answered(20)
        await told(gateway, "counters and decisions are written again")
        assert (await make_key(gateway, "a-key-that-is-kept")).status == 200
        await clients.stop()
        assert clients.failures == []
        gateway.terminate()
        assert await gateway.ended() == 0
        assert "Traceback" not in gateway.log.read_text()
    assert sound(gateway.folder)
    async with start({}) as gateway:
        known = await gateway.get("/api/", key=key)
        assert (known.status, known.headers["X-RateLimit-Remaining"]) == (200, str(100_000 - 52))
        assert (await gateway.get("/api/", key="a-key-that-is-kept")).status == 200
        assert (await gateway.get("/api/", key="a-key-that-is-not-kept")).status == 403


def sound(folder: Path) -> bool:
    with contextlib.closing(sqlite3.connect(folder / "var/aiogate.db")) as file:
        return file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.slow
async def test_67_a_file_that_is_damaged_while_it_is_used(start: Start, upstream: RecordingUpstream) -> None:
    async with start(files(upstream)) as gateway:
        key = await gateway.create_key("api", name="the-known-key")
        await asyncio.gather(*(gateway.create_key("api", name=f"key-number-{number}") for number in range(200)))
        assert (await gateway.get("/api/", key=key)).status == 200
        path = gateway.folder / "var/aiogate.db"
        with contextlib.closing(sqlite3.connect(path)) as other:
            # Everything goes from the journal into the file, and who has read it must read it anew.
            other.execute("PRAGMA user_version=7")
            async with asyncio.timeout(10):
                while other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    await asyncio.sleep(0.02)
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (path.stat().st_size - 4096))
        for _ in range(20):
            assert (await gateway.get("/api/", key=key)).status == 200, "a session in the cache needs no disk"
        unknown = await gateway.get("/api/", key="key-number-7")
        assert (unknown.status, unknown.code) == (503, "store_unavailable")
        written = await make_key(gateway, "one-more-key")
        assert (written.status, "the database is damaged" in written.text) == (503, True), written.text
        assert (await gateway.get("/hello")).status == 200
        gateway.terminate()
        assert await gateway.ended() == 0
    with pytest.raises(RuntimeError, match=r"the gateway ended with 1") as ended:
        async with start({}):
            pass
    assert "aiogate.db is damaged" in str(ended.value) or "the database is damaged" in str(ended.value)
    assert "Traceback" not in str(ended.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "state,said",
    [("/proc/aiogate", "the state folder /proc/aiogate cannot be used"), ("var", "the file is not an SQLite database")],
    ids=["read-only", "no database"],
)
async def test_67_a_start_that_cannot_be(start: Start, tmp_path: Path, state: str, said: str) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/aiogate.db").write_bytes(b"these are not the bytes you are looking for" * 100)
    with pytest.raises(RuntimeError, match="the gateway ended with 1") as ended:
        async with start({"apis.d/a.yaml": "{listen: /a/, auth: none, plugins: [mock: x]}"}, "--state", state):
            pass
    assert said in str(ended.value)
    assert "Traceback" not in str(ended.value)


@pytest.mark.slow
async def test_67_kills_in_the_middle_of_writes(start: Start) -> None:
    """Each kill comes while eight clients make keys; what was confirmed is there, and the file is sound.

    Twenty in a row, with less around them: tests/stores/test_sqlite.py.
    """
    confirmed: set[str] = set()
    site = {"apis.d/api.yaml": "{listen: /api/, auth: key, plugins: [mock: x]}"}
    for run in range(4):
        async with start(site) as gateway:
            enough = asyncio.Event()

            async def write(client: int, run: int = run, gateway: Any = gateway, enough: Any = enough) -> None:
                number = 0
                with contextlib.suppress(Exception):
                    while (reply := await make_key(gateway, f"key-{run}-{client}-{number}")).status == 200:
                        confirmed.add(reply.json["key_hash"])
                        number += 1
                        if number == 1 + run % 4:
                            enough.set()

            writing = [asyncio.create_task(write(client)) for client in range(8)]
            async with asyncio.timeout(20):
                await enough.wait()
            gateway.kill()
            await gateway.ended()
            await asyncio.gather(*writing)
        assert sound(gateway.folder)
    with contextlib.closing(sqlite3.connect(gateway.folder / "var/aiogate.db")) as file:
        kept = {row[0] for row in file.execute("SELECT name_hash FROM sessions")}
    assert len(confirmed) >= 4
    assert confirmed <= kept


async def test_70_an_access_log_on_a_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    """The device refuses every write as a full disk does. Where nobody reads: tests/telemetry/test_access_log.py."""
    api = {"apis.d/a.yaml": "{listen: /a/, auth: none, plugins: [mock: x]}"}
    async with running_gateway(api, access_log__format="json", access_log__file="/dev/full") as gateway:
        async with asyncio.timeout(10):
            while "aiogate_access_log_dropped_total 0\n" in (await gateway.gateway.metrics())():
                assert (await gateway.get("/a/")).status == 200
        for _ in range(20):
            assert (await gateway.get("/a/")).status == 200
    assert caplog.text.count("the access log /dev/full cannot be written, lines are dropped") == 1


@pytest.mark.slow
async def test_83_keys_at_rest(start: Start) -> None:
    """Whoever reads the state folder finds hashes; whoever is not the gateway's user does not read it."""
    async with start({"apis.d/api.yaml": "{listen: /api/, auth: [basic, key], plugins: [mock: x]}"}) as gateway:
        made = [await gateway.create_key("api") for _ in range(20)]
        await gateway.create_key("api", name="a-key-of-ones-own")
        await gateway.create_user("alice", "the-password-of-alice", "api")
        for key in (*made, "a-key-of-ones-own"):
            assert (await gateway.get("/api/", key=key)).status == 200
        assert (await gateway.get("/api/", user=("alice", "the-password-of-alice"))).status == 200
        paths = [path for path in (gateway.folder / "var").rglob("*") if path.is_file()]
        contents = {path: path.read_bytes() for path in paths}
        modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in paths}
        gateway.kill()
    found = [
        (path.name, secret)
        for path, data in contents.items()
        for secret in (*made, "a-key-of-ones-own", "the-password-of-alice")
        if secret.encode() in data
    ]
    assert found == []
    assert any(b"alice" in data for data in contents.values()), "the files that were read are those of the store"
    assert modes.pop("run.json") == "0o644", "where the control port is, and no secret"
    assert {name: mode for name, mode in modes.items() if mode != "0o600"} == {}
    # 128 bits; each place has many digits over twenty keys, so that none of them is made of a time or a number.
    ids = [json.loads(base64.b64decode(key))["id"] for key in made]
    assert {len(bytes.fromhex(one)) for one in ids} == {16}
    assert min(len(set(place)) for place in zip(*ids, strict=True)) > 4
