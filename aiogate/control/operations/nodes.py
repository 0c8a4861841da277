"""The gateways that share this gateway's store."""

from __future__ import annotations

from collections.abc import Sequence

from aiogate.control.operations.gateway import ControlledGateway
from aiogate.errors import Rejected
from aiogate.stores.base import Node, StoreUnavailable

__all__ = ["call_for_reload", "nodes"]


async def nodes(gateway: ControlledGateway) -> Sequence[Node]:
    """All of them, the oldest first. While the store is away, or serves one gateway, this one."""
    peers = gateway.store.peers
    if peers is None:
        return [gateway.node()]
    try:
        return await peers.nodes() or [gateway.node()]
    except StoreUnavailable:
        return [gateway.node()]


async def call_for_reload(gateway: ControlledGateway) -> None:
    """Tell the others to reload. Raises `Rejected` when they cannot be told."""
    if gateway.store.peers is None:
        return
    try:
        await gateway.store.peers.reload()
    except StoreUnavailable as away:
        raise Rejected(503, "The other gateways cannot be reached", [str(away)]) from away
