"""All open tunnels, and whether each may stay.

A tunnel lasts long after the request that opened it was let through. So when a key is written or deleted, when other
policies or definitions are loaded, and when a session or an API expires, the question is asked again for each tunnel
that it may concern: is there still a session, and does it still open this API? Who would not be let in any more is
let out.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

from aiogate.chain.authorise import authorise
from aiogate.chain.run import decision_of
from aiogate.domain.session import Session
from aiogate.errors import PROBLEMS, Problem
from aiogate.proxy.tunnel import GOING_AWAY, POLICY
from aiogate.stores.base import StoreUnavailable

if TYPE_CHECKING:
    from aiogate.chain.compile import CompiledApi
    from aiogate.chain.exchange import Exchange
    from aiogate.clock import Clock
    from aiogate.proxy.router import Current, RouteTable
    from aiogate.proxy.tunnel import Tunnel
    from aiogate.stores.repositories import SessionDirectory

__all__ = ["Tunnels"]

_log = logging.getLogger("aiogate.listener")

INTERVAL: Final = 30.0
"""Seconds after which everything is asked again, whatever was heard: another node may have written."""
RETRY: Final = 5.0
"""Seconds after which a store that did not answer is asked again."""
AT_A_TIME: Final = 200
"""Tunnels that are looked at before requests get their turn."""


class Watched:
    """A tunnel with what let it through."""

    __slots__ = ("_found", "api", "credential_ends", "ends_at", "exchange", "tunnel")

    def __init__(self, tunnel: Tunnel, exchange: Exchange, api: CompiledApi) -> None:
        self.tunnel = tunnel
        self.exchange = exchange
        self.api = api
        self._found = False
        self.credential_ends = inf
        """When what was presented ends, a token say, if that is not the end of the stored session."""
        self.ends_at = 0.0
        self.schedule()

    def found(self, stored: Session) -> None:
        """What the directory says about the session now."""
        session = self.exchange.session
        assert session is not None
        if not self._found and session.expires >= 1 and session.expires != stored.expires:
            self.credential_ends = session.expires
        self._found = True
        self.exchange.session = stored
        self.schedule()

    def schedule(self) -> None:
        """Say when it ends by itself, in epoch seconds."""
        session = self.exchange.session
        expires = session.expires if session is not None and session.expires >= 1 else inf
        self.ends_at = min(expires, self.credential_ends, *_expiries(self.exchange, self.api))


class Tunnels:
    """The tunnels of the process. `sessions` is None where no API has any."""

    def __init__(self, current: Current, clock: Clock, sessions: SessionDirectory | None) -> None:
        self._current = current
        self._clock = clock
        self._sessions = sessions
        self._open: dict[Tunnel, Watched] = {}
        self._table: RouteTable | None = None
        self._written: set[str] = set()
        """Stored names of sessions that must be looked up again."""
        self._due = 0.0
        self._next_end = inf
        self._review: asyncio.Task[None] | None = None
        self._ignore = sessions.listen(self._heard) if sessions is not None else lambda: None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, tunnel: Tunnel, exchange: Exchange) -> None:
        """Watch a tunnel until `remove`."""
        assert exchange.api is not None
        session = exchange.session
        watched = self._open[tunnel] = Watched(tunnel, exchange, exchange.api)
        if session is not None and self._sessions is not None:
            known = self._sessions.known(session.name_hash, exchange.policies)
            if isinstance(known, Session):
                watched.found(known)
            elif not session.derived:
                self._written.add(session.name_hash)
        self._next_end = min(self._next_end, watched.ends_at)
        if exchange.generation != self._current.table.generation:
            self._table = None

    def remove(self, tunnel: Tunnel) -> None:
        self._open.pop(tunnel, None)

    def sweep(self, now: float) -> None:
        """Ask again where something has changed. `now` is the event loop's time."""
        if not self._open or (self._review is not None and not self._review.done()):
            return
        table, only = self._current.table, None
        if table is not self._table or now >= self._due or self._clock.now() >= self._next_end:
            self._table, self._due = table, now + INTERVAL
        elif self._written:
            only = frozenset(self._written)
        else:
            return
        self._written.clear()
        self._review = asyncio.get_running_loop().create_task(self._ask_again(table, only))
        self._review.add_done_callback(_told)

    async def stop(self) -> None:
        """Ask no more."""
        self._ignore()
        self._ignore = lambda: None
        if self._review is not None:
            self._review.cancel()
            await asyncio.wait([self._review])

    def _heard(self, name_hash: str) -> None:
        if self._open:
            self._written.add(name_hash)

    async def _ask_again(self, table: RouteTable, only: frozenset[str] | None) -> None:
        """Ask for each tunnel, or for those of the sessions of these stored names."""
        for number, watched in enumerate(list(self._open.values()), start=1):
            session = watched.exchange.session
            if watched.tunnel.ended or (only is not None and (session is None or session.name_hash not in only)):
                continue
            try:
                await self._ask(watched, table)
            except StoreUnavailable as error:
                # Nobody is let in meanwhile; who is in stays until there is an answer.
                _log.warning("tunnels could not be looked at again: %s", error)
                self._due = asyncio.get_running_loop().time() + RETRY
                break
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)
        self._next_end = min((watched.ends_at for watched in self._open.values()), default=inf)

    async def _ask(self, watched: Watched, table: RouteTable) -> None:
        api = watched.api
        if api.id not in table.apis and api not in table.own:
            watched.tunnel.end("removed", GOING_AWAY, "the API was removed")
            return
        problem = self._expired(watched) or await self._revoked(watched, table)
        if problem is None:
            return
        exchange = watched.exchange
        exchange.problem = problem = problem.because(f"the WebSocket was closed: {problem.detail}")
        if exchange.version is not None:
            steps = api.chains[exchange.version].steps
            step = next((step for step in steps if step.name == "access"), steps[0])
            api.record(decision_of(problem, api, step, exchange))
        watched.tunnel.end("revoked", POLICY, problem.message)

    def _expired(self, watched: Watched) -> Problem | None:
        now = self._clock.now()
        api, version = _expiries(watched.exchange, watched.api)
        if now >= api:
            return PROBLEMS["api_expired"].because(f"the API expired at {api:.0f}")
        if now >= version:
            return PROBLEMS["version_expired"].because(f"the version expired at {version:.0f}")
        if now >= watched.credential_ends:
            return PROBLEMS["key_expired"].because(f"the credential ended at {watched.credential_ends:.0f}")
        return None

    async def _revoked(self, watched: Watched, table: RouteTable) -> Problem | None:
        exchange = watched.exchange
        session = exchange.session
        if session is None or self._sessions is None:
            return None
        if session.derived:
            again = self._sessions.derived_again(session, table.policies)
            if not isinstance(again, Session):
                return PROBLEMS["key_unknown"].because(again.reason)
            exchange.session = replace(again, expires=session.expires)
        else:
            found = await self._sessions.current(session.name_hash, table.policies)
            if not isinstance(found, Session):
                reason = "the key or user was deleted" if found.missing else found.reason
                return PROBLEMS["key_unknown"].because(reason)
            if found.kind != session.kind:
                return PROBLEMS["key_unknown"].because(f"its session is of kind {found.kind} now")
            if (found.password, found.secret) != (session.password, session.secret):
                return PROBLEMS["auth_failed"].because("the password or secret was changed")
            watched.found(found)
        definition = watched.api.definition
        check = authorise(watched.api.id, versioned=definition.versions is not None, clock=self._clock)
        outcome = check(exchange)
        assert outcome is None or isinstance(outcome, Problem)
        return outcome


def _expiries(exchange: Exchange, api: CompiledApi) -> tuple[float, float]:
    """Epoch seconds at which the API and the version expire."""
    definition = api.definition
    declared = definition.versions.list.get(exchange.version or "") if definition.versions is not None else None
    version = declared.expires if declared is not None else None
    return definition.expires or inf, version or inf


def _told(review: asyncio.Task[None]) -> None:
    if not review.cancelled() and review.exception() is not None:
        _log.error("a bug while tunnels were looked at again", exc_info=review.exception())
