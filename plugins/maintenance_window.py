"""Refuse requests while the upstream is being worked on.

    plugins:
      - maintenance_window: {from: 2026-12-24T22:00:00Z, until: 2026-12-25T02:00:00Z, message: Back at two}
        match: {methods: [POST, PUT, DELETE]}

Within the window a request is refused with 503, and `Retry-After` says in how many seconds the window ends. In
`mode: shadow` nobody is refused, and `aiogate shadow` tells how many would have been.
"""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from aiogate import BuildContext, Exchange, Middleware, MiddlewareKind, Model, Problem, Stage, Timestamp, hookimpl


class Config(Model):
    """The window, `from` included and `until` not, and what clients are told."""

    start: Timestamp = Field(alias="from")
    until: Timestamp
    message: str = Field(default="Down for maintenance", min_length=1, max_length=200)

    @model_validator(mode="after")
    def _in_order(self) -> Config:
        if self.until <= self.start:
            raise ValueError("the window ends before it begins")
        return self


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("maintenance_window", Stage.ENTRY, Config, build, "503 during a window of time")


def build(config: Config, context: BuildContext) -> Middleware:
    clock = context.services.clock
    refusal = Problem("maintenance", 503, config.message)

    def refuse_inside(exchange: Exchange) -> Problem | None:
        now = clock.now()
        if not config.start <= now < config.until:
            return None
        left = math.ceil(config.until - now)
        return refusal.because(f"the window ends in {left} s").with_header("Retry-After", str(left))

    return Middleware(on_request=refuse_inside)
