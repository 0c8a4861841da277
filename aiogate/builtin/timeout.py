"""Bound the time that the upstream has for a request.

    plugins:
      - timeout: 5s
      - timeout: 1s
        match: {paths: [/quick/*]}

The time is that until the head of the response, connecting and a second attempt included. Of several entries that match
the later one in the list holds. `upstream.timeouts` hold as well: this only makes a request end sooner.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aiogate import BuildContext, Duration, Exchange, Middleware, MiddlewareKind, Model, Stage, hookimpl


class Config(Model):
    """`limit` is above zero."""

    shorthand = "limit"

    limit: Annotated[Duration, Field(gt=0)]


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind(
        "timeout", Stage.REQUEST, Config, build, "bounds the time that the upstream has", refuses=False
    )


def build(config: Config, context: BuildContext) -> Middleware:
    limit = config.limit

    def bound(exchange: Exchange) -> None:
        exchange.upstream_timeout = limit

    return Middleware(on_request=bound)
