"""One row of a route table: method, path, handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

__all__ = ["Route"]

Route = tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]
"""The path is without a trailing slash; both spellings are mounted. A variable part is written `{name:[^/]+}`."""
