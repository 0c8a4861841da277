"""Requests that need no credential, although the API asks for one.

A plugin says which, by `Middleware.opens`. The question is asked once per request, before stage AUTHENTICATE, and only
in chains where some entry opens; the steps of authentication and of rights then let such a request pass. A key's limits
are not met, because there is no session; limits of the API as a whole count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiogate.chain.contracts import OnRequest, Opens
    from aiogate.chain.exchange import Exchange
    from aiogate.config.definition import Match

__all__ = ["opening_step", "unless_open", "where"]


def where(match: Match | None, opens: Opens) -> Opens:
    """The question, asked for the requests that match only."""
    if match is None or not (match.paths or match.methods):
        return opens
    return lambda exchange: match.applies(exchange.method, exchange.tail, exchange.version or "") and opens(exchange)


def opening_step(openers: Sequence[Opens]) -> OnRequest:
    """The step that decides whether a request is open. Anything but True, a coroutine too, leaves it closed."""

    def decide(exchange: Exchange) -> None:
        for opens in openers:
            if opens(exchange) is True:
                exchange.open = True
                return

    return decide


def unless_open(call: OnRequest) -> OnRequest:
    """The step, for the requests that need a credential."""
    return lambda exchange: None if exchange.open else call(exchange)
