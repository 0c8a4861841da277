"""Refuses to be built, in two ways."""

from aiogate import MiddlewareKind, Model, Stage, hookimpl


class Config(Model):
    shorthand = "why"

    why: str


@hookimpl
def aiogate_middleware():
    return MiddlewareKind("fussy", Stage.REQUEST, Config, build)


def build(config, context):
    if config.why == "value":
        raise ValueError("not today")
    raise ZeroDivisionError("a bug")
