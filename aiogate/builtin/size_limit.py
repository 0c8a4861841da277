"""Refuse requests with a body over a size.

    plugins:
      - size_limit: 1MiB
      - size_limit: 64KiB
        match: {paths: [/comments/*]}

A body that announces its length is refused before any of it is read, and before `100 Continue` is sent. One that does
not is counted while it streams: past the limit the request upstream is aborted and the client gets the refusal, or
loses the connection when the response has begun. Of several entries that match the smallest holds.
"""

from __future__ import annotations

from aiogate import PROBLEMS, BuildContext, Exchange, Middleware, MiddlewareKind, Model, Problem, Size, Stage, hookimpl


class Config(Model):
    """`limit` is bytes of the body, its framing not counted; `0B` lets no body through."""

    shorthand = "limit"

    limit: Size


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("size_limit", Stage.ENTRY, Config, build, "refuses bodies over a size")


def build(config: Config, context: BuildContext) -> Middleware:
    limit = config.limit
    refusal = PROBLEMS["request_too_large"]
    enforced = context.mode == "enforce"

    def check(exchange: Exchange) -> Problem | None:
        body = exchange.body
        if not body.present:
            return None
        length = body.length
        if length is not None:
            return refusal.because(f"{length} bytes are announced, {limit} allowed") if length > limit else None
        if enforced:
            # Nobody knows yet; in shadow mode nobody will, because only the cap counts what comes.
            body.cap(limit)
        return None

    return Middleware(on_request=check)
