"""`/openapi.json`: the control port's description of itself, made from the routes that are mounted.

A handler says beside its code what only it knows: its summary, query parameters, body and refusals (`described`). Path
parameters, the credential and what the edge answers for every call follow from the route, so that they cannot be said
wrongly. Routes of plugins are their own and come and go with reloads; they are not described.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, TypeVar

from aiogate.control.envelopes import DASHBOARD, GATEWAY, OPEN, surface_of
from aiogate.control.routes import Route
from aiogate.domain.session import SessionDocument

__all__ = ["Operation", "described", "document", "operation_of"]

_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_MARK: Final = "__control_operation__"
_VARIABLE: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_MEANINGS: Final = {
    400: "What was sent cannot be used; the message says why",
    401: "The access key is missing or nobody's",
    403: "The secret is missing or wrong",
    404: "It does not exist",
    408: "The body did not arrive in time",
    413: "The body is larger than 1 MiB",
    421: "The control port is not called by this host name",
    422: "The reload was refused; the old generation keeps serving",
    503: "Not now; `/ready` says why, elsewhere try again",
}
_SESSION: Final = {"$ref": "#/components/schemas/SessionDocument"}
_CHOICE_OF_POLICIES: Final = {
    "type": "object",
    "properties": {
        "policy": {"type": "string"},
        "apply_policies": {"type": "array", "items": {"type": "string"}},
    },
}
_BODIES: Final = {
    "session": ("application/json", _SESSION),
    "policies": ("application/json", _CHOICE_OF_POLICIES),
    "pem": ("application/x-pem-file", {"type": "string"}),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a handler says about itself.

    `query` are its parameters by name, all optional text. `body` is empty, `session`, `policies` or `pem`. `refuses`
    are the statuses of its own refusals; those of the edge and of the body are added by the route.
    """

    summary: str
    query: tuple[str, ...] = ()
    body: str = ""
    refuses: tuple[int, ...] = ()


def described(
    summary: str, *, query: Iterable[str] = (), body: str = "", refuses: Iterable[int] = ()
) -> Callable[[_Handler], _Handler]:
    """Describe the handler below; see `Operation`."""
    operation = Operation(summary, tuple(query), body, tuple(refuses))

    def mark(handler: _Handler) -> _Handler:
        setattr(handler, _MARK, operation)
        return handler

    return mark


def operation_of(handler: Callable[..., Any]) -> Operation:
    """What the handler says about itself; one without `described` has its docstring, or its name."""
    said = getattr(handler, _MARK, None)
    if isinstance(said, Operation):
        return said
    text = (handler.__doc__ or "").strip().partition("\n")[0]
    return Operation(text or handler.__name__.replace("_", " ").capitalize(), refuses=(400, 404))


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes, without those for any method, which are the plugins'."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler in routes:
        if method != "*":
            shown = _VARIABLE.sub(r"{\1}", path)
            paths.setdefault(shown, {})[method.lower()] = _described(path, shown, method, operation_of(handler))
    schema = SessionDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiogate control API",
            "version": version("aiogate"),
            "description": "Paths are served with and without a slash at the end.",
        },
        "paths": paths,
        "components": {
            "schemas": {**schema.pop("$defs", {}), "SessionDocument": schema},
            "securitySchemes": {
                "secret": {"type": "apiKey", "in": "header", "name": "X-Tyk-Authorization"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "access_key": {"type": "apiKey", "in": "header", "name": "Authorization"},
            },
        },
    }


def _described(path: str, shown: str, method: str, operation: Operation) -> dict[str, Any]:
    surface = surface_of(path)
    statuses = {200, 421, *operation.refuses}
    if surface is not OPEN:
        statuses.add(503)
    if surface is GATEWAY:
        statuses.add(403)
        security: list[dict[str, list[str]]] = [{"secret": []}, {"bearer": []}]
    elif surface is DASHBOARD:
        statuses.add(401)
        security = [{"access_key": []}, {"bearer": []}]
        if path in ("/api/system/status", "/api/system/nodes"):
            security.append({"secret": []})
    else:
        security = []
    if operation.body:
        statuses |= {400, 408, 413}
    text = {"type": "string"}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {**text, "minLength": 1}}
        for name in _VARIABLE.findall(path)
    ] + [{"name": name, "in": "query", "required": False, "schema": text} for name in operation.query]
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{method.lower()} {shown}",
        "security": security,
        "responses": {str(status): _response(status, method) for status in sorted(statuses)},
    }
    if parameters:
        found["parameters"] = parameters
    if operation.body:
        kind, schema = _BODIES[operation.body]
        found["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    return found


def _response(status: int, method: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": _MEANINGS.get(status, "Done")}
    if method != "HEAD":
        response["content"] = {"application/json": {"schema": {}}}
    return response
