"""Limit the requests of an API as a whole, whoever sends them.

    plugins:
      - rate_limit: 1000/1m

The limit of a key or user comes from its session. All limits that a request meets are taken together or not at all, by
the core's limit step; this plugin only says which bucket the API adds.
"""

from __future__ import annotations

from aiogate import PROBLEMS, Bucket, BuildContext, Middleware, MiddlewareKind, Model, Rate, Stage, hookimpl


class Config(Model):
    """`rate` is requests per window, such as `100/1s`. The window begins with its first admitted request."""

    shorthand = "rate"

    rate: Rate


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("rate_limit", Stage.LIMIT, Config, build, "requests per window for the API as a whole")


def build(config: Config, context: BuildContext) -> Middleware:
    key = f"api:{context.definition.id}:{context.ordinal}"
    bucket = Bucket(key, config.rate.limit, config.rate.window, "api_rate")
    return Middleware(buckets=((bucket, PROBLEMS["api_rate_limited"]),))
