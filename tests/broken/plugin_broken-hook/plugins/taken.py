"""Brings a kind whose name is taken."""

from aiogate import Middleware, MiddlewareKind, Model, Stage, hookimpl


@hookimpl
def aiogate_middleware():
    return MiddlewareKind("mock", Stage.CACHE, Model, lambda config, context: Middleware())
