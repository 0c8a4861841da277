"""The loop: one request through one chain.

Steps are plain functions in a tuple. The first that answers ends the way in; the functions of the way back run for
every step that was entered, in reverse. Because the loop knows which step spoke, every refusal gets its decision record
here, for every plugin, without the plugin's doing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiogate.chain.exchange import BodyBroken, BodyTimeout, BodyTooLarge, Response, problem_response
from aiogate.errors import FAILURES, PROBLEMS, Problem
from aiogate.stores.base import StoreUnavailable
from aiogate.telemetry.decisions import Decision
from aiogate.telemetry.events import Event

if TYPE_CHECKING:
    from aiogate.chain.compile import Chain, CompiledApi, Step
    from aiogate.chain.exchange import Exchange

__all__ = ["answer", "decision_of"]

_log = logging.getLogger("aiogate.chain")


async def answer(chain: Chain, exchange: Exchange) -> Response:
    """Run the chain. Always answers: a refusal is rendered, a step that fails refuses the request.

    Raises nothing but `asyncio.CancelledError` (the client is gone).
    """
    outcome: Problem | Response | None = None
    index = 0
    try:
        for index, call in chain.calls:  # noqa: B007  (who spoke is asked after the loop)
            spoken = call(exchange)
            if spoken is None:
                continue
            if not isinstance(spoken, (Problem, Response)):
                spoken = await spoken
                if spoken is None:
                    continue
            outcome = spoken
            break
    except FAILURES as error:
        outcome = _failure(error, chain, index, exchange)
    if not isinstance(outcome, Response):
        # Every chain ends in a step that answers; a plugin that answers with anything else is refused like a failure.
        if not isinstance(outcome, Problem):
            said = "nothing" if outcome is None else type(outcome).__name__
            outcome = PROBLEMS["internal_error"].because(f"the step {chain.steps[index].name} answered with {said}")
        response = _refuse(outcome, chain, index, exchange)
    else:
        response = outcome
    for respond in chain.responders[index]:
        try:
            done = respond(exchange, response)
            if done is not None:
                await done
        except FAILURES as error:
            if not isinstance(response.body, bytes):
                response.body.close()
            problem = _failure(error, chain, index, exchange)
            response = _refuse(problem, chain, index, exchange)
    return response


def _failure(error: BaseException, chain: Chain, index: int, exchange: Exchange) -> Problem:
    """The refusal that an exception means. What is expected of a client or a store is not logged as a bug."""
    if isinstance(error, BodyTooLarge):
        return PROBLEMS["request_too_large"].because(str(error))
    if isinstance(error, BodyTimeout):
        return PROBLEMS["request_timeout"].because(str(error))
    if isinstance(error, BodyBroken):
        return PROBLEMS["bad_request"].because(str(error))
    step = chain.steps[index]
    if isinstance(error, StoreUnavailable):
        return PROBLEMS["store_unavailable"].because(f"{step.name}: {error}")
    _log.exception("request %s: the step %s (%s) failed", exchange.request_id, step.name, step.source, exc_info=error)
    return PROBLEMS["internal_error"].because(f"{step.name} raised {type(error).__name__}: {error}")


def _refuse(problem: Problem, chain: Chain, index: int, exchange: Exchange) -> Response:
    exchange.problem = problem
    api = chain.api
    decision = decision_of(problem, api, chain.steps[index], exchange)
    api.record(decision)
    api.counts.refused(problem.code)
    if problem.event and api.events.wanted(problem.event):
        details = {"path": exchange.path, "reason": problem.detail}
        api.events.publish(
            Event(problem.event, decision.at, api.id, api.org, decision.session, exchange.request_id, details)
        )
    return problem_response(problem, exchange.request_id, exchange.headers.get("Content-Type", ""))


def decision_of(
    problem: Problem, api: CompiledApi, step: Step, exchange: Exchange, *, shadow: bool = False
) -> Decision:
    """The record of what this step decided."""
    session = exchange.session
    return Decision(
        request_id=exchange.request_id,
        at=api.clock.now(),
        method=exchange.method,
        path=exchange.path,
        api=api.id,
        version=exchange.version or "",
        step=step.name,
        stage=step.stage.name,
        rule=str(problem.position or step.position),
        code=problem.code,
        status=problem.status,
        message=problem.message,
        reason=problem.detail,
        session=session.name_hash if session is not None else "",
        label=session.label if session is not None else "",
        client_ip=exchange.client_ip,
        generation=exchange.generation,
        shadow=shadow,
    )
