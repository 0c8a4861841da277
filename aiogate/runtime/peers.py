"""What this gateway does about what others on its store tell it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiogate.runtime.gateway import Gateway
    from aiogate.stores.base import Node

__all__ = ["GatewayListener"]


class GatewayListener:
    """Passes messages on to the parts that they concern."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reloads: set[asyncio.Future[object]] = set()

    def describe(self, id: str) -> Node:
        return self._gateway.node(id)

    def forget(self, name_hash: str) -> None:
        self._gateway.sessions.forget(name_hash)
        self._gateway.passwords.forget(name_hash)

    def distrust(self) -> None:
        self._gateway.sessions.distrust()

    def reload(self) -> None:
        # Whoever asks while one runs shares the next one, so many calls make few reloads.
        reloading: asyncio.Future[object] = asyncio.ensure_future(self._gateway.reload("another gateway"))
        self._reloads.add(reloading)
        reloading.add_done_callback(self._reloads.discard)
