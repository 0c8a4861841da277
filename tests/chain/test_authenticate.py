"""The list under `auth`: any of them, all of them, and what is taken away on the way upstream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiogate import PROBLEMS, Authenticator, Exchange, Problem, Session
from aiogate.chain.authenticate import all_of, any_of, strip_step
from aiogate.testing import make_exchange


def session(name: str) -> Session:
    return Session(name_hash=name, org="default", kind="key", label=name, grants={})


def method(name: str, answer: Any, *, later: bool = False, challenge: str = "", **places: Any) -> Authenticator:
    """A method that always answers so."""

    def now(exchange: Exchange) -> Any:
        return answer

    async def soon(exchange: Exchange) -> Any:
        await asyncio.sleep(0)
        return answer

    missing = Problem(f"no_{name}", 401, f"{name} missing")
    if challenge:
        missing = missing.with_header("WWW-Authenticate", challenge)
    return Authenticator(name, soon if later else now, missing, **places)


async def outcome(call: Any, exchange: Exchange) -> Problem | None:
    answer = call(exchange)
    return await answer if asyncio.iscoroutine(answer) else answer


WRONG = PROBLEMS["auth_failed"]


@pytest.mark.parametrize("later", [False, True])
async def test_the_first_method_with_a_credential_decides(later: bool) -> None:
    exchange = make_exchange()
    call = any_of([method("a", None, later=later), method("b", session("b"), later=later), method("c", session("c"))])
    assert await outcome(call, exchange) is None
    assert (exchange.session, exchange.credential_kind) == (session("b"), "b")


@pytest.mark.parametrize("later", [False, True])
async def test_a_wrong_credential_is_not_given_to_the_next(later: bool) -> None:
    exchange = make_exchange()
    assert await outcome(any_of([method("a", WRONG, later=later), method("b", session("b"))]), exchange) is WRONG
    assert exchange.session is None


@pytest.mark.parametrize("later", [False, True])
async def test_no_credential_is_the_first_methods_message_with_all_challenges(later: bool) -> None:
    methods = [
        method("a", None, later=later),
        method("b", None, later=later, challenge="Basic"),
        method("c", None, challenge="Bearer"),
        method("d", None, challenge="Bearer"),
    ]
    problem = await outcome(any_of(methods), make_exchange())
    assert problem is not None
    assert problem.message == "a missing"
    assert problem.headers == (("WWW-Authenticate", "Basic"), ("WWW-Authenticate", "Bearer"))
    assert problem.detail == "no credential was found by a, b, c, d"


@pytest.mark.parametrize("source, expected", [(None, "a"), ("a", "a"), ("b", "b")])
async def test_all_must_pass_and_one_supplies_the_session(source: str | None, expected: str) -> None:
    exchange = make_exchange()
    methods = [method("a", session("a"), later=True), method("b", session("b"))]
    assert await outcome(all_of(methods, ("a", "b"), source), exchange) is None
    assert (exchange.session, exchange.credential_kind) == (session(expected), expected)


@pytest.mark.parametrize("answer, code", [(None, "no_b"), (WRONG, "auth_failed")])
async def test_one_that_does_not_pass_refuses(answer: Any, code: str) -> None:
    methods = [method("a", session("a")), method("b", answer), method("c", session("c"))]
    problem = await outcome(all_of(methods, ("a", "b", "c"), None), make_exchange())
    assert problem is not None
    assert problem.code == code


def test_credentials_are_taken_out_of_headers_query_and_cookies() -> None:
    step = strip_step(
        [
            method("a", None, credential_headers=("X-Key", "Authorization"), credential_query=("api key",)),
            method("b", None, credential_headers=("authorization",), credential_cookies=("key",)),
        ]
    )
    exchange = make_exchange(
        query="a=1&api%20key=x&api+key=y&b&api%20keys=z",
        headers=[("Cookie", "key=1; other=2"), ("Cookie", "Key=3;key=4")],
    )
    assert step(exchange) is None
    assert exchange.upstream_query == "a=1&b&api%20keys=z"
    assert exchange.upstream_headers.removed == {"x-key", "authorization", "cookie"}
    assert exchange.upstream_headers.added == [("Cookie", "other=2; Key=3")]


def test_nothing_is_changed_where_no_credential_is() -> None:
    step = strip_step([method("a", None, credential_query=("key",), credential_cookies=("key",))])
    exchange = make_exchange()
    step(exchange)
    assert exchange.upstream_query is None
    assert exchange.upstream_headers.removed == set()


def test_a_query_that_a_step_changed_already_is_the_one_that_is_stripped() -> None:
    exchange = make_exchange(query="key=1")
    exchange.upstream_query = "other=1&key=2"
    strip_step([method("a", None, credential_query=("key",))])(exchange)
    assert exchange.upstream_query == "other=1"
