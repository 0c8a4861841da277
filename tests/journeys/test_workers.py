"""Several workers under one parent, on a real Redis: one gateway to whoever looks at it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from aiohttp import ClientError

from aiogate.testing import GatewayProcess, RecordingUpstream, subprocess_gateway
from aiogate.testing.gateway import write_files

FILES = {
    "apis.d/mocked.yaml": "{listen: /mocked/, auth: none, plugins: [mock: one]}",
    "apis.d/keyed.yaml": "{listen: /keyed/, auth: key, plugins: [mock: in]}",
}
Crew = Callable[..., AbstractAsyncContextManager[GatewayProcess]]


@pytest.fixture
def crew(start: Callable[..., Any], redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> Crew:
    """Starts two workers."""
    monkeypatch.setenv("AIOGATE_REDIS__PREFIX", f"{uuid4().hex}:")
    monkeypatch.setenv("AIOGATE_REDIS__TIMEOUT", "2s")

    def starting(files: Mapping[str, str] = FILES, *arguments: str) -> AbstractAsyncContextManager[GatewayProcess]:
        made: AbstractAsyncContextManager[GatewayProcess] = start(
            files, "--store", redis_server.url, "--workers", "2", *arguments
        )
        return made

    return starting


async def status(gateway: GatewayProcess) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.dashboard("GET", "/api/system/status")).json
    return found


async def workers(gateway: GatewayProcess) -> list[int]:
    found: list[int] = (await status(gateway))["pids"]
    return found


async def until(condition: Callable[[], Any], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
async def test_two_workers_are_one_gateway(crew: Crew, tmp_path: Path) -> None:
    async with crew() as gateway:
        shown = await status(gateway)
        assert (shown["workers"], shown["generation"], len(set(shown["pids"]))) == (2, 1, 2)
        assert gateway.pid not in shown["pids"]
        key = await gateway.create_key("keyed")
        for _ in range(20):
            assert (await gateway.get("/keyed/", key=key)).body == b"in"
        await gateway.revoke(key)

        async def refused() -> bool:
            return {(await gateway.get("/keyed/", key=key)).status for _ in range(8)} == {403}

        await until(refused)
        for _ in range(12):
            assert (await gateway.get("/mocked/")).body == b"one"
        counted = (await gateway.tyk("GET", "/metrics")).text
        assert 'aiogate_requests_total{api="mocked",status="2xx"} 12' in counted
        assert "aiogate_workers 2" in counted
        changed = await gateway.tyk("PUT", "/tyk/log", {"level": "debug", "logger": "aiogate.chain"})
        assert changed.status == 200
        for _ in range(6):
            assert (await gateway.tyk("GET", "/tyk/log")).json["levels"]["aiogate.chain"] == "debug"


@pytest.mark.slow
async def test_all_workers_swap_or_none(crew: Crew, tmp_path: Path) -> None:
    async with crew() as gateway:
        (tmp_path / "apis.d/mocked.yaml").write_text("{listen: /mocked/, auth: none, plugins: [mock: two]}")
        assert (await gateway.reload_now()).status == 200
        assert {(await gateway.get("/mocked/")).body for _ in range(12)} == {b"two"}
        (tmp_path / "apis.d/mocked.yaml").write_text("{listen: /mocked/, auth: nobody, plugins: [mock: no]}")
        refused = await gateway.reload_now()
        assert refused.status == 422
        assert [(found["line"], found["code"]) for found in refused.json["diagnostics"]] == [(1, "plugin_unknown")]
        gateway.hangup()
        # A worker that is born now serves what the others serve, not what is on disk.
        victim = (await workers(gateway))[0]
        os.kill(victim, signal.SIGKILL)

        async def replaced() -> bool:
            pids = await workers(gateway)
            return len(pids) == 2 and victim not in pids

        await until(replaced)
        assert {(await gateway.get("/mocked/")).body for _ in range(12)} == {b"two"}
        (tmp_path / "apis.d/mocked.yaml").write_text("{listen: /mocked/, auth: none, plugins: [mock: three]}")
        assert (await gateway.reload_now()).status == 200
        assert {(await gateway.get("/mocked/")).body for _ in range(12)} == {b"three"}
        assert (await status(gateway))["generation"] == 3


@pytest.mark.slow
async def test_a_mistake_stops_the_start_of_all(crew: Crew) -> None:
    with pytest.raises(RuntimeError, match=r"apis\.d/broken\.yaml:1:\d+: "):
        async with crew({"apis.d/broken.yaml": "{listen: /a/, auth: none}"}):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["whole", "a worker is killed"])
async def test_a_quota_is_exact_over_workers(crew: Crew, killed: bool) -> None:
    async with crew() as gateway:
        key = await gateway.create_key("keyed", quota_max=100, quota_renewal_rate=3600)
        asked = [asyncio.create_task(gateway.get("/keyed/", key=key)) for _ in range(600)]
        if killed:
            await asyncio.wait(asked[:40])
            os.kill((await workers(gateway))[0], signal.SIGKILL)
        replies = await asyncio.gather(*asked, return_exceptions=True)
        statuses = [reply.status for reply in replies if not isinstance(reply, BaseException)]
        assert set(statuses) <= {200, 403}
        if killed:
            assert statuses.count(200) <= 100
        else:
            assert statuses.count(200) == 100


@pytest.mark.slow
async def test_writers_in_two_workers_do_not_see_past_each_other(crew: Crew, tmp_path: Path) -> None:
    async with crew() as gateway:
        assert len(await workers(gateway)) == 2
        for number in range(6):
            classic = [
                {
                    "api_definition": {
                        "api_id": f"n{number}", "name": f"{one}", "use_keyless": True,
                        "version_data": {"not_versioned": True},
                        "proxy": {"listen_path": f"/n{number}/", "target_url": "http://127.0.0.1:9009/"},
                    }
                }
                for one in range(8)
            ]  # fmt: skip
            made = await asyncio.gather(*(gateway.dashboard("POST", "/api/apis", body) for body in classic))
            assert sorted(one.status for one in made) == [200, *[409] * 7], "exactly one makes it"
            native = [
                {"id": f"m{number}-{one}", "listen": f"/m{number}/", "auth": "none", "plugins": [{"mock": "x"}]}
                for one in range(8)
            ]
            made = await asyncio.gather(*(gateway.tyk("POST", "/tyk/apis?format=native", body) for body in native))
            assert sorted(one.status for one in made) == [200, *[400] * 7], "exactly one has the listen path"
            policy = {"id": f"p{number}", "access": {f"n{number}": {}}}
            answers = await asyncio.gather(
                gateway.tyk("POST", "/tyk/policies?format=native", policy),
                gateway.tyk("DELETE", f"/tyk/apis/n{number}"),
            )
            assert sorted(one.status == 200 for one in answers) == [False, True], (
                "either the policy comes or the API goes"
            )
        assert not list(gateway.folder.rglob(".*lock*"))


@pytest.mark.slow
async def test_54_ten_thousand_requests_at_two_gateways_of_two_workers(redis_server: Any, tmp_path: Path) -> None:
    environ = {"AIOGATE_REDIS__PREFIX": f"{uuid4().hex}:", "AIOGATE_REDIS__TIMEOUT": "10s"}
    arguments = ("--store", redis_server.url, "--workers", "2")
    async with AsyncExitStack() as stack:
        gateways = []
        for name in ("one", "two"):
            write_files(tmp_path / name, FILES)
            starting = subprocess_gateway(tmp_path / name, *arguments, environ=environ, within=60)
            gateways.append(await stack.enter_async_context(starting))
        key = await gateways[0].create_key("keyed", quota_max=1000, quota_renewal_rate=3600)
        statuses = await asyncio.gather(*(flood(gateways[number % 2].url, key, 100) for number in range(100)))
        found = Counter(status for part in statuses for status in part)
        assert found == {200: 1000, 403: 9000}
        assert (await gateways[1].tyk("GET", f"/tyk/keys/{key}")).json["quota_remaining"] == 0


async def flood(url: str, key: str, requests: int) -> list[int]:
    """The statuses of so many requests, pipelined on one connection."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"GET /keyed/ HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode() * requests)
    statuses = []
    for _ in range(requests):
        head = await reader.readuntil(b"\r\n\r\n")
        statuses.append(int(head.split()[1]))
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()
    return statuses


