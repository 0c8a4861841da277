"""Change the headers of a response on its way to the client.

    plugins:
      - response_headers: {remove: [X-Internal], set: {X-From: aiogate}, add: {X-Seen: "1"}}

Removed first, then set, then added. Refusals made before the request got this far are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from aiogate import (
    BuildContext,
    EditableHeader,
    Exchange,
    HeaderValue,
    Middleware,
    MiddlewareKind,
    Model,
    Response,
    Stage,
    hookimpl,
)


class Config(Model):
    """`set` replaces every header of a name by one, `add` puts one more, `remove` drops all of a name."""

    set: Mapping[EditableHeader, HeaderValue] = Field(default_factory=dict)
    add: Mapping[EditableHeader, HeaderValue] = Field(default_factory=dict)
    remove: tuple[EditableHeader, ...] = ()


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
