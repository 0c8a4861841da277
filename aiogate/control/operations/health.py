"""Liveness and readiness: what load balancers ask, without a credential."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiogate import __version__
from aiogate.control.operations.gateway import ControlledGateway, ReloadVerdict
from aiogate.stores.base import StoreUnavailable

__all__ = ["hello", "ready", "verdict_view"]


async def hello(gateway: ControlledGateway) -> Mapping[str, Any]:
    """Tyk's liveness body (spec/middleware.md section 9) with the loaded generation."""
    trouble = await _store_trouble(gateway)
    check: dict[str, Any] = {
        "status": "fail" if trouble else "pass",
        "componentType": "datastore",
        "time": datetime.fromtimestamp(gateway.clock.now(), UTC).isoformat(timespec="seconds"),
    }
    if trouble:
        check["output"] = trouble
    return {
        "status": "fail" if trouble else "pass",
        "version": f"v{__version__}",
        "description": "aiogate",
        "generation": gateway.current.table.generation,
        "details": {gateway.store.name: check},
    }


async def ready(gateway: ControlledGateway) -> tuple[bool, Mapping[str, Any]]:
    """Whether requests should be sent here, and why not. A refused reload does not make a gateway unready."""
    trouble = await _store_trouble(gateway)
    reason = _unready(gateway, trouble)
    body: dict[str, Any] = {"status": "unavailable" if reason else "ready"}
    if reason:
        body["reason"] = reason
    elif trouble:
        body["store"] = trouble
    body["generation"] = gateway.current.table.generation
    body["last_reload"] = verdict_view(gateway.last_reload)
    if gateway.fallback is not None:
        body["fallback"] = str(gateway.fallback)
    return not reason, body


def _unready(gateway: ControlledGateway, trouble: str) -> str:
    if gateway.draining:
        return "Gateway is shutting down"
    if gateway.current.table.generation < 1:
        return "A successful API reload did not happen"
    return f"Store connection not available: {trouble}" if trouble and gateway.store.needed else ""


async def _store_trouble(gateway: ControlledGateway) -> str:
    try:
        # A name that no SHA-256 can have: the answer is nothing, the question is whether there is one.
        await gateway.store.sessions.get("ready")
    except StoreUnavailable as trouble:
        return str(trouble) or "no answer"
    return ""


def verdict_view(verdict: ReloadVerdict | None) -> Mapping[str, Any] | None:
    """A reload's verdict as plain values; None before the first."""
    if verdict is None:
        return None
    return {
        "ok": verdict.ok,
        "generation": verdict.generation,
        "at": verdict.at,
        "seconds": verdict.seconds,
        "changed": verdict.changed,
        "diagnostics": list(verdict.diagnostics),
    }
