"""Change the headers of a request on its way upstream.

    plugins:
      - request_headers: {remove: [X-Internal], set: {X-From: aiogate}, add: {X-Seen: "1"}}

Removed first, then set, then added. What an earlier step, such as `strip_credentials`, has removed stays removed.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from aiogate import BuildContext, Exchange, Middleware, MiddlewareKind, Model, Response, Stage, hookimpl

# Framing and connection belong to one hop, and who the client is the gateway says itself.
_OURS = frozenset(
    {
        "connection", "content-length", "expect", "forwarded", "host", "http2-settings", "keep-alive",
        "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding",
        "upgrade", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id",
    }
)  # fmt: skip


class Config(Model):
    """`set` replaces every header of a name by one, `add` puts one more, `remove` drops all of a name."""

    set: dict[str, str] = Field(default_factory=dict)
    add: dict[str, str] = Field(default_factory=dict)
    remove: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sendable(self) -> Config:
        for name in (*self.set, *self.add, *self.remove):
            if name.lower().replace("_", "-") in _OURS:
                raise ValueError(f"the header {name} is the gateway's own to say")
            Response().set(name, "")
        for name, value in (*self.set.items(), *self.add.items()):
            Response().set(name, value)
        return self


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind(
        "request_headers",
        Stage.REQUEST,
        Config,
        build,
        "changes the headers of a request on its way upstream",
        refuses=False,
    )


def build(config: Config, context: BuildContext) -> Middleware:
    replaced, added, removed = tuple(config.set.items()), tuple(config.add.items()), config.remove

    def edit(exchange: Exchange) -> None:
        edits = exchange.upstream_headers
        for name in removed:
            edits.remove(name)
        for name, value in replaced:
            edits.set(name, value)
        for name, value in added:
            edits.add(name, value)

    return Middleware(on_request=edit)
