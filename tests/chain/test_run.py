"""The loop: refusals, answers, failures, and what is recorded of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from aiogate import PROBLEMS, Exchange, Middleware, MiddlewareKind, Model, Problem, Response, Stage
from aiogate.chain.exchange import BodyBroken, BodyTimeout, BodyTooLarge
from aiogate.stores.base import StoreUnavailable
from aiogate.telemetry.events import Event


class NoConfig(Model):
    pass


def kind(name: str, on_request: Any = None, on_response: Any = None, stage: Stage = Stage.REQUEST) -> MiddlewareKind:
    return MiddlewareKind(
        name, stage, NoConfig, lambda config, context: Middleware(on_request, on_response), answers=True
    )


def refuse(exchange: Exchange) -> Problem:
    return PROBLEMS["request_too_large"].because("it was a test").with_header("X-Told", "yes")


async def refuse_later(exchange: Exchange) -> Problem:
    await asyncio.sleep(0)
    return refuse(exchange)


@pytest.mark.parametrize("call", [refuse, refuse_later])
async def test_a_refusal_is_rendered_recorded_and_passes_the_responders(bench: Any, call: Any) -> None:
    bench.offer(kind("cors", on_response=lambda exchange, response: response.set("X-Cors", "*")), kind("no", call))
    response, exchange = await bench.ask(bench.compile("plugins: [cors, no, mock: x]"))
    assert (response.status, response.headers["X-Told"], response.headers["X-Cors"]) == (413, "yes", "*")
    assert exchange.problem is not None
    [decision] = bench.decisions
    assert (decision.step, decision.stage, decision.code, decision.reason) == (
        "no", "REQUEST", "request_too_large", "it was a test",
    )  # fmt: skip
    assert decision.rule == "apis.d/test.yaml:3:17"
    assert (decision.api, decision.version, decision.shadow) == ("test", "Default", False)


async def test_a_plugin_that_fails_refuses_and_tells_nothing(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(exchange: Exchange) -> None:
        raise LookupError("the secret plan")

    bench.offer(kind("broken", fail))
    with caplog.at_level(logging.ERROR, "aiogate.chain"):
        response, _ = await bench.ask(bench.compile("plugins: [broken, mock: x]"))
    assert response.status == 500
    assert b'"There was a problem proxying the request","code":"internal_error"' in response.body
    assert b"plan" not in response.body
    assert b"Traceback" not in response.body
    [decision] = bench.decisions
    assert (decision.step, decision.reason) == ("broken", "broken raised LookupError: the secret plan")
    assert "the step broken (test) failed" in caplog.text


async def test_a_responder_that_fails_refuses_too_and_the_others_still_run(bench: Any) -> None:
    def fail(exchange: Exchange, response: Response) -> None:
        raise ValueError("no header")

    bench.offer(
        kind("outer", on_response=lambda exchange, response: response.set("X-Outer", "ran")),
        kind("broken", on_response=fail),
    )
    response, _ = await bench.ask(bench.compile("plugins: [outer, broken, mock: x]"))
    assert (response.status, response.headers["X-Outer"]) == (500, "ran")
    assert "ValueError: no header" in bench.decisions[0].reason


async def test_a_plugin_that_answers_with_something_else_is_refused(bench: Any) -> None:
    bench.offer(kind("odd", lambda exchange: "a string"), kind("later", lambda exchange: asyncio.sleep(0, 7)))
    for name in ("odd", "later"):
        response, _ = await bench.ask(bench.compile(f"plugins: [{name}, mock: x]"))
        assert response.status == 500
        assert bench.decisions[-1].step == name


@pytest.mark.parametrize(
    "error, status, code",
    [
        (BodyTooLarge("9 bytes"), 413, "request_too_large"),
        (BodyTimeout("nothing came"), 408, "request_timeout"),
        (BodyBroken("it ended"), 400, "bad_request"),
        (StoreUnavailable("the disk is full"), 503, "store_unavailable"),
    ],
)
async def test_what_a_client_or_a_store_does_is_no_bug(
    bench: Any, caplog: pytest.LogCaptureFixture, error: Exception, status: int, code: str
) -> None:
    async def read(exchange: Exchange) -> None:
        raise error

    bench.offer(kind("reads", read))
    response, _ = await bench.ask(bench.compile("plugins: [reads, mock: x]"))
    assert (response.status, bench.decisions[0].code) == (status, code)
    assert str(error) in bench.decisions[0].reason
    assert caplog.text == ""


async def test_a_client_that_is_gone_is_not_an_answer(bench: Any) -> None:
    async def wait(exchange: Exchange) -> None:
        raise asyncio.CancelledError

    bench.offer(kind("waits", wait))
    with pytest.raises(asyncio.CancelledError):
        await bench.ask(bench.compile("plugins: [waits, mock: x]"))
    assert bench.decisions == []


async def test_a_chain_that_nobody_answers_is_not_found(bench: Any) -> None:
    bench.offer(kind("silent", lambda exchange: None))
    response, _ = await bench.ask(bench.compile("plugins: [silent]"))
    assert response.status == 404
    assert "no step of the chain answered" in bench.decisions[0].reason


async def test_a_match_narrows_a_step_in_both_directions(bench: Any) -> None:
    bench.offer(
        kind("mark", on_response=lambda exchange, response: response.set("X-Marked", "yes")), kind("no", refuse)
    )
    api = bench.compile(
        """
        plugins:
          - mock: x
          - mark
            match: {paths: [/a/*], methods: [GET]}
          - no
            match: {paths: [/a/secret]}
        """.replace("- mark", "- mark: {}").replace("- no", "- no: {}")
    )
    for method, path, status, marked in (
        ("GET", "/a/x", 200, True),
        ("POST", "/a/x", 200, False),
        ("GET", "/b", 200, False),
        ("GET", "/a/secret", 413, True),
    ):
        response, _ = await bench.ask(api, path, method=method)
        assert (response.status, "X-Marked" in response.headers) == (status, marked)


async def test_a_refusal_with_an_event_is_published(bench: Any) -> None:
    events: list[Event] = []
    bench.services.events.subscribe("AuthFailure", events.append)
    bench.offer(kind("no", lambda exchange: PROBLEMS["auth_failed"].because("wrong"), stage=Stage.ENTRY))
    await bench.ask(bench.compile("plugins: [no, mock: x]"))
    [event] = events
    assert (event.name, event.api, event.org, event.details["reason"]) == ("AuthFailure", "test", "default", "wrong")


async def test_a_position_of_its_own_goes_before_the_steps(bench: Any) -> None:
    from dataclasses import replace

    from aiogate.errors import Position

    narrow = replace(PROBLEMS["not_found"], position=Position("list.txt", 7, 2))
    bench.offer(kind("no", lambda exchange: narrow))
    await bench.ask(bench.compile("plugins: [no, mock: x]"))
    assert bench.decisions[0].rule == "list.txt:7:2"
