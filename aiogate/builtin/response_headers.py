"""Change the headers of a response on its way to the client.

    plugins:
      - response_headers: {remove: [X-Internal], set: {X-From: aiogate}, add: {X-Seen: "1"}}

Removed first, then set, then added. Refusals made before the request got this far are left alone.
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
        "response_headers",
        Stage.REQUEST,
        Config,
        build,
        "changes the headers of a response on its way to the client",
        refuses=False,
    )


def build(config: Config, context: BuildContext) -> Middleware:
    replaced, added, removed = tuple(config.set.items()), tuple(config.add.items()), config.remove

    def edit(exchange: Exchange, response: Response) -> None:
        for name in removed:
            response.remove(name)
        for name, value in replaced:
            response.set(name, value)
        for name, value in added:
            response.headers.add(name, value)

    return Middleware(on_response=edit)
