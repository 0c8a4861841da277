"""Reloads under load: nothing fails, everything arrives, a mistake harms nobody and is told where it stands."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiogate.errors import DIAGNOSTICS
from aiogate.testing import GatewayProcess, RecordingUpstream

BROKEN = Path(__file__).parent.parent / "broken"
SITE = ("aiogate.yaml", "apis.d", "policies.d", "plugins")
BY_FLAGS = ("aiogate.yaml:1:10 invalid_value", "aiogate.yaml:1:21 invalid_value", "aiogate.yaml:2:19 wrong_type")
"""Mistakes in addresses that the command line of these tests overrides."""

Start = Callable[..., Any]


def changing(number: int) -> str:
    return f"""
        listen: /changing/
        auth: none
        plugins:
          - mock: generation {number}
        """


def files(upstream: RecordingUpstream) -> dict[str, str]:
    steady = f"{{listen: /steady/, auth: none, upstream: '{upstream.url}'}}"
    return {"apis.d/steady.yaml": steady, "apis.d/changing.yaml": changing(0)}


@pytest.mark.slow
async def test_two_hundred_reloads_under_load(start: Start, load: Any, upstream: RecordingUpstream) -> None:
    async with start(files(upstream)) as gateway:
        clients = load(gateway)
        clients.send("/steady/", "/changing/", clients=16)
        await clients.has_answered(200)
        for number in range(1, 201):
            change(gateway.folder / "apis.d/changing.yaml", changing(number))
            gateway.hangup()
            await clients.has_seen(b"generation %d" % number)
        await clients.stop()
        ready = (await gateway.tyk("GET", "/ready")).json

    assert clients.failures == []
    assert clients.bodies == {b"generation %d" % number for number in range(201)}
    assert (ready["generation"], ready["last_reload"]["ok"]) == (201, True)
    assert clients.connections == 16, "no client had to connect again"
    assert upstream.connections <= 8, "the API that did not change kept its connections"
    assert len(upstream.received) == clients.proxied, "each request arrived once"


def change(path: Path, text: str) -> None:
    """Replace a file as a careful editor does: readers see the old one or the new one."""
    aside = path.with_name(".aside")
    aside.write_text("\n".join(line[8:] for line in text.splitlines()))
    aside.replace(path)


def put(folder: Path, site: Path) -> None:
    """Make `folder` the site `site`."""
    for name in SITE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if (site / name).is_dir():
            shutil.copytree(site / name, path, symlinks=True)
        elif (site / name).exists():
            shutil.copy(site / name, path)


def cases() -> list[Path]:
    return sorted(case for case in BROKEN.iterdir() if case.is_dir())


@pytest.mark.slow
async def test_no_mistake_harms_a_request(
    start: Start, load: Any, upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = tmp_path_factory.mktemp("good")
    async with start(files(upstream)) as gateway:
        put(good, gateway.folder)
        clients = load(gateway)
        clients.send("/steady/", "/changing/", clients=8)
        await clients.has_answered(50)
        for case in cases():
            if case.name == "certificate_invalid-listeners":
                continue  # its listeners are overridden by the command line of these tests
            put(gateway.folder, case)
            await refused(gateway, case)
            await clients.has_answered(20)
        put(gateway.folder, good)
        accepted = await gateway.reload_now()
        assert (accepted.status, accepted.json["generation"]) == (200, 2)
        await clients.stop()
    assert clients.failures == []
    assert clients.bodies == {b"generation 0"}


async def refused(gateway: GatewayProcess, case: Path) -> None:
    reply = await gateway.reload_now()
    assert reply.status == 422, f"{case.name}: {reply.text}"
    verdict = reply.json
    assert (verdict["status"], verdict["ok"], verdict["generation"]) == ("error", False, 1)
    found = [f"{one['file']}:{one['line']}:{one['column']} {one['code']}" for one in verdict["diagnostics"]]
    expected = (case / "expected").read_text().splitlines()
    assert found == [line for line in expected if not (case.name == "invalid_value-settings" and line in BY_FLAGS)]
    ready = await gateway.tyk("GET", "/ready")
    assert (ready.status, ready.json["last_reload"]["diagnostics"]) == (200, verdict["diagnostics"])


def test_every_code_that_a_reload_can_give_has_a_broken_site() -> None:
    warnings = {code for code, meaning in DIAGNOSTICS.items() if meaning.endswith("; a warning.")}
    elsewhere = warnings | {
        "file_too_large",  # tests/config/test_files.py
        "access_log_unwritable",  # at start only
        "address_in_use",  # at start only
        "store_unavailable",  # at start only
        "worker_failed",  # at start only
        "reload_interrupted",  # no file has it: a worker ended
    }
    assert set(DIAGNOSTICS) - elsewhere == {case.name.partition("-")[0] for case in cases()}


@pytest.mark.slow
async def test_a_thousand_signals_make_few_reloads(start: Start, load: Any, upstream: RecordingUpstream) -> None:
    """Signals, calls and a changed file, all at once."""
    async with start(files(upstream), "--watch") as gateway:
        clients = load(gateway)
        clients.send("/steady/", "/changing/", clients=8)
        await clients.has_answered(20)
        change(gateway.folder / "apis.d/changing.yaml", changing(1))
        for _ in range(1000):
            gateway.hangup()
        replies = await asyncio.gather(*(gateway.reload_now() for _ in range(20)))
        await clients.has_seen(b"generation 1")
        await clients.stop()
    assert clients.failures == []
    assert {reply.status for reply in replies} == {200}
    assert max(reply.json["generation"] for reply in replies) < 50
