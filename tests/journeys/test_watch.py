"""`watch: true`: what is saved is served, what is broken is told, and temporary files are nobody's business."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aiogate.config import files
from aiogate.config.files import read_bytes
from aiogate.runtime import watch
from aiogate.runtime.reload import READINGS
from aiogate.testing import GatewayFixture, running_gateway
from aiogate.testing.gateway import write_files

PLUGIN = """
from aiogate import Middleware, MiddlewareKind, Model, Response, Stage, hookimpl


class Config(Model):
    pass


@hookimpl
def aiogate_middleware():
    return MiddlewareKind("own", Stage.CACHE, Config, build, answers=True)


def build(config, context):
    return Middleware(on_request=lambda exchange: Response(200, b"{text}"))
"""


def api(name: str, body: str) -> dict[str, str]:
    return {f"apis.d/{name}.yaml": f"{{listen: /{name}/, auth: none, plugins: [mock: {body}]}}"}


@pytest.fixture(params=["told", "looking"])
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to learn of a change, with little patience."""
    if request.param == "looking":
        monkeypatch.setattr(watch, "notifier", lambda: None)
    monkeypatch.setattr(watch, "LOOK", 0.05)
    monkeypatch.setattr(watch, "LOOK_IF_TOLD", 0.5)
    monkeypatch.setattr(watch, "SETTLING", 0.05)
    return str(request.param)


async def until(done: Callable[[], bool], what: str) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while not done():
                await asyncio.sleep(0.01)
    assert done(), what


async def generation(gateway: GatewayFixture, number: int) -> None:
    """Wait until it serves and its verdict is told."""

    def told() -> bool:
        verdict = gateway.gateway.last_reload
        return verdict is not None and verdict.generation >= number

    await until(told, f"there is no generation {number}")


@contextlib.asynccontextmanager
async def watching(files: dict[str, str], folder: Path, **settings: object) -> AsyncIterator[GatewayFixture]:
    async with running_gateway(files, folder=folder, watch=True, **settings) as gateway:
        yield gateway