@pytest.mark.slow
async def test_twenty_recycles_lose_nothing(crew: Crew, load: Any, upstream: RecordingUpstream) -> None:
    files = {**FILES, "apis.d/proxied.yaml": f"{{listen: /proxied/, auth: none, upstream: '{upstream.url}'}}"}
    async with crew(files) as gateway:
        clients = load(gateway)
        clients.send("/proxied/", "/mocked/", clients=16)
        await clients.has_answered(100)
        for number in range(20):
            pids = await workers(gateway)
            os.kill(pids[number % 2], signal.SIGTERM)

            async def replaced(gone: int = pids[number % 2]) -> bool:
                now = await workers(gateway)
                return len(now) == 2 and gone not in now

            await until(replaced)
            await clients.has_answered(50)
        await clients.stop()
    assert clients.failures == []
    assert clients.gone == 0


@pytest.mark.slow
async def test_ten_kills_lose_what_was_under_way_and_refuse_nobody(
    crew: Crew, load: Any, upstream: RecordingUpstream
) -> None:
    files = {"apis.d/proxied.yaml": f"{{listen: /proxied/, auth: none, upstream: '{upstream.url}'}}"}
    clients_at_once = 16
    async with crew(files) as gateway:
        for _ in range(10):
            clients = load(gateway)
            clients.send("/proxied/", clients=clients_at_once)
            await clients.has_answered(60)
            victim = (await workers(gateway))[0]
            os.kill(victim, signal.SIGKILL)

            async def replaced(gone: int = victim) -> bool:
                now = await workers(gateway)
                return len(now) == 2 and gone not in now

            await until(replaced)
            await clients.stop()
            assert len(clients.failures) <= clients_at_once, "no more than the requests under way"
            assert clients.gone == 0, "nobody was refused"


