"""The kit that plugin authors get does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aiogate
import aiogate.testing
from aiogate import PROBLEMS, Bucket, Exchange, Middleware, MiddlewareKind, Model, Problem, Response, Session, Stage
from aiogate.builtin import key, rate_limit
from aiogate.errors import DiagnosticsFound
from aiogate.testing import (
    FakeClock,
    make_exchange,
    make_services,
    recording_upstream,
    run_authenticator,
    run_middleware,
    running_gateway,
)


class NoConfig(Model):
    pass


def kind_of(middleware: Middleware) -> MiddlewareKind:
    return MiddlewareKind("own", Stage.REQUEST, NoConfig, lambda config, context: middleware)


async def test_a_middleware_that_says_nothing_lets_the_request_pass() -> None:
    outcome = await run_middleware(kind_of(Middleware()), None, make_exchange())
    assert outcome.passed
    assert outcome.response.status == 200


async def test_a_refusal_is_rendered_and_passes_the_way_back() -> None:
    def refuse(exchange: Exchange) -> Problem:
        return PROBLEMS["request_too_large"]

    async def mark(exchange: Exchange, response: Response) -> None:
        response.set("X-Seen", exchange.problem.code if exchange.problem else "")

    outcome = await run_middleware(kind_of(Middleware(refuse, mark)), {}, make_exchange())
    assert outcome.problem is PROBLEMS["request_too_large"]
    assert outcome.response.status == 413
    assert outcome.response.headers["X-Seen"] == "request_too_large"


async def test_the_upstream_answers_as_the_test_says() -> None:
    outcome = await run_middleware(kind_of(Middleware()), None, make_exchange(), upstream=Response(204))
    assert outcome.response.status == 204


async def test_buckets_are_taken_from_the_services_counters() -> None:
    clock = FakeClock()
    services = make_services(clock)
    [kind] = [rate_limit.aiogate_middleware()]
    for expected in (True, True, False):
        outcome = await run_middleware(kind, "2/1m", make_exchange(), services=services)
        assert outcome.passed is expected
    clock.advance(60)
    assert (await run_middleware(kind, "2/1m", make_exchange(), services=services)).passed


async def test_a_bucket_never_taken_is_as_before() -> None:
    bucket = Bucket("own", 1, 60, "api_rate")
    middleware = Middleware(lambda exchange: PROBLEMS["not_found"], buckets=[(bucket, PROBLEMS["rate_limited"])])
    services = make_services()
    await run_middleware(kind_of(middleware), {}, make_exchange(), services=services)
    assert await services.counters.read(["own"], services.clock.now()) == [None]


async def test_an_authenticator_finds_the_sessions_it_is_given() -> None:
    sessions = {"secret-token": {"alias": "mine", "access_rights": {"test": {}}}}
    kind = key.aiogate_middleware()
    found = await run_authenticator(
        kind, {}, make_exchange(headers={"Authorization": "secret-token"}), sessions=sessions
    )
    assert isinstance(found, Session)
    assert found.label == "mine"
    other = await run_authenticator(kind, {}, make_exchange(headers={"Authorization": "another"}), sessions=sessions)
    assert isinstance(other, Problem)
    assert other.code == "key_unknown"
    assert await run_authenticator(kind, {}, make_exchange()) is None


async def test_a_body_is_read_whole_or_in_pieces() -> None:
    exchange = make_exchange("POST", body=b"hello")
    assert await exchange.body.read_all(5) == b"hello"
    assert [await exchange.body.read(), await exchange.body.read()] == [b"hello", b""]


async def test_a_gateway_serves_files_and_reloads_them(tmp_path: Path) -> None:
    async with (
        recording_upstream() as upstream,
        running_gateway(
            {"apis.d/a.yaml": f"{{listen: /a/, auth: none, upstream: '{upstream.url}'}}"}, folder=tmp_path
        ) as gateway,
    ):
        assert (await gateway.get("/a/x?y=1")).json == {"method": "GET", "target": "/x?y=1"}
        assert upstream.last.headers["Host"] in upstream.url
        verdict = await gateway.reload({"apis.d/a.yaml": "{listen: /a/, auth: none, plugins: [mock: changed]}"})
        assert verdict.changed.changed == ("a",)
        assert (await gateway.get("/a/")).body == b"changed"
        assert upstream.connections == 1


async def test_a_gateway_that_cannot_start_raises_its_diagnostics(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticsFound, match="`listenn`"):
        async with running_gateway({"apis.d/a.yaml": "listenn: /a/"}, folder=tmp_path):
            pass


def test_every_name_is_there() -> None:
    assert [name for name in aiogate.testing.__all__ if getattr(aiogate.testing, name).__name__ != name] == []
    with pytest.raises(AttributeError, match="nothing"):
        aiogate.testing.nothing  # noqa: B018


def test_every_public_name_of_the_package_is_there() -> None:
    assert [name for name in aiogate.__all__ if not hasattr(aiogate, name)] == []
    with pytest.raises(AttributeError, match="nothing"):
        aiogate.nothing  # noqa: B018


def test_a_foreign_test_suite_does_not_notice_us(tmp_path: Path) -> None:
    """Strict, with warnings as errors, without pytest-asyncio: pytest runs, and the gateway's rooms stay unloaded."""
    (tmp_path / "test_foreign.py").write_text(
        "import sys\n\n\ndef test_foreign():\n"
        "    assert 'aiogate.testing.pytest_plugin' in sys.modules\n"
        "    rooms = ('aiogate.runtime', 'aiogate.chain', 'aiogate.config', 'aiohttp', 'pydantic')\n"
        "    assert [name for name in sys.modules if name.startswith(rooms)] == []\n"
    )
    plugins = ("-p", "aiogate", "-W", "error", "--strict-config", "--strict-markers", "-p", "no:cacheprovider")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


async def test_the_fixture_serves_in_the_folder_of_the_test(aiogate, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    async with aiogate({"apis.d/a.yaml": "{listen: /a/, auth: none, plugins: [mock: hi]}"}) as gateway:
        assert (await gateway.get("/a/")).body == b"hi"
        assert gateway.folder == tmp_path
