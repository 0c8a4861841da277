"""The shapes of replies. Each surface has its own words for yes and no; handlers pick the surface, not the shape.

`/tyk` says `{"status": …, "message": …}`, `/api` says `{"Status": …, "Message": …, "Meta": …}`, everything else speaks
like the gateway does to its clients. Every body is JSON and ends with a newline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web

__all__ = [
    "ADMIN",
    "DASHBOARD",
    "GATEWAY",
    "OPEN",
    "Surface",
    "change",
    "dashboard_ok",
    "encode",
    "gateway_ok",
    "reply",
    "surface_of",
    "written",
]


@dataclass(frozen=True, slots=True)
class Surface:
    """How one part of the control port refuses.

    `refusal` makes the body from status, message and further sentences; the other fields are the surface's own texts.
    """

    refusal: Callable[[int, str, Sequence[str]], Mapping[str, Any]]
    not_found: str
    method_refused: str
    too_large: str = "Request is too large"


def _gateway_refusal(status: int, message: str, details: Sequence[str]) -> Mapping[str, Any]:
    body: dict[str, Any] = {"status": "error", "message": message}
    if details:
        body["details"] = list(details)
    return body


def _dashboard_refusal(status: int, message: str, details: Sequence[str]) -> Mapping[str, Any]:
    return {"Status": "Error", "Message": message, "Meta": list(details) or None}


def _open_refusal(status: int, message: str, details: Sequence[str]) -> Mapping[str, Any]:
    body: dict[str, Any] = {"error": message, "code": HTTPStatus(status).name.lower()}
    if details:
        body["details"] = list(details)
    return body


ADMIN: Final = Surface(_dashboard_refusal, "Not found", "Method not supported")
GATEWAY: Final = Surface(_gateway_refusal, "Not found", "Method not supported")
DASHBOARD: Final = Surface(_dashboard_refusal, "Not found", "Method not supported")
OPEN: Final = Surface(_open_refusal, "Not Found", "Method Not Allowed")


def surface_of(path: str) -> Surface:
    """The surface that a path belongs to, whether or not anything is there."""
    first = path.lstrip("/").partition("/")[0]
    return {"tyk": GATEWAY, "api": DASHBOARD, "admin": ADMIN}.get(first, OPEN)


def gateway_ok(message: str = "", **further: Any) -> dict[str, Any]:
    return {"status": "ok", "message": message, **further}


def dashboard_ok(message: str, meta: Any = None) -> dict[str, Any]:
    return {"Status": "OK", "Message": message, "Meta": meta}


def change(key: str, action: str, key_hash: str = "", warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Tyk's answer to a write: `{"key", "status", "action"[, "key_hash"]}`, with our warnings behind it."""
    body: dict[str, Any] = {"key": key, "status": "ok", "action": action}
    if key_hash:
        body["key_hash"] = key_hash
    if warnings:
        body["warnings"] = list(warnings)
    return body


def written(body: dict[str, Any], ignored: Sequence[str], warnings: Sequence[str]) -> dict[str, Any]:
    """The answer to a write that waits for the next reload, with what became of its fields."""
    body["pending"] = "reload"
    if ignored:
        body["ignored"] = list(ignored)
    if warnings:
        body["warnings"] = list(warnings)
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def encode(value: Any) -> bytes:
    """JSON and a newline. Dataclasses are shown field by field; text that is not Unicode is shown escaped."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(value, default=_plain, option=options)
    except TypeError:
        # A path or header with raw bytes in a decision record, or an integer past 64 bits: the slow encoder takes both.
        return json.dumps(_unslotted(value), default=_plain).encode() + b"\n"


def _unslotted(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _unslotted(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): _unslotted(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unslotted(inner) for inner in value]
    return value


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=encode(value), content_type="application/json", headers=headers)
