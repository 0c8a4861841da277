"""`/openapi.json`: the control port's description of itself, made from the routes that are mounted.

A handler says beside its code what only it knows: its summary, query parameters, body and refusals (`described`). Path
parameters, the credential and what the edge answers for every call follow from the route, so that they cannot be said
wrongly. Routes of plugins are their own and come and go with reloads; they are not described.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiogate import __version__
from aiogate.control.envelopes import ADMIN, DASHBOARD, GATEWAY, OPEN, surface_of
from aiogate.control.operations.tyk_fields import API_FIELDS, POLICY_FIELDS, Row
from aiogate.control.requests import LARGEST_NUMBER
from aiogate.control.routes import Route
from aiogate.domain.session import SessionDocument
from aiogate.domain.user import OrganisationDetails, UserDetails

__all__ = ["Operation", "described", "document", "operation_of"]

_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_MARK: Final = "__control_operation__"
_VARIABLE: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_MEANINGS: Final = {
    400: "What was sent cannot be used; the message says why",
    401: "The access key or the secret is missing or wrong",
    403: "The secret is missing or wrong, or the caller has no permission",
    404: "It does not exist",
    408: "The body did not arrive in time",
    409: "Something else stands in its way; the message lists it",
    413: "The body is larger than 1 MiB",
    421: "The control port is not called by this host name",
    422: "The reload was refused; the old generation keeps serving",
    507: "The disk is full",
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
_TEXT: Final = {"type": ["string", "null"]}
_CLIENT: Final = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("client_id", "redirect_uri", "api_id", "policy_id", "secret", "description"), _TEXT),
        "redirect_uris": {"type": ["array", "null"], "items": {"type": "string"}},
        "meta_data": {"type": ["object", "null"]},
        "public": {"type": ["boolean", "null"]},
    },
}


def _fields(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict.fromkeys(names, _TEXT)}


_FORMS: Final = {
    "authorisation": _fields(
        "client_id", "api_id", "response_type", "redirect_uri", "state", "scope", "code_challenge",
        "code_challenge_method", "key_rules",
    ),
    "token of a client": _fields("token", "token_type_hint", "client_id", "org_id"),
    "client and secret": _fields("client_id", "client_secret", "org_id"),
}  # fmt: skip
"""Bodies that may be forms."""
_BODIES: Final = {
    "session": _SESSION,
    "pem": {"type": "string"},
    "policies": _CHOICE_OF_POLICIES,
    "api": {"$ref": "#/components/schemas/ClassicApi"},
    "wrapped api": {
        "type": "object",
        "required": ["api_definition"],
        "properties": {
            "api_definition": {"$ref": "#/components/schemas/ClassicApi"},
            "hook_references": {"type": "array", "maxItems": 0},
        },
    },
    "user": {"$ref": "#/components/schemas/UserDetails"},
    "organisation": {"$ref": "#/components/schemas/OrganisationDetails"},
    "password": {
        "type": "object",
        "required": ["new_password"],
        "properties": {
            "new_password": {"type": "string", "minLength": 1, "maxLength": 72},
            "current_password": {"type": ["string", "null"]},
        },
    },
    "policy": {"$ref": "#/components/schemas/ClassicPolicy"},
    "client": _CLIENT,
    **_FORMS,
}
_WHOLE: Final = {"type": "integer", "minimum": -LARGEST_NUMBER, "maximum": LARGEST_NUMBER}
_QUERY: Final[Mapping[str, Any]] = {
    "p": _WHOLE,
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    "format": {"type": "string", "enum": ["classic", "native"]},
}
"""Query parameters that are not any text. A flag is on unless it is empty, `0` or `false`: any text is one."""
_KINDS: Final[Mapping[str, Any]] = {
    "text": {"type": ["string", "null"]},
    "flag": {"type": ["boolean", "null"]},
    "number": {"type": ["number", "null"]},
    "texts": {"type": ["array", "null"], "items": {"type": "string"}},
    "objects": {"type": ["array", "null"], "items": {"type": "object"}},
    "any": {},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a handler says about itself.

    `query` are its parameters by name (`_QUERY`). `body` is empty or a name in `_BODIES`. `refuses` are the statuses of
    its own refusals; those of the edge and of the body are added by the route. `answers` are the media types of what it
    answers well.
    """

    summary: str
    query: tuple[str, ...] = ()
    body: str = ""
    refuses: tuple[int, ...] = ()
    answers: tuple[str, ...] = ("application/json",)


