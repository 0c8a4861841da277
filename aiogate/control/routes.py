"""One row of a route table: method, path, handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

__all__ = ["Route", "other_than"]

Route = tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]
"""The path is without a trailing slash; both spellings are mounted. A variable part is written `{name:[^/]+}`."""


def other_than(*names: str) -> str:
    """The pattern of a variable part that is none of these, which have routes of their own with other methods."""
    return f"(?!(?:{'|'.join(names)})(?:/|$))[^/]+"