@pytest.mark.slow
async def test_a_stop_drains_all_workers(crew: Crew, load: Any, upstream: RecordingUpstream) -> None:
    files = {"apis.d/proxied.yaml": f"{{listen: /proxied/, auth: none, upstream: '{upstream.url}'}}"}
    async with crew(files) as gateway:
        clients = load(gateway)
        clients.send("/proxied/", clients=16)
        await clients.has_answered(200)
        pids = await workers(gateway)
        # As systemd and a terminal do: the signal goes to every process.
        for pid in (*pids, gateway.pid):
            os.kill(pid, signal.SIGTERM)
        await clients.ended()
        assert await gateway.ended() == 0
        assert not any(alive(pid) for pid in pids)
    assert clients.failures == []
    assert not (gateway.folder / "var/run.json").exists()


@pytest.mark.slow
async def test_a_killed_parent_leaves_no_orphan(crew: Crew) -> None:
    async with crew() as gateway:
        pids = await workers(gateway)
        gateway.kill()

        async def gone() -> bool:
            return not any(alive(pid) for pid in pids)

        await until(gone)


@pytest.mark.slow
async def test_76_all_workers_are_killed_at_once(crew: Crew) -> None:
    async with crew() as gateway:
        pids = await workers(gateway)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        async def replaced() -> bool:
            try:
                now = await workers(gateway)
            except (OSError, ClientError):  # the one who was asked is dead
                return False
            return len(now) == 2 and not set(now) & set(pids)

        await until(replaced)
        for _ in range(12):
            assert (await gateway.get("/mocked/")).body == b"one"
        assert gateway.process.returncode is None


@pytest.mark.slow
async def test_a_thousand_hangups_end_in_one_generation(crew: Crew, load: Any) -> None:
    async with crew() as gateway:
        clients = load(gateway)
        clients.send("/mocked/", clients=8)
        await clients.has_answered(50)
        for _ in range(1000):
            gateway.hangup()
        assert (await gateway.reload_now()).status == 200
        await clients.has_answered(50)
        await clients.stop()
        assert clients.failures == []

        async def agreed() -> bool:
            # The last of the signals may be served behind the reload that was asked for.
            return len({(await status(gateway))["generation"] for _ in range(6)}) == 1

        await until(agreed)
