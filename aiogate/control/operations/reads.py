"""What can be looked at: policies and APIs of the current generation, decision records, health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiogate.config.definition import Definition
from aiogate.control.operations.gateway import ApiHealth, ControlledGateway
from aiogate.domain.policy import Policy
from aiogate.errors import Rejected
from aiogate.telemetry.decisions import Decision

__all__ = ["Reads", "ShadowRule", "paged"]

_MOST_DECISIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class ShadowRule:
    """What one rule in shadow mode would have refused. `last` is in epoch seconds."""

    api: str
    step: str
    rule: str
    code: str
    count: int
    last: float


class Reads:
    """Answers from the current generation and the decision records. `org`: only of that organisation; None: of all."""

    __slots__ = ("_gateway",)

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway

    def policies(self, org: str | None = None) -> Sequence[Policy]:
        """Policies in the order of their ids."""
        policies = self._gateway.current.table.policies
        found = (policies.get(policy_id) for policy_id in sorted(policies.ids))
        return [policy for policy in found if policy is not None and org in (None, policy.org)]

    def policy(self, policy_id: str, org: str | None = None) -> Policy | None:
        policy = self._gateway.current.table.policies.get(policy_id)
        return policy if policy is not None and org in (None, policy.org) else None

    def apis(self, org: str | None = None) -> Sequence[Definition]:
        """Definitions of the served APIs in the order of their ids."""
        served = self._gateway.current.table.apis
        definitions = (served[api].definition for api in sorted(served))
        return [definition for definition in definitions if org in (None, definition.org)]

    def api(self, api_id: str, org: str | None = None) -> Definition | None:
        served = self._gateway.current.table.apis.get(api_id)
        return served.definition if served is not None and org in (None, served.definition.org) else None

    async def health(self, api_id: str) -> ApiHealth:
        health = await self._gateway.api_counters(api_id)
        if health is None:
            raise Rejected(404, "API ID not found")
        return health

    def chain(self, api_id: str) -> Any:
        view = self._gateway.chain_view(api_id)
        if view is None:
            raise Rejected(404, "API not found")
        return view

    async def decision(self, request_id: str) -> Decision:
        """The record of one refused request."""
        decision = await self._gateway.store.decisions.get(request_id)
        if decision is None:
            details = ["only refusals are recorded, and the oldest records go first"]
            raise Rejected(404, "Decision not found", details)
        return decision

    async def decisions(self, limit: int, api: str | None = None) -> Sequence[Decision]:
        """The newest records first, those of rules in shadow mode included."""
        return await self._latest(limit, api, shadow=None)

    async def shadow(self, limit: int, api: str | None = None) -> tuple[Sequence[ShadowRule], Sequence[Decision]]:
        """What rules in shadow mode would have refused: summed up by rule, and one by one."""
        decisions = await self._latest(limit, api, shadow=True)
        return _by_rule(decisions), decisions

    async def _latest(self, limit: int, api: str | None, *, shadow: bool | None) -> Sequence[Decision]:
        if not 1 <= limit <= _MOST_DECISIONS:
            raise Rejected(400, f"The parameter 'limit' must be from 1 to {_MOST_DECISIONS}")
        return await self._gateway.store.decisions.latest(limit, api=api or None, shadow=shadow)


def _by_rule(decisions: Sequence[Decision]) -> Sequence[ShadowRule]:
    grouped: dict[tuple[str, str, str, str], list[float]] = {}
    for decision in decisions:
        grouped.setdefault((decision.api, decision.step, decision.rule, decision.code), []).append(decision.at)
    rules = [ShadowRule(*place, count=len(times), last=max(times)) for place, times in grouped.items()]
    return sorted(rules, key=lambda rule: (-rule.count, rule.api, rule.rule))


def paged(items: Sequence[Any], page: int, size: int) -> tuple[Sequence[Any], int]:
    """One page, counted from 1, and the number of pages; page 0: everything, on 0 pages (Tyk's answer)."""
    if page < 1:
        return items, 0
    return items[(page - 1) * size : page * size], -(-len(items) // size)
