"""The running gateway: how a generation replaces another, what is refused, what is left behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import stat
import threading
from pathlib import Path

import orjson
import pytest

from aiogate.chain.compile import Compiler
from aiogate.config import loader
from aiogate.config.definition import Definition
from aiogate.errors import DiagnosticsFound
from aiogate.testing import FakeClock, RecordingUpstream, recording_upstream, running_gateway
from aiogate.testing.gateway import write_files


def api(name: str, body: str = "x") -> dict[str, str]:
    return {f"apis.d/{name}.yaml": f"{{listen: /{name}/, auth: none, plugins: [mock: {body}]}}"}


async def test_a_verdict_names_what_changed() -> None:
    async with running_gateway({**api("a"), **api("b"), **api("c")}) as gateway:
        before = dict(gateway.gateway.current.table.apis)
        gateway.remove("apis.d/c.yaml")
        verdict = await gateway.reload({**api("b", "changed"), **api("d")})
        change = verdict.changed
        assert (verdict.ok, verdict.generation) == (True, 2)
        assert (change.added, change.changed, change.removed, change.policies) == (("d",), ("b",), ("c",), False)
        after = gateway.gateway.current.table.apis
        assert after["a"] is before["a"], "what did not change is carried over as it is"
        assert (await gateway.reload({"policies.d/p.yaml": "{access: {a: {}}}"})).changed.policies


async def test_a_refused_reload_changes_nothing_and_is_shown() -> None:
    async with running_gateway(api("a")) as gateway:
        table = gateway.gateway.current.table
        verdict = await gateway.reload({"apis.d/a.yaml": "listen: /a/\nauth: nine\n", "apis.d/b.yaml": "listen: ["})
        assert (verdict.ok, verdict.generation) == (False, 1)
        assert {Path(one.file).name for one in verdict.diagnostics} == {"a.yaml", "b.yaml"}
        assert gateway.gateway.current.table is table
        status = (await gateway.dashboard("GET", "/api/system/status")).json
        assert (status["generation"], status["last_reload"]["ok"]) == (1, False)
        gateway.remove("apis.d/b.yaml")
        assert (await gateway.reload(api("a"))).generation == 2


async def test_65_one_bad_api_among_a_hundred() -> None:
    names = [f"n{number}" for number in range(100)]
    async with running_gateway({name: text for one in names for name, text in api(one, "old").items()}) as gateway:
        table = gateway.gateway.current.table
        changed = {name: text for one in names for name, text in api(one, "new").items()}
        verdict = await gateway.reload({**changed, "apis.d/n50.yaml": "listen: /n50/\nauth: nine\n"})
        assert (verdict.ok, {Path(one.file).name for one in verdict.diagnostics}) == (False, {"n50.yaml"})
        assert gateway.gateway.current.table is table
        assert {(await gateway.get(f"/{one}/")).body for one in names} == {b"old"}
        assert (await gateway.reload(changed)).ok
        assert {(await gateway.get(f"/{one}/")).body for one in names} == {b"new"}


@pytest.mark.slow
async def test_66_of_five_thousand_files_only_those_that_changed_are_parsed_and_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: the figures are those of `make bench`."""
    write_files(tmp_path, {name: text for number in range(5_000) for name, text in api(f"n{number}").items()})
    parsed: list[str] = []
    compiled: list[str] = []
    elsewhere: list[bool] = []
    examine, compile_one = loader.examine, Compiler.compile

    def parse(file: str, data: bytes) -> object:
        parsed.append(Path(file).name)
        elsewhere.append(threading.current_thread() is not threading.main_thread() and not gc.isenabled())
        return examine(file, data)

    def compile_(compiler: Compiler, definition: Definition) -> object:
        compiled.append(definition.id)
        return compile_one(compiler, definition)

    async with running_gateway({}, folder=tmp_path) as gateway:
        monkeypatch.setattr(loader, "examine", parse)
        monkeypatch.setattr(Compiler, "compile", compile_)
        assert (await gateway.reload()).ok
        assert (parsed, compiled) == ([], [])
        verdict = await gateway.reload({**api("n7", "new"), **api("n4999", "new")})
        assert verdict.changed.changed == ("n4999", "n7")
        assert (sorted(parsed), sorted(compiled)) == (["n4999.yaml", "n7.yaml"], ["n4999", "n7"])
        assert not (await gateway.reload({"apis.d/n8.yaml": "listen: ["})).ok
        assert sorted(compiled) == ["n4999", "n7"]
        assert (await gateway.get("/n7/")).body == b"new"
        assert all(elsewhere), "in a thread, and without the collector"
        async with asyncio.timeout(10):
            while not gc.isenabled():
                await asyncio.sleep(0.01)


async def test_reloads_that_are_asked_for_together_share_one() -> None:
    async with running_gateway(api("a")) as gateway:
        verdicts = await asyncio.gather(*(gateway.gateway.reload("test") for _ in range(50)))
        assert {verdict.generation for verdict in verdicts} == {2}
        running = gateway.gateway.reload("test")
        await asyncio.sleep(0)
        late = await asyncio.gather(*(gateway.gateway.reload("test") for _ in range(50)))
        assert (await running).generation == 3
        assert {verdict.generation for verdict in late} == {4}, "a reload that began earlier may have read too early"


