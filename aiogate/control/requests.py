"""Reading what a caller sent: JSON bodies, flags, paging. Every mistake is the caller's and says where it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from aiogate.domain.session import DocumentError, SessionDocument, parse_document
from aiogate.errors import Rejected

__all__ = [
    "LARGEST_NUMBER",
    "PAGE_SIZE",
    "flag",
    "form_or_object",
    "json_object",
    "page_number",
    "raw_body",
    "session_document",
    "string_list",
    "text_field",
    "whole_number",
]

LARGEST_NUMBER: Final = 10**17
"""Bound of whole numbers in queries, on either side of zero."""
_MOST_FIELDS: Final = 100
PAGE_SIZE: Final = 10
"""Entries per page of the Dashboard API."""


async def json_object(request: web.Request, refusal: str, deadline: float) -> Mapping[str, Any]:
    """The body as one JSON object, whatever its Content-Type says (`curl -d` says it is a form).

    `refusal` is the endpoint's own text for a body that is not. `deadline` is in seconds; a body that takes longer is
    answered with 408. A key that stands twice is refused: two readers of it could disagree.
    """
    body = await raw_body(request, refusal, deadline)
    try:
        text = body.decode("utf-8")
        value = orjson.loads(text)
    except UnicodeDecodeError as broken:
        raise Rejected(400, refusal, [_where(body[: broken.start].decode("utf-8"), "not UTF-8 text")]) from None
    except orjson.JSONDecodeError as broken:
        what = "the body is empty" if not body.strip() else broken.msg
        raise Rejected(400, refusal, [f"line {broken.lineno}, column {broken.colno}: {what}"]) from None
    if not isinstance(value, dict):
        raise Rejected(400, refusal, ["line 1, column 1: a JSON object is expected"])
    try:
        json.loads(text, object_pairs_hook=_unique, parse_int=len)
    except _RepeatedKey:
        raise Rejected(400, refusal, [f"the key {_repeated_place(text)!r} stands twice in one object"]) from None
    except RecursionError:
        raise Rejected(400, refusal, ["the body is nested too deeply"]) from None
    return value


async def raw_body(request: web.Request, refusal: str, deadline: float) -> bytes:
    """The body as it came; see `json_object`."""
    try:
        async with asyncio.timeout(deadline):
            return await request.read()
    except TimeoutError:
        raise Rejected(408, "The request did not arrive in time") from None
    except web.RequestPayloadError:
        raise Rejected(400, refusal, ["the body is not what Content-Encoding or its framing says"]) from None


def _where(before: str, what: str) -> str:
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return f"line {line}, column {column}: {what}"


class _RepeatedKey(Exception):
    """One object has two of them."""


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _RepeatedKey
        seen.add(key)


class _Pairs(list[tuple[str, Any]]):
    """An object as it stands in the text, with keys that repeat."""


def _repeated_place(text: str) -> str:
    """The path of the first key that stands twice in one object."""

    def walk(value: Any, path: tuple[str, ...]) -> str:
        seen: set[str] = set()
        for key, inner in value if isinstance(value, _Pairs) else ():
            if key in seen:
                return ".".join((*path, key))
            seen.add(key)
            if place := walk(inner, (*path, key)):
                return place
        for index, inner in enumerate(value if type(value) is list else ()):
            if place := walk(inner, (*path, str(index))):
                return place
        return ""

    return walk(json.loads(text, object_pairs_hook=_Pairs, parse_int=len), ())


async def form_or_object(request: web.Request, refusal: str, deadline: float) -> Mapping[str, Any]:
    """The body as a form, or as a JSON object where it begins like one. Of a field that repeats, the first counts."""
    body = await raw_body(request, refusal, deadline)
    if body.lstrip()[:1] == b"{":
        return await json_object(request, refusal, deadline)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise Rejected(400, refusal, ["a form is expected, with at most 100 fields of UTF-8 text"]) from None
    return dict(reversed(pairs))


async def session_document(request: web.Request, refusal: str, deadline: float) -> SessionDocument:
    """The body as a session; what key requests return is accepted whole. The rest: see `json_object`."""
    try:
        return parse_document(await json_object(request, refusal, deadline))
    except DocumentError as wrong:
        raise Rejected(400, refusal, wrong.problems) from None


def text_field(body: Mapping[str, Any], name: str, refusal: str) -> str:
    """A field that is text or absent."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Rejected(400, refusal, [f"{name}: should be text"])
    return value


def string_list(body: Mapping[str, Any], name: str, refusal: str) -> Sequence[str]:
    """A field that is a list of text or absent."""
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Rejected(400, refusal, [f"{name}: should be a list of text"])
    return value


def flag(request: web.Request, name: str) -> bool:
    """Whether a query parameter is switched on: present and neither empty, `0` nor `false`."""
    return request.query.get(name, "").lower() not in ("", "0", "false")


def page_number(request: web.Request) -> int:
    """The page asked for by `p`, from 1; 0 for everything: `p` absent, zero or negative."""
    return max(0, whole_number(request, "p", 0))


def whole_number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    try:
        value = int(text) if len(text) <= 18 else LARGEST_NUMBER + 1
        if abs(value) > LARGEST_NUMBER:
            raise ValueError(text)
        return value
    except ValueError:
        raise Rejected(400, f"The parameter {name!r} is not a whole number") from None
