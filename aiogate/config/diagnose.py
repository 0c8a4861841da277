"""What pydantic found, as diagnostics: a stable code, the place in the file, our words and a hint.

Never the value itself, unless it is of a type that cannot be a secret, and then as it is written, with `${…}`
unresolved.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aiogate.config.source import MAX_DIAGNOSTICS, Path, Source, show_path
from aiogate.errors import DIAGNOSTICS, Diagnostic

__all__ = ["diagnostics_of", "did_you_mean"]

_LONGEST_SHOWN: Final = 60
_KEY: Final = "[key]"
_MERGE_WORDS: Final = "merge keys are not part of YAML 1.2; write the keys out"
_TYPES: Final = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}
_SIZES: Final = {
    "too_short": "entries",
    "too_long": "entries",
    "string_too_short": "characters",
    "string_too_long": "characters",
}
_BOUND: Final = re.compile(r"at (?:least|most) [0-9]+")
_WRONG_TYPE: Final = frozenset(("is_instance_of", "int_from_float", "none_required"))


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The hint for a name that does not exist: the nearest one that does, or all of a short list."""
    known = tuple(known)
    near = difflib.get_close_matches(given.lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    if near:
        return f"did you mean `{next(name for name in known if name.lower() == near[0])}`?"
    if known and len(known) <= 12:
        return f"known: {', '.join(known)}"
    return ""


def diagnostics_of(error: ValidationError, source: Source, prefix: Path = ()) -> list[Diagnostic]:
    """One diagnostic for each mistake in `error`, which came from validating what stands at `prefix` in `source`.

    A location that does not exist in the file (a missing key, the field that a bare value stands for, the name of a
    union's member) leads to its nearest parent. At most `MAX_DIAGNOSTICS` are told.
    """
    details = error.errors(include_url=False)[:MAX_DIAGNOSTICS]
    return [_diagnostic(detail, source, (*prefix, *detail["loc"])) for detail in details]


def _diagnostic(detail: ErrorDetails, source: Source, path: Path) -> Diagnostic:
    kind = detail["type"]
    context: dict[str, Any] = detail.get("ctx", {})
    is_key = bool(path) and path[-1] == _KEY
    if is_key:
        path = path[:-1]
        position = source.locate_key(path)
    elif kind in ("unknown_key", "extra_forbidden"):
        position = source.locate_key(path)
    else:
        position = source.locate(path)
    about_key = kind in ("unknown_key", "extra_forbidden", "missing")
    shown = show_path((*source.existing(path[:-1]), path[-1]) if about_key else source.existing(path))
    name = str(path[-1]) if path else "the document"
    if kind in ("unknown_key", "extra_forbidden"):
        hint = _MERGE_WORDS if name == "<<" else did_you_mean(name, context.get("known", ()))
        return Diagnostic.at(position, "unknown_key", f"`{name}` is not a known key", hint, shown)
    if kind == "missing":
        return Diagnostic.at(position, "missing_key", f"`{name}` is missing", "", shown)
    if kind in DIAGNOSTICS:
        # What stands at the path of a key is its value, which is not what is wrong.
        subject = _shown(source.written(path)) if context.get("show") and not is_key else None
        name = _last_key(source, path)
        message = f"`{subject if subject is not None else name}` {detail['msg']}"
        hint = str(context.get("hint", ""))
        if context.get("show") and "${" in str(source.written(path)):
            # Such a hint may quote the resolved value.
            hint = "the value comes from a variable"
        return Diagnostic.at(position, kind, message, hint, shown)
    name = _last_key(source, path)
    return Diagnostic.at(position, _code(kind), _message(kind, detail["msg"], name), _hint(kind, source, path), shown)


def _last_key(source: Source, path: Path) -> str:
    """The last key on the way that stands in the file: a bare value is known by the key that it stands under."""
    keys = [step for step in source.existing(path) if isinstance(step, str)]
    return keys[-1] if keys else "the document"


def _shown(written: Any) -> str | None:
    """A scalar as it stands in the file, if it is short enough for one line."""
    if written is None or isinstance(written, (dict, list)):
        return None
    text = str(written)
    return text if len(text) <= _LONGEST_SHOWN and text.isprintable() else None


def _code(kind: str) -> str:
    if kind.endswith(("_type", "_parsing")) or kind in _WRONG_TYPE:
        return "wrong_type"
    return "invalid_value"


def _message(kind: str, message: str, name: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind in _TYPES:
        return f"`{name}` should be {_TYPES[kind]}"
    if kind in _SIZES:
        bound = _BOUND.search(message)
        if bound is not None and bound[0] == "at least 1":
            return f"`{name}` is empty"
        return f"`{name}` should have {bound[0] if bound is not None else 'fewer or more'} {_SIZES[kind]}"
    if kind == "string_pattern_mismatch":
        return f"`{name}` {message.removeprefix('String ')}"
    if message.startswith("Input "):
        return f"`{name}` {message.removeprefix('Input ')}"
    return f"`{name}`: {message}"


def _hint(kind: str, source: Source, path: Path) -> str:
    if kind == "string_type" and isinstance(source.written(path), (bool, int, float)):
        return "quote it to make it text"
    return ""
