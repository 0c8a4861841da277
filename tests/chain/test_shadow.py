"""`mode: shadow`: a rule decides and is recorded, and nobody notices."""

from __future__ import annotations

from typing import Any

import pytest

from aiogate import PROBLEMS, Bucket, Exchange, Middleware, MiddlewareKind, Model, Problem, Response, Stage


class NoConfig(Model):
    pass


def kind(name: str, on_request: Any = None, on_response: Any = None, *, refuses: bool = True) -> MiddlewareKind:
    return MiddlewareKind(
        name, Stage.ENTRY, NoConfig, lambda config, context: Middleware(on_request, on_response), refuses=refuses
    )


SHADOW = """
    plugins:
      - rule: {}
        mode: shadow
      - mock: welcome
    """


def refuse(exchange: Exchange) -> Problem:
    return PROBLEMS["access_denied"].because("no")


async def refuse_later(exchange: Exchange) -> Problem:
    return refuse(exchange)


def answer(exchange: Exchange) -> Response:
    return Response(302)


@pytest.mark.parametrize(
    "call, code, status",
    [(refuse, "access_denied", 403), (refuse_later, "access_denied", 403), (answer, "answered", 302)],
)
async def test_what_it_would_have_said_is_recorded_and_not_said(bench: Any, call: Any, code: str, status: int) -> None:
    bench.offer(kind("rule", call, lambda exchange, response: response.set("X-Rule", "ran")))
    response, exchange = await bench.ask(bench.compile(SHADOW))
    assert (response.status, response.body, "X-Rule" in response.headers) == (200, b"welcome", False)
    assert exchange.problem is None
    [decision] = bench.decisions
    assert (decision.step, decision.code, decision.status, decision.shadow) == ("rule", code, status, True)
    assert decision.rule == "apis.d/test.yaml:5:5"


@pytest.mark.parametrize("later", [False, True])
async def test_a_failure_harms_nobody_and_is_logged(bench: Any, caplog: pytest.LogCaptureFixture, later: bool) -> None:
    def fail(exchange: Exchange) -> None:
        raise ValueError("a bug")

    async def fail_later(exchange: Exchange) -> None:
        raise ValueError("a bug")

    bench.offer(kind("rule", fail_later if later else fail))
    response, _ = await bench.ask(bench.compile(SHADOW))
    assert response.status == 200
    assert bench.decisions == []
    assert "the step rule in shadow mode failed" in caplog.text


async def test_a_limit_in_shadow_counts_by_itself(bench: Any) -> None:
    api = bench.compile(
        """
        plugins:
          - rate_limit: 1/1m
            mode: shadow
            match: {methods: [GET]}
          - rate_limit: 3/1m
          - mock: x
        """
    )
    statuses = [(await bench.ask(api))[0].status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert [decision.shadow for decision in bench.decisions] == [True, True, True, False]
    assert {decision.code for decision in bench.decisions} == {"api_rate_limited"}
    await bench.ask(api, method="POST")
    assert bench.decisions[-1].shadow is False, "the rule in shadow meets GET only"


async def test_a_bucket_in_shadow_never_holds_back_one_in_force(bench: Any) -> None:
    bucket = Bucket("own", 1, 60, "api_rate")
    problem = PROBLEMS["api_rate_limited"]
    bench.offer(
        MiddlewareKind("rule", Stage.LIMIT, NoConfig, lambda config, context: Middleware(buckets=[(bucket, problem)]))
    )
    api = bench.compile(SHADOW)
    assert [(await bench.ask(api))[0].status for _ in range(3)] == [200] * 3
    assert [decision.shadow for decision in bench.decisions] == [True, True]


def test_what_cannot_refuse_cannot_be_shadowed(bench: Any) -> None:
    bench.offer(kind("rule", refuses=False))
    assert bench.mistakes("listen: /x/\nauth: none\nplugins:\n- rule: {}\n  mode: shadow\n- mock: x\n") == [
        "4:3 shadow_not_allowed"
    ]
