"""Which version a request asks for."""

from __future__ import annotations

from typing import Any

import pytest

from aiogate.chain.versions import chooser, expiry_step
from aiogate.errors import Problem
from aiogate.testing import FakeClock, make_definition, make_exchange

LIST = "list: {v1: {}, v2: {}}"


def chosen(versions: str, **request: Any) -> tuple[str, str]:
    """The version or the problem's code, and the tail that is left."""
    text = f"{{id: t, listen: /t/, auth: none, upstream: 'http://127.0.0.1:9/', versions: {{{versions}, {LIST}}}}}"
    declared = make_definition(text).versions
    assert declared is not None
    exchange = make_exchange(**request)
    found = chooser(declared)(exchange)
    return (found.code if isinstance(found, Problem) else found), exchange.tail


H = "by: header, name: X-V"


@pytest.mark.parametrize(
    "versions, headers, expected",
    [
        (H, {"x-v": "v1"}, "v1"),
        (H, {"X-V": " v2\t"}, "v2"),
        (H, {"X-V": "V1"}, "version_unknown"),
        (H, {"X-V": "v3"}, "version_unknown"),
        (H, {}, "version_missing"),
        (H, {"X-V": ""}, "version_missing"),
        (H + ", default: v2", {}, "v2"),
        (H + ", default: v2", {"X-V": "v3"}, "version_unknown"),
        (H, [("X-V", "v1"), ("X-V", "v2")], "version_ambiguous"),
        (H, [("X-V", "v1"), ("X-V", "v1")], "v1"),
        (H + ", default: v1", [("X-V", "v1"), ("X-V", "")], "version_ambiguous"),
        ("by: header", {"X-Api-Version": "v1"}, "v1"),
    ],
)
def test_by_header(versions: str, headers: Any, expected: str) -> None:
    assert chosen(versions, headers=headers) == (expected, "/")


@pytest.mark.parametrize(
    "query, expected",
    [
        ("v=v1", "v1"),
        ("a=b&v=v%31", "v1"),
        ("v=v1&v=v2", "version_ambiguous"),
        ("v=v2&v=v2", "v2"),
        ("V=v1", "version_missing"),
        ("v=", "version_missing"),
        ("v", "version_missing"),
        ("", "version_missing"),
        ("v=v3", "version_unknown"),
    ],
)
def test_by_query(query: str, expected: str) -> None:
    assert chosen("by: query, name: v", query=query) == (expected, "/")


@pytest.mark.parametrize(
    "versions, path, expected",
    [
        ("by: path", "/v1/users", ("v1", "/v1/users")),
        ("by: path, strip: true", "/v1/users", ("v1", "/users")),
        ("by: path, strip: true", "/v2", ("v2", "/")),
        ("by: path, strip: true", "/v2/", ("v2", "/")),
        ("by: path, strip: true", "/v12/users", ("version_unknown", "/v12/users")),
        ("by: path, strip: true", "/users", ("version_unknown", "/users")),
        ("by: path, strip: true", "/", ("version_missing", "/")),
        ("by: path, strip: true, default: v1", "/", ("v1", "/")),
    ],
)
def test_by_path(versions: str, path: str, expected: tuple[str, str]) -> None:
    assert chosen(versions, path=path) == expected


def test_a_version_is_refused_from_its_second_on() -> None:
    clock = FakeClock(1000)
    step = expiry_step(None, 1010.0, clock)
    assert step is not None
    assert step(make_exchange()) is None
    clock.advance(10)
    problem = step(make_exchange(version="v1"))
    assert isinstance(problem, Problem)
    assert (problem.code, problem.detail) == ("version_expired", "version v1 expired at 1010")


def test_an_expired_api_goes_before_an_expired_version() -> None:
    step = expiry_step(900.0, 900.0, FakeClock(1000))
    assert step is not None
    problem = step(make_exchange())
    assert isinstance(problem, Problem)
    assert problem.code == "api_expired"


def test_what_never_expires_has_no_step() -> None:
    assert expiry_step(None, None, FakeClock()) is None


async def test_an_undecided_request_meets_the_entry_steps_and_is_refused(bench: Any) -> None:
    from aiogate import Middleware, MiddlewareKind, Model, Stage

    mark: Any = lambda config, context: Middleware(  # noqa: E731
        on_response=lambda exchange, response: response.set("X-Entry", context.version)
    )
    bench.offer(MiddlewareKind("mark", Stage.ENTRY, Model, mark), MiddlewareKind("late", Stage.REQUEST, Model, mark))
    api = bench.compile(f"versions: {{by: header, {LIST}}}\nplugins: [mock: x, mark, late]")
    response, exchange = await bench.ask(api)
    assert (response.status, response.headers["X-Entry"], exchange.version) == (403, "v1", None)
    assert (bench.decisions[0].step, bench.decisions[0].code) == ("versions", "version_missing")


async def test_a_step_of_one_version_runs_in_that_version_only(bench: Any) -> None:
    api = bench.compile(
        f"""
        versions: {{by: path, {LIST}}}
        plugins:
          - mock: two
            match: {{versions: [v2]}}
          - mock: every
        """
    )
    assert (await bench.ask(api, "/v1/"))[0].body == b"every"
    assert (await bench.ask(api, "/v2/"))[0].body == b"two"
    assert [step.name for step in api.chains["v1"].steps] == ["mock", "no_upstream"]
