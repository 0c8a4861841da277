"""Implements a hook that does not exist."""

from aiogate import hookimpl


@hookimpl
def aiogate_middlewares():
    return []
