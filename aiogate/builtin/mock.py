"""Answer by itself, without an upstream.

    plugins:
      - mock: {status: 200, json: {hello: world}}
      - mock: {status: 404, body: gone, headers: {Content-Type: text/plain}}
        match: {paths: [/old/*]}

The answer is given after authentication and limits, so a mocked API is protected like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import Field, model_validator

from aiogate import (
    BuildContext,
    Exchange,
    HeaderName,
    HeaderValue,
    Middleware,
    MiddlewareKind,
    Model,
    Response,
    Stage,
    hookimpl,
)


class Config(Model):
    """The answer: `body` is text, `json` any value that is rendered as JSON; at most one of the two."""

    shorthand = "body"

    status: int = Field(default=200, ge=200, le=599)
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)
    body: str | None = None
    json_: Any = Field(default=None, alias="json")

    @model_validator(mode="after")
    def _one_body(self) -> Config:
        if self.body is not None and self.json_ is not None:
            raise ValueError("`body` and `json` cannot stand together")
        return self


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind(
        "mock", Stage.CACHE, Config, build, "a fixed answer without an upstream", refuses=False, answers=True
    )


def build(config: Config, context: BuildContext) -> Middleware:
    if config.json_ is not None:
        body, kind = orjson.dumps(config.json_) + b"\n", "application/json"
    else:
        body, kind = (config.body or "").encode(), "text/plain; charset=utf-8"
    headers = dict(config.headers)
    if body and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    raw = Response(config.status, body, headers).wire_headers()

    def answer(exchange: Exchange) -> Response:
        return Response(config.status, body, raw_headers=list(raw))

    return Middleware(on_request=answer)
