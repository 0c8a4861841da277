"""`serve --keep-last-good`: a start on files that have mistakes serves those that worked last, and says so."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from aiogate.runtime import last_good
from aiogate.testing import GatewayProcess, running_gateway, subprocess_gateway
from aiogate.testing.gateway import write_files

SECRET = "canary-of-a-secret"
SITE = {
    "apis.d/a.yaml": "{listen: /a/, auth: none, plugins: [mock: one]}",
    "apis.d/secret.yaml": "{listen: /secret/, auth: none, plugins: [mock: '${CANARY}']}",
    "apis.d/own.yaml": "{listen: /own/, auth: none, plugins: [mine]}",
    "policies.d/gold.yaml": "access: {a: {}}\n",
    "plugins/mine/__init__.py": """
        from aiogate import Middleware, MiddlewareKind, Model, Response, Stage, hookimpl
        from pathlib import Path


        class Config(Model):
            pass


        @hookimpl
        def aiogate_middleware():
            return MiddlewareKind("mine", Stage.CACHE, Config, build, answers=True)


        def build(config, context):
            text = (Path(__file__).parent / "page.txt").read_bytes()
            return Middleware(on_request=lambda exchange: Response(200, text))
        """,
    "plugins/mine/page.txt": "a page",
}
Serving = Callable[..., Any]


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    monkeypatch.setenv("CANARY", SECRET)
    return lambda *arguments: subprocess_gateway(tmp_path, *arguments)


async def kept(folder: Path, number: int = 1) -> None:
    """Wait until so many APIs are kept."""
    manifest = folder / "last-good/manifest.json"
    async with asyncio.timeout(10):
        while not manifest.exists() or len(orjson.loads(manifest.read_bytes())["files"]["apis"]) != number:
            await asyncio.sleep(0.02)


async def get(gateway: GatewayProcess, path: str) -> bytes:
    return (await gateway.get(path)).body


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        {"apis.d/a.yaml": "listen: [", "plugins/mine/__init__.py": "1 / 0\n"},
        {"aiogate.yaml": "wrokers: 1\n"},
        {"aiogate.yaml": "state: [\n", "apis.d/a.yaml": "x", "policies.d/gold.yaml": "rate: 5"},
    ],
    ids=["files", "settings", "all"],
)
async def test_a_start_with_mistakes(serving: Serving, tmp_path: Path, broken: dict[str, str]) -> None:
    write_files(tmp_path, {**SITE, "aiogate.yaml": "quota_status: 429\n"})
    async with serving() as gateway:
        await kept(tmp_path / "var", 3)
    write_files(tmp_path, broken)
    with pytest.raises(RuntimeError, match="the gateway ended with 1"):
        async with serving():
            pass

    async with serving("--keep-last-good") as gateway:
        assert [await get(gateway, f"/{name}/") for name in ("a", "secret", "own")] == [
            b"one", SECRET.encode(), b"a page"
        ]  # fmt: skip
        log = gateway.log.read_text()
        assert "the declared files have mistakes, and what is served is the last good generation, of 2" in log
        ready = await gateway.tyk("GET", "/ready")
        assert (ready.status, ready.json["last_reload"]["ok"]) == (200, False)
        assert "the last good generation" in ready.json["fallback"]
        status = (await gateway.dashboard("GET", "/api/system/status")).json
        assert (status["generation"], status["apis"]) == (1, 3)
        assert "the last good generation" in status["fallback"]
        files = {Path(one["file"]).name for one in status["last_reload"]["diagnostics"]}
        assert files <= {Path(name).name for name in broken} | {"own.yaml"}
        assert files
        assert not (await gateway.reload_now()).json["ok"]
        assert (await gateway.dashboard("GET", "/api/system/status")).json["fallback"]

        write_files(
            tmp_path,
            {**SITE, "aiogate.yaml": "", "apis.d/a.yaml": SITE["apis.d/a.yaml"].replace("mock: one", "mock: two")},
        )
        verdict = await gateway.reload_now()
        assert (verdict.status, verdict.json["generation"]) == (200, 2)
        assert await get(gateway, "/a/") == b"two"
        assert "fallback" not in (await gateway.tyk("GET", "/ready")).json


async def test_what_is_kept_is_for_its_owner_and_holds_no_value_of_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", SECRET)
    (tmp_path / "secret").write_text(SECRET)
    site = {
        **SITE,
        "apis.d/secret.yaml": f"{{listen: /s/, auth: none, plugins: [mock: '${{file:{tmp_path}/secret}}']}}",
    }
    async with running_gateway(site, folder=tmp_path) as gateway:
        assert (await gateway.get("/s/")).body == SECRET.encode()
        await kept(tmp_path / "var", 3)
        assert last_good.restore(tmp_path / "var") is not None
    home = tmp_path / "var/last-good"
    found = list(home.rglob("*"))
    assert len(found) > 10
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


async def test_a_reload_writes_what_is_new_and_forgets_what_is_old(tmp_path: Path) -> None:
    files = tmp_path / "var/last-good/files"
    api = {f"apis.d/{name}.yaml": f"{{listen: /{name}/, auth: none, plugins: [mock: x]}}" for name in "abc"}
    async with running_gateway(api, folder=tmp_path) as gateway:
        await kept(tmp_path / "var", 3)
        before = {path.name: path.stat().st_ino for path in files.iterdir()}
        gateway.remove("apis.d/c.yaml")
        assert (await gateway.reload({"apis.d/b.yaml": "{listen: /b/, auth: none, plugins: [mock: y]}"})).ok
        await kept(tmp_path / "var", 2)
        async with asyncio.timeout(5):
            while len(list(files.iterdir())) != 2:
                await asyncio.sleep(0.02)
        after = {path.name: path.stat().st_ino for path in files.iterdir()}
        assert len(after.items() & before.items()) == 1
        assert not (await gateway.reload({"apis.d/b.yaml": "listen: ["})).ok
        await asyncio.sleep(0.1)
        assert {path.name for path in files.iterdir()} == set(after), "a refused reload is not kept"


async def test_what_a_manifest_names_is_on_the_disk_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "var/last-good"
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_relative_to(home):
            synced.append((str(path.relative_to(home)), (home / "manifest.json").exists()))

    monkeypatch.setattr(last_good.os, "fsync", noted)
    async with running_gateway({"apis.d/a.yaml": SITE["apis.d/a.yaml"]}, folder=tmp_path):
        await kept(tmp_path / "var")
        async with asyncio.timeout(10):
            while len(synced) < 4:
                await asyncio.sleep(0.02)
    [copy] = (home / "files").iterdir()
    assert synced == [(f"files/{copy.name}", False), ("files", False), ("manifest.json", True), (".", True)]


async def test_a_copy_that_is_not_whole_is_no_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert last_good.restore(tmp_path / "var") is None
    async with running_gateway({"apis.d/a.yaml": SITE["apis.d/a.yaml"]}, folder=tmp_path):
        await kept(tmp_path / "var")
    home = tmp_path / "var/last-good"
    [copy] = (home / "files").iterdir()
    copy.write_bytes(copy.read_bytes()[:-1])
    assert last_good.restore(tmp_path / "var") is None
    assert "the copy of a.yaml is damaged" in caplog.text
    (home / "manifest.json").write_text("{")
    assert last_good.restore(tmp_path / "var") is None


async def test_a_folder_that_cannot_be_written_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/last-good").write_text("in the way")
    async with running_gateway({"apis.d/a.yaml": SITE["apis.d/a.yaml"]}, folder=tmp_path) as gateway:
        async with asyncio.timeout(5):
            while "could not be kept as the last good one" not in caplog.text:
                await asyncio.sleep(0.01)
        assert (await gateway.reload()).ok
        assert (await gateway.get("/a/")).status == 200


@pytest.mark.slow
async def test_nothing_is_kept_before_the_first_good_start(serving: Serving, tmp_path: Path) -> None:
    write_files(tmp_path, {"apis.d/a.yaml": "listen: ["})
    with pytest.raises(RuntimeError) as ended:
        async with serving("--keep-last-good"):
            pass
    assert "apis.d/a.yaml:2:1: is not YAML" in str(ended.value)
    assert "var:0:0: no generation is kept here (--keep-last-good needs one that has served before)" in str(ended.value)