def described(
    summary: str,
    *,
    query: Iterable[str] = (),
    body: str = "",
    refuses: Iterable[int] = (),
    answers: Iterable[str] = ("application/json",),
) -> Callable[[_Handler], _Handler]:
    """Describe the handler below; see `Operation`."""
    operation = Operation(summary, tuple(query), body, tuple(refuses), tuple(answers))

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
    schema = _lenient(SessionDocument.model_json_schema(ref_template="#/components/schemas/{model}"))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiogate control API",
            "version": __version__,
            "description": "Paths are served with and without a slash at the end.",
        },
        "paths": paths,
        "components": {
            "schemas": {
                **schema.pop("$defs", {}),
                "SessionDocument": schema,
                "UserDetails": _lenient(UserDetails.model_json_schema()),
                "OrganisationDetails": _lenient(OrganisationDetails.model_json_schema()),
                "ClassicApi": _classic(API_FIELDS),
                "ClassicPolicy": _classic(POLICY_FIELDS),
            },
            "securitySchemes": {
                "secret": {"type": "apiKey", "in": "header", "name": "X-Tyk-Authorization"},
                "admin": {"type": "apiKey", "in": "header", "name": "admin-auth"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "access_key": {"type": "apiKey", "in": "header", "name": "Authorization"},
            },
        },
    }


def _lenient(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with null allowed for every property that need not be there: it means absent, as in Tyk."""
    for model in (schema, *schema.get("$defs", {}).values()):
        required = model.get("required", ())
        model["properties"] = {
            name: inner if name in required else {"anyOf": [inner, {"type": "null"}]}
            for name, inner in model.get("properties", {}).items()
        }
    return schema


def _classic(table: Mapping[str, Row]) -> dict[str, Any]:
    """The schema of Tyk's JSON, from the same table that translates it: the kinds of its mapped fields.

    Fields below an object are left out, and so are the many that are ignored or refused.
    """
    kinds = {name: _KINDS[row.kind] for name, row in table.items() if row.verdict == "mapped" and "." not in name}
    objects = {name.partition(".")[0]: {"type": ["object", "null"]} for name in table if "." in name}
    return {"type": "object", "properties": {**objects, **kinds}}


def _described(path: str, shown: str, method: str, operation: Operation) -> dict[str, Any]:
    surface = surface_of(path)
    statuses = {200, 421, *operation.refuses}
    if surface is not OPEN:
        statuses.add(503)
    if surface is GATEWAY:
        statuses.add(403)
        security: list[dict[str, list[str]]] = [{"secret": []}, {"bearer": []}]
    elif surface is DASHBOARD:
        statuses |= {401, 403}
        security = [{"access_key": []}, {"bearer": []}]
        if path in ("/api/system/status", "/api/system/nodes"):
            security.append({"secret": []})
    elif surface is ADMIN:
        statuses.add(401)
        security = [{"admin": []}]
    else:
        security = []
    if operation.body:
        statuses |= {400, 408, 413}
    text = {"type": "string"}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {**text, "minLength": 1}}
        for name in _VARIABLE.findall(path)
    ] + [{"name": name, "in": "query", "required": False, "schema": _QUERY.get(name, text)} for name in operation.query]
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{method.lower()} {shown}",
        "security": security,
        "responses": {str(status): _response(status, method, operation) for status in sorted(statuses)},
    }
    if parameters:
        found["parameters"] = parameters
    if operation.body:
        kind = "application/x-pem-file" if operation.body == "pem" else "application/json"
        content = {kind: {"schema": _BODIES[operation.body]}}
        if operation.body in _FORMS:
            content["application/x-www-form-urlencoded"] = {"schema": _as_form(_FORMS[operation.body])}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {name: {"type": "string"} for name in schema["properties"]}}


def _response(status: int, method: str, operation: Operation) -> dict[str, Any]:
    response: dict[str, Any] = {"description": _MEANINGS.get(status, "Done")}
    if method != "HEAD":
        types = operation.answers if status == 200 else ("application/json",)
        response["content"] = {name: {"schema": {}} for name in types}
    return response
