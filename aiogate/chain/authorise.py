"""Stage AUTHORISE: is this session active, in time, and granted this API, version and path?

The order is Tyk's: inactive, expired, API and version, path (spec/middleware.md section 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiogate.config.units import format_timestamp
from aiogate.errors import PROBLEMS, Problem

if TYPE_CHECKING:
    from aiogate.chain.contracts import OnRequest
    from aiogate.chain.exchange import Exchange
    from aiogate.clock import Clock

__all__ = ["authorise"]


def authorise(api: str, *, versioned: bool, clock: Clock) -> OnRequest:
    """The step that every API with authentication has."""

    def check(exchange: Exchange) -> Problem | None:
        session = exchange.session
        if session is None:
            return PROBLEMS["session_missing"].because("no method of authentication left a session")
        if session.inactive:
            return PROBLEMS["key_inactive"].because(session.inactive_reason or "the session is inactive")
        if session.expires >= 1 and clock.now() >= session.expires:
            return PROBLEMS["key_expired"].because(
                f"the session expired {clock.now() - session.expires:.0f} s ago, at {format_timestamp(session.expires)}"
            )
        grant = session.grants.get(api)
        if grant is None:
            granted = ", ".join(sorted(session.grants)) or "no API at all"
            return PROBLEMS["access_denied"].because(f"API {api} is not granted; the session grants {granted}")
        if versioned and grant.versions and exchange.version not in grant.versions:
            granted = ", ".join(sorted(grant.versions))
            return PROBLEMS["access_denied"].because(
                f"version {exchange.version} of API {api} is not granted; the session grants {granted}"
            )
        if grant.paths:
            for rule in grant.paths:
                if rule.allows(exchange.method, exchange.tail):
                    break
            else:
                return PROBLEMS["path_denied"].because(
                    f"none of the {len(grant.paths)} allowed paths matches {exchange.method} {exchange.tail}"
                )
        exchange.grant = grant
        return None

    return check
