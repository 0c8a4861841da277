"""Say which paths of an API may be asked for, and which need no credential.

    plugins:
      - paths:
          open: [/health, /public/*]
          block: [/internal/*, {path: "^/v[0-9]+/admin", methods: [POST, DELETE]}]
      - paths: {allow: [/v1/*, /v2/*]}

Decided before authentication. `open` goes before `block`, and `block` before `allow`, whichever entry they stand in;
with `allow`, everything else is refused. An open path skips authentication, rights and the limits of keys, not the
limits of the API as a whole. Each entry with `allow` stands for itself: a request must be in all that match it.

Paths are those of `match`: a glob begins with `/`, a pattern with `^`. A block also hits what some servers would make
of a path: `/secret;x=1` and `/secret/` are blocked with `/secret`.
"""

from __future__ import annotations

from pydantic import model_validator

from aiogate import (
    BuildContext,
    Exchange,
    Middleware,
    MiddlewareKind,
    Model,
    PathEntry,
    PathTable,
    Problem,
    Stage,
    hookimpl,
)


class Config(Model):
    """Lists of paths, each entry alone or with methods."""

    allow: tuple[PathEntry, ...] | None = None
    block: tuple[PathEntry, ...] = ()
    open: tuple[PathEntry, ...] = ()

    @model_validator(mode="after")
    def _some(self) -> Config:
        if self.allow == ():
            raise ValueError("`allow` is empty; leave it out to allow every path")
        if not (self.allow or self.block or self.open):
            raise ValueError("needs a path under `allow`, `block` or `open`")
        return self


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("paths", Stage.VERSION, Config, build, "paths that are allowed, blocked or open")


def build(config: Config, context: BuildContext) -> Middleware:
    allowed = PathTable(config.allow) if config.allow is not None else None
    blocked = PathTable(config.block)
    opened = PathTable(config.open)
    if config.open and context.mode == "shadow":
        raise ValueError("`open` lets requests in, which cannot be tried in shadow mode")
    # Tyk's words for both (spec/middleware.md section 2).
    refusal = Problem("path_denied", 403, "Requested endpoint is forbidden", event="VersionFailure")

    def opens(exchange: Exchange) -> bool:
        return opened.lets_in(exchange.method, exchange.tail) is not None

    def check(exchange: Exchange) -> Problem | None:
        if exchange.open:
            return None
        found = blocked.keeps_out(exchange.method, exchange.tail)
        if found is not None:
            return refusal.because(f"{exchange.method} {exchange.tail} is blocked by `{found}`")
        if allowed is not None and allowed.lets_in(exchange.method, exchange.tail) is None:
            return refusal.because(f"{exchange.method} {exchange.tail} is in none of the allowed paths")
        return None

    return Middleware(
        on_request=check if blocked or allowed is not None else None,
        opens=opens if opened else None,
    )
