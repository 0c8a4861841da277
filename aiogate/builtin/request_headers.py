"""Change the headers of a request on its way upstream.

    plugins:
      - request_headers: {remove: [X-Internal], set: {X-From: aiogate}, add: {X-Seen: "1"}}

Removed first, then set, then added. What an earlier step, such as `strip_credentials`, has removed stays removed.
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
