"""What an organisation's own session adds to the chains of its APIs: is it active, and are its limits used up?

An API pays for this only while its organisation has a session: then `guard` puts chains with these steps into the place
of its own, in one assignment. Requests that run keep the chain that they began with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from aiogate.chain.compile import CORE, Chain, CompiledApi, Step, freeze
from aiogate.chain.contracts import Stage
from aiogate.chain.limit import Contribution
from aiogate.errors import PROBLEMS, Position, Problem

if TYPE_CHECKING:
    from aiogate.chain.contracts import OnRequest
    from aiogate.chain.exchange import Exchange
    from aiogate.domain.organisation import Organisation

__all__ = ["guard"]

_REFUSALS: Final = {
    "organisation_rate": PROBLEMS["organisation_rate_limited"],
    "organisation_quota": PROBLEMS["organisation_quota_exceeded"],
}


def guard(api: CompiledApi, organisations: Mapping[str, Organisation]) -> None:
    """Give an API the chains that fit its organisation: with its steps while it has a session, plain otherwise."""
    if (api.org in organisations) == (api.plain is not None):
        return
    if api.plain is not None:
        api.chains, api.plain = api.plain, None
        return
    api.plain, api.chains = api.chains, _Guarded(api, api.chains, organisations)


class _Guarded(Mapping[str, Chain]):
    """The chains of an API with its organisation's steps, each made when it is first asked for.

    An organisation may have thousands of APIs, and getting a session must not hold up their requests.
    """

    __slots__ = ("_api", "_made", "_organisations", "_plain")

    def __init__(self, api: CompiledApi, plain: Mapping[str, Chain], organisations: Mapping[str, Organisation]) -> None:
        self._api = api
        self._plain = plain
        self._organisations = organisations
        self._made: dict[str, Chain] = {}

    def __getitem__(self, version: str) -> Chain:
        chain = self._made.get(version)
        if chain is None:
            position = self._api.definition.source.locate_key(("org",))
            chain = _guarded(self._api, self._plain[version], self._organisations, position)
            self._made[version] = chain
        return chain

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)


def _guarded(api: CompiledApi, chain: Chain, organisations: Mapping[str, Organisation], position: Position) -> Chain:
    check = Step("organisation", Stage.VERSION, CORE, position, on_request=_active(api.org, organisations))
    take = api.takers[chain.version](organisation=_buckets(api, organisations, position))
    limits = next((step for step in chain.steps if step.name == "limits" and step.stage is Stage.LIMIT), None)
    shown = limits.on_response if limits is not None else None
    counted = Step(
        "limits", Stage.LIMIT, CORE, limits.position if limits else position, on_request=take, on_response=shown
    )
    steps = [step for step in chain.steps if step is not limits]
    return freeze(api, chain.version, [*steps, check, counted])


def _active(org: str, organisations: Mapping[str, Organisation]) -> OnRequest:
    refusal = PROBLEMS["organisation_inactive"].because(f"the session of organisation {org} has is_inactive set")

    def check(_: Exchange) -> Problem | None:
        found = organisations.get(org)
        return refusal if found is not None and found.inactive else None

    return check


def _buckets(
    api: CompiledApi, organisations: Mapping[str, Organisation], position: Position
) -> Callable[[], tuple[Contribution, ...]]:
    """The organisation's buckets at this moment, made into contributions once for each change of its session."""
    known: Organisation | None = None
    made: tuple[Contribution, ...] = ()

    def contributions() -> tuple[Contribution, ...]:
        nonlocal known, made
        found = organisations.get(api.org)
        if found is not known:
            known = found
            buckets = found.buckets if found is not None else ()
            made = tuple(Contribution(bucket, _REFUSALS[bucket.kind], None, position) for bucket in buckets)
        return made

    return contributions