async def test_settings_that_need_a_start_are_named_and_not_applied(tmp_path: Path) -> None:
    files = {"aiogate.yaml": "limits: {connections: 50}", **api("a")}
    async with running_gateway(files, folder=tmp_path) as gateway:
        verdict = await gateway.reload({"aiogate.yaml": "{limits: {connections: 60}, quota_status: 429}"})
        assert verdict.changed.restart_needed == ("limits",)
        assert gateway.gateway.settings.limits.connections == 50
        assert gateway.gateway.settings.quota_status == 429


async def test_a_request_ends_on_the_generation_that_it_began_with() -> None:
    asked, finish = asyncio.Event(), asyncio.Event()
    async with recording_upstream() as upstream, running_gateway(proxied(upstream)) as gateway:

        async def slowly(received: object) -> object:
            from aiohttp import web

            asked.set()
            await finish.wait()
            return web.Response(body=b"old")

        upstream.answer = slowly  # type: ignore[assignment]
        waiting = asyncio.create_task(gateway.get("/a/"))
        await asked.wait()
        old = gateway.gateway.current.table.apis["a"]
        assert (await gateway.reload(api("a", "new"))).ok
        assert (await gateway.get("/a/")).body == b"new"
        assert (old.lease.active, old.lease.retired) == (1, True)
        finish.set()
        assert (await waiting).body == b"old"
        assert old.lease.active == 0


def proxied(upstream: RecordingUpstream) -> dict[str, str]:
    return {"apis.d/a.yaml": f"{{listen: /a/, auth: none, upstream: '{upstream.url}'}}"}


async def test_secrets_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        async with running_gateway(api("a"), folder=tmp_path, store="sqlite") as gateway:
            seen.append((gateway.secret, gateway.access_key))
            running = orjson.loads((tmp_path / "var/run.json").read_bytes())
            assert running["control"] == gateway.control_url
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 2
    for name in ("control.secret", "dashboard.key"):
        assert stat.S_IMODE((tmp_path / "var" / name).stat().st_mode) == 0o600
    assert not (tmp_path / "var/run.json").exists()


async def test_a_secret_of_ones_own(tmp_path: Path) -> None:
    async with running_gateway(
        api("a"), folder=tmp_path, control__secret="a secret of 16 chars".replace(" ", "-")
    ) as own:
        assert (await own.tyk("GET", "/tyk/keys")).status == 200
        assert not (tmp_path / "var/control.secret").exists()


@pytest.mark.parametrize("which", ["listen", "control__listen"])
async def test_an_address_that_is_taken(which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DiagnosticsFound, match=f"{address}:0:0: {address} cannot be bound: .*is another gateway"):
            async with running_gateway(api("a"), **{which: address}):  # type: ignore[arg-type]
                pass


async def test_a_state_that_another_gateway_uses(tmp_path: Path) -> None:
    async with running_gateway(api("a"), folder=tmp_path, store="sqlite"):
        with pytest.raises(DiagnosticsFound) as found:
            async with running_gateway(api("a"), folder=tmp_path, store="sqlite"):
                pass
    assert [one.code for one in found.value.diagnostics] == ["store_unavailable"]


async def test_inactive_apis_are_read_and_not_served() -> None:
    off = {"apis.d/off.yaml": "{listen: /off/, auth: none, active: false, plugins: [mock: x]}"}
    async with running_gateway({**api("a"), **off}) as gateway:
        assert (await gateway.get("/off/")).status == 404
        verdict = await gateway.reload({"apis.d/off.yaml": "{listen: /off/, auth: none, active: false, plugin: []}"})
        assert [one.code for one in verdict.diagnostics] == ["unknown_key"]


async def test_health_is_averaged_over_the_time_that_passed() -> None:
    clock = FakeClock()
    files = {"apis.d/a.yaml": "{listen: /a/, auth: key, plugins: [mock: x, rate_limit: 4/1h]}"}
    async with running_gateway(files, clock=clock) as gateway:
        key = await gateway.create_key("a")
        for token in (key, key, "nobody", key, key, key, key, key):
            await gateway.get("/a/", key=token)
        clock.advance(4)
        health = (await gateway.tyk("GET", "/tyk/health?api_id=a")).json
        assert health["average_requests_per_second"] == 2.0
        assert health["throttle_reqests_per_second"] == 0.75
        assert health["key_failures_per_second"] == 0.25


async def test_routes_and_chains_are_shown() -> None:
    files = {
        **api("a"),
        "apis.d/b.yaml": "{listen: {path: /a/b/, host: b.example}, auth: [basic, key], upstream: 'http://127.0.0.1:9/'}",
    }
    async with running_gateway(files) as gateway:
        shown = (await gateway.tyk("GET", "/tyk/routes?path=/a/b/c&host=b.example")).json
        assert [route["api"] for route in shown["routes"]] == ["a", "b"]
        assert (shown["match"]["api"], shown["match"]["tail"]) == ("b", "/c")
        assert (await gateway.tyk("GET", "/tyk/routes?path=/a/b/c")).json["match"]["api"] == "a"
        assert (await gateway.tyk("GET", "/tyk/routes?path=/x")).json["match"]["api"] == ""
        assert "refused" in (await gateway.tyk("GET", "/tyk/routes?path=/a/../x")).json["match"]["reason"]
        [chain] = (await gateway.tyk("GET", "/tyk/chains/b")).json
        assert [step["name"] for step in chain["steps"]] == ["auth", "access", "limits", "reverse_proxy"]
        assert (await gateway.tyk("GET", "/tyk/chains/nothing")).status == 404
