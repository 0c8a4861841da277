"""Who calls: the dashboard user that the edge found. Everything under `/api` is limited to that user's organisation."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from aiogate.control.operations.accounts import Caller

__all__ = ["CALLER", "caller_org"]

CALLER: Final = web.RequestKey[Caller]("caller")


def caller_org(request: web.Request) -> str:
    """The organisation that overrides whatever a body says."""
    return request[CALLER].org