async def test_each_kind_of_file(quick: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiogate.reload")
    files = {**api("a", "one"), "aiogate.yaml": "quota_status: 403\n", "plugins/own.py": PLUGIN.replace("{text}", "1")}
    own = {"apis.d/own.yaml": "{listen: /own/, auth: none, plugins: [own]}"}
    async with watching(files | own, tmp_path) as gateway:
        gateway.write(api("a", "two"))
        await generation(gateway, 2)
        assert (await gateway.get("/a/")).body == b"two"
        gateway.write({"policies.d/gold.yaml": "access: {a: {}}\n"})
        await generation(gateway, 3)
        gateway.write({"plugins/own.py": PLUGIN.replace("{text}", "2")})
        await generation(gateway, 4)
        assert (await gateway.get("/own/")).body == b"2"
        gateway.write({"aiogate.yaml": "quota_status: 429\n"})
        await generation(gateway, 5)
        assert gateway.gateway.settings.quota_status == 429
        gateway.remove("apis.d/own.yaml")
        await generation(gateway, 6)
        assert (await gateway.get("/own/")).status == 404
    assert "reload by watch: generation 6 serves" in caplog.text


async def test_a_mistake_is_told_and_mended(quick: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(api("a", "one"), tmp_path) as gateway:
        gateway.write({"apis.d/a.yaml": "listen: /a/\nauth: none\nplugin: []\n"})
        await until(lambda: gateway.gateway.last_reload is not None, "nothing was told")
        verdict = gateway.gateway.last_reload
        assert verdict is not None
        assert [(one.line, one.code) for one in verdict.diagnostics] == [(3, "unknown_key")]
        assert "reload by watch refused, generation 1 keeps serving" in caplog.text
        gateway.write(api("a", "two"))
        await generation(gateway, 2)


async def test_what_is_not_declared_is_left_alone(quick: str, tmp_path: Path) -> None:
    async with watching(api("a", "one"), tmp_path) as gateway:
        for name in (".a.yaml.swp", "a.yaml~", "4913", "#a.yaml#", ".#a.yaml", "_draft.yaml", "a.yaml.tmp"):
            (tmp_path / "apis.d" / name).write_text("{")
        (tmp_path / "var/notes.txt").write_text("x")
        await asyncio.sleep(0.7)
        assert gateway.gateway.last_reload is None
        # As vim, and many others, save: the old file aside, a new one in its place.
        (tmp_path / "apis.d/a.yaml").rename(tmp_path / "apis.d/a.yaml~")
        gateway.write(api("a", "two"))
        await generation(gateway, 2)
        await until(lambda: gateway.gateway.last_reload is not None, "nothing was told")
        assert gateway.gateway.last_reload.ok


async def test_a_change_that_keeps_size_and_time_is_seen(quick: str, tmp_path: Path) -> None:
    async with watching(api("a", "one"), tmp_path) as gateway:
        path = tmp_path / "apis.d/a.yaml"
        before = path.stat()
        path.write_text(path.read_text().replace("mock: one", "mock: two"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        await generation(gateway, 2)
        assert (await gateway.get("/a/")).body == b"two"


async def test_a_secret_in_a_file(quick: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("one")
    async with watching(api("a", f"'${{file:{secret}}}'"), tmp_path) as gateway:
        await asyncio.sleep(0.7)
        assert gateway.gateway.last_reload is None, "that a file is named is no change"
        secret.write_text("two")
        await generation(gateway, 2)
        assert (await gateway.get("/a/")).body == b"two"
        gateway.write(api("b", f"'${{file:{tmp_path / 'other'}}}'"))
        await until(lambda: not gateway.gateway.last_reload.ok, "a secret that is missing is a mistake")
        (tmp_path / "other").write_text("three")
        gateway.write(api("c", "x"))
        await generation(gateway, 3)
        await asyncio.sleep(0.7)
        assert gateway.gateway.last_reload.generation == 3


def mounted(folder: Path, number: int) -> None:
    """A new tree behind the link `..data`, as Kubernetes mounts configuration, and the old one removed."""
    tree = folder / f"..{number}"
    write_files(
        tree,
        {"a.yaml": api("a", f"tree {number}")["apis.d/a.yaml"], "b.yaml": api("b", f"tree {number}")["apis.d/b.yaml"]},
    )
    (folder / "..next").symlink_to(tree.name)
    (folder / "..next").replace(folder / "..data")
    for name in ("a.yaml", "b.yaml"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    old = folder / f"..{number - 1}"
    if old.exists():
        for path in old.iterdir():
            path.unlink()
        old.rmdir()


async def test_the_link_of_a_mounted_folder_is_moved(quick: str, tmp_path: Path) -> None:
    mounted(tmp_path / "apis.d", 0)
    async with watching({}, tmp_path) as gateway:
        for number in range(1, 4):
            mounted(tmp_path / "apis.d", number)
            await generation(gateway, number + 1)
            assert [(await gateway.get(f"/{name}/")).body for name in "ab"] == [b"tree %d" % number] * 2
        assert gateway.gateway.last_reload.ok


@pytest.mark.parametrize("moves", [1, READINGS - 1])
async def test_no_reload_sees_half_of_a_moved_link(moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link is moved between the two files, and what was read first is gone."""
    mounted(tmp_path / "apis.d", 0)
    async with running_gateway({}, folder=tmp_path) as gateway:
        mounted(tmp_path / "apis.d", 1)
        moved = 1

        def moving(path: Path) -> bytes:
            nonlocal moved
            data = read_bytes(path)
            if path.name == "a.yaml" and moved <= moves:
                moved += 1
                mounted(tmp_path / "apis.d", moved)
            return data

        monkeypatch.setattr(files, "read_bytes", moving)
        verdict = await gateway.gateway.reload("test")
        assert verdict.ok, verdict.diagnostics
        assert [(await gateway.get(f"/{name}/")).body for name in "ab"] == [b"tree %d" % (moves + 1)] * 2


async def test_files_that_never_rest_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_gateway(api("a", "x"), folder=tmp_path) as gateway:
        readings = 0

        def touched(path: Path) -> bytes:
            nonlocal readings
            readings += 1
            path.write_text(path.read_text() + f"# {readings}\n")
            return read_bytes(path)

        monkeypatch.setattr(files, "read_bytes", touched)
        assert (await gateway.gateway.reload("test")).ok
        assert readings == READINGS
        assert "never rested" in caplog.text


async def test_the_code_that_no_longer_runs_is_forgotten(tmp_path: Path) -> None:
    def loaded() -> set[str]:
        return {name for name in sys.modules if name.startswith("aiogate_plugins_")}

    before = loaded()
    own = {"apis.d/own.yaml": "{listen: /own/, auth: none, plugins: [own]}"}
    async with running_gateway({**own, "plugins/own.py": PLUGIN.replace("{text}", "0")}, folder=tmp_path) as gateway:
        assert len(loaded() - before) == 1
        for number in range(1, 6):
            assert (await gateway.reload({"plugins/own.py": PLUGIN.replace("{text}", str(number))})).ok
            assert (await gateway.get("/own/")).body == b"%d" % number
            assert len(loaded() - before) == 1
        for text in ("1 / 0", "x = 1", PLUGIN.replace('"own"', '"mock"'), PLUGIN + "\nprint(undefined)\n"):
            assert not (await gateway.reload({"plugins/own.py": text})).ok
            assert len(loaded() - before) == 1
        assert (await gateway.get("/own/")).body == b"5"
