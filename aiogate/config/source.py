"""YAML text to plain values, with the place of each value beside them.

One pass over libyaml's events builds the values and, beside them, marks of the same shape; nothing is read twice and no
consumer meets a special kind of string. We resolve scalars ourselves, by the core schema of YAML 1.2, because PyYAML
follows YAML 1.1, where `on` is true, `NO` is false and `12:30` is a number. Bounds are checked while the events arrive:
a file that would explode when it is walked ends early.

A mistake that leaves the rest of the file readable (a key that stands twice, a tag) is noted and reading goes on, so
that all mistakes of a file are told at once; a syntax error hides what follows it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from aiogate.config.provenance import is_written_by_api
from aiogate.errors import Diagnostic, DiagnosticsFound, Position

__all__ = ["MAX_BYTES", "MAX_DIAGNOSTICS", "Path", "Source", "examine", "read_source", "show_path"]

MAX_BYTES: Final = 1024 * 1024
"""The largest file that is read."""
MAX_DIAGNOSTICS: Final = 200
"""How many mistakes of one file are told: a file of nothing but mistakes is the wrong file."""
_MAX_NODES: Final = 100_000
_MAX_DEPTH: Final = 64
_MAX_ALIASES: Final = 100
_LONGEST_INTEGER: Final = 30

Path = tuple[str | int, ...]
"""Where a value stands in a document: keys and list indices."""

_At = int
"""A line and a column, both from 0, in one number: thousands of definitions keep one for each of their values."""

_Marks = int | tuple[Any, ...]
"""The places in a value: of a scalar its own; of a list its own and the marks of its items; of a mapping its own and,
in the order of its keys, the place of each key and the marks of its value."""

_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER: Final = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL: Final = re.compile(r"0o[0-7]+", re.ASCII)
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+", re.ASCII)
_FLOAT: Final = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII
)
_NUMERIC_START: Final = frozenset("-+.0123456789")


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its values, as resolved and as written, and where each stands.

    `raw` holds the text of `${…}` unresolved and is what may be shown; `value` has it resolved. `variables` are the
    references with what they resolved to. `digest` is the SHA-256 of the bytes, in hex. `overrides` are places of
    values that came from elsewhere (the environment, a flag) and lie over the file's own.
    """

    file: str
    value: Any = field(repr=False)
    marks: _Marks = field(default=0, repr=False)
    raw: Any = field(default=None, repr=False)
    variables: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    digest: str = ""
    by_api: bool = False
    """Whether the control API wrote the file, and nobody has edited it since."""
    overrides: tuple[tuple[Path, Position], ...] = ()

    def locate(self, path: Iterable[str | int]) -> Position:
        """Where the value at `path` stands, or its nearest parent that exists. Steps that do not exist are skipped."""
        return self._overridden(path := tuple(path)) or self._position(self._walk(path)[1])

    def locate_key(self, path: Iterable[str | int]) -> Position:
        """Where the last key of `path` stands; the value's place where there is no such key."""
        if (position := self._overridden(path := tuple(path))) is not None:
            return position
        key, marks, _ = self._walk(path)
        return self._position(marks if key is None else key)

    def existing(self, path: Iterable[str | int]) -> Path:
        """The steps of `path` that exist; the others are skipped, as `locate` skips them."""
        value = self.raw
        steps: list[str | int] = []
        for step in path:
            if step in _steps(value):
                value = value[step]
                steps.append(step)
        return tuple(steps)

    def written(self, path: Iterable[str | int]) -> Any:
        """The value at `path` as written, `${…}` unresolved; steps that do not exist are skipped."""
        return self._walk(path)[2]

    def _walk(self, path: Iterable[str | int]) -> tuple[_At | None, _Marks, Any]:
        """The place of the last key (None: it does not exist, or is no key), the marks and the value behind `path`."""
        key: _At | None = None
        marks, value = self.marks, self.raw
        for step in path:
            key = None
            if step not in (steps := _steps(value)):
                continue
            number = steps.index(step)
            keyed = isinstance(value, dict)
            value = value[step]
            # What was laid over the file's own values comes after them and has no marks.
            if isinstance(marks, tuple) and len(marks) > (2 * number + 2 if keyed else number + 1):
                key, marks = (marks[2 * number + 1], marks[2 * number + 2]) if keyed else (None, marks[number + 1])
        return key, marks, value

    def _overridden(self, path: Path) -> Position | None:
        return next((position for place, position in self.overrides if path[: len(place)] == place), None)

    def _position(self, marks: _Marks) -> Position:
        line, column = _unpacked(_own(marks))
        return Position(self.file, line, column)


def _steps(value: Any) -> Sequence[str | int]:
    """What leads from a value to those in it."""
    if isinstance(value, dict):
        return list(value)
    return range(len(value)) if isinstance(value, list) else ()


def _own(marks: _Marks) -> _At:
    return marks[0] if isinstance(marks, tuple) else marks


def _unpacked(at: _At) -> tuple[int, int]:
    """Line and column, from 1."""
    return (at >> 20) + 1, (at & 0xFFFFF) + 1


def show_path(path: Iterable[str | int]) -> str:
    """A path as people read it: `auth.0.basic.realm`."""
    return ".".join(str(step) for step in path)


def read_source(file: str, data: bytes, *, may_be_empty: bool = False) -> Source:
    """The values and places of one file, variables unresolved. Raises `DiagnosticsFound` with every mistake in it."""
    source, found = examine(file, data, may_be_empty=may_be_empty)
    if found:
        raise DiagnosticsFound(found)
    return source


def examine(file: str, data: bytes, *, may_be_empty: bool = False) -> tuple[Source, list[Diagnostic]]:
    """The values of one file and the mistakes that leave it readable.

    Raises `DiagnosticsFound` for a file that cannot be read at all. With `may_be_empty` a file without a document is an
    empty mapping.
    """
    if len(data) > MAX_BYTES:
        raise DiagnosticsFound([too_large(file)])
    text = data.removeprefix(b"\xef\xbb\xbf")
    _check_encoding(file, text)
    reader = _Reader(file, text)
    try:
        value, marks = reader.document(may_be_empty)
    except yaml.MarkedYAMLError as error:
        raise DiagnosticsFound([*reader.found, _syntax_error(file, text, error)]) from error
    except yaml.YAMLError as error:
        # libyaml's own reader refuses control characters without a usable place; ours looked for them before.
        raise DiagnosticsFound([*reader.found, Diagnostic(file, 0, 0, "yaml_syntax", "is not YAML")]) from error
    finally:
        reader.close()
    digest = hashlib.sha256(data).hexdigest()
    return Source(file, value, marks, value, digest=digest, by_api=is_written_by_api(data)), reader.found


def too_large(file: str) -> Diagnostic:
    """The refusal of a file past `MAX_BYTES`, for whoever sees its size before its bytes."""
    return Diagnostic(file, 0, 0, "file_too_large", "is larger than 1 MiB", "a declaration is one API, one policy")


# What YAML 1.2 does not allow in a stream, beside lone surrogates, which UTF-8 excludes.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")


def _check_encoding(file: str, data: bytes) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _place(data[: error.start].decode("utf-8"))
        raise DiagnosticsFound(
            [Diagnostic(file, line, column, "file_encoding", "is not UTF-8 text", "save the file as UTF-8")]
        ) from error
    if text.isascii() and text.isprintable():
        return
    found = _UNPRINTABLE.search(text)
    if found is not None:
        line, column = _place(text[: found.start()])
        message = f"holds the character U+{ord(found[0]):04X}, which text does not"
        raise DiagnosticsFound(
            [Diagnostic(file, line, column, "file_encoding", message, "save the file as UTF-8 text")]
        )


def _place(before: str) -> tuple[int, int]:
    """Line and column, from 1, of what follows this text."""
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _syntax_error(file: str, data: bytes, error: yaml.MarkedYAMLError) -> Diagnostic:
    mark = error.problem_mark or error.context_mark
    if error.problem is not None and "nesting depth" in error.problem:
        # Newer releases of libyaml have a bound of their own, and meet it while they look ahead.
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        return Diagnostic(file, line, column, "yaml_too_complex", f"is nested deeper than {_MAX_DEPTH} levels")
    message = f"is not YAML: {error.problem or error.context or 'the text cannot be read'}"
    if mark is None:
        return Diagnostic(file, 0, 0, "yaml_syntax", message)
    lines = data.decode("utf-8").splitlines()
    if mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        hint = "that is a tab; indent with spaces"
    else:
        began = error.context_mark
        hint = error.context if error.context and error.problem else ""
        hint = f"{hint} that begins on line {began.line + 1}" if hint and began is not None else hint
    return Diagnostic(file, mark.line + 1, mark.column + 1, "yaml_syntax", message, hint)


class _Reader:
    """One document from events to values. `found` collects the mistakes that do not end the reading."""

    def __init__(self, file: str, data: bytes) -> None:
        self.found: list[Diagnostic] = []
        self._file = file
        self._loader = _Loader(data)
        self._next: Callable[[], Any] = self._loader.get_event
        self._nodes = 0
        self._aliases = 0
        # Anchor to value, marks, and the number of nodes in it with its own aliases expanded.
        self._anchors: dict[str, tuple[Any, _Marks, int]] = {}

    def close(self) -> None:
        self._loader.dispose()

    def document(self, may_be_empty: bool) -> tuple[dict[str, Any], _Marks]:
        self._next()  # the stream's start
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            if may_be_empty:
                return {}, 0
            raise self._end(0, "yaml_not_a_mapping", "is empty", "a declaration is a mapping such as `id: login`")
        value, marks = self._value(self._next(), 1)
        at = _own(marks)
        self._next()  # the document's end
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._end(
                _at(event), "yaml_not_a_mapping", "a second document begins here", "one file holds one document"
            )
        if value is None and may_be_empty:
            return {}, at
        if not isinstance(value, dict):
            raise self._end(at, "yaml_not_a_mapping", "is not a mapping", "a declaration is made of `key: value` lines")
        return value, marks

    def _value(self, event: Any, depth: int) -> tuple[Any, _Marks]:
        mark = event.start_mark
        at = mark.line << 20 | mark.column
        kind = type(event)
        if kind is yaml.AliasEvent:
            return self._alias(event.anchor, at)
        self._count(1, at)
        before = self._nodes
        if event.tag is not None:
            self._tag(event.tag, at)
        value: Any
        marks: _Marks
        if kind is yaml.ScalarEvent:
            # A plain scalar has no style in one parser, and an empty one in the other.
            value, marks = event.value if event.style else self._scalar(event.value, at), at
        elif depth > _MAX_DEPTH:
            raise self._end(at, "yaml_too_complex", f"is nested deeper than {_MAX_DEPTH} levels")
        elif kind is yaml.MappingStartEvent:
            value, marks = self._mapping(at, depth + 1)
        else:
            value, marks = self._sequence(at, depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, marks, self._nodes - before + 1)
        return value, marks

    def _mapping(self, at: _At, depth: int) -> tuple[dict[str, Any], _Marks]:
        values: dict[str, Any] = {}
        marks: list[_Marks] = [at]
        while type(event := self._next()) is not yaml.MappingEndEvent:
            mark = event.start_mark
            place = mark.line << 20 | mark.column
            if type(event) is not yaml.ScalarEvent:
                raise self._end(place, "wrong_type", "a key must be plain text")
            key = event.value
            if event.tag is not None:
                self._tag(event.tag, place)
            if event.anchor is not None:
                self._anchors[event.anchor] = (key, place, 1)
            value, inner = self._value(self._next(), depth)
            if key in values:
                line, _ = _unpacked(_own(marks[2 * list(values).index(key) + 1]))
                self._note(place, "yaml_duplicate_key", f"`{key}` stands twice", f"the first is on line {line}")
                continue
            values[key] = value
            marks += (place, inner)
        return values, tuple(marks)

    def _sequence(self, at: _At, depth: int) -> tuple[list[Any], _Marks]:
        values: list[Any] = []
        marks: list[_Marks] = [at]
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            value, inner = self._value(event, depth)
            values.append(value)
            marks.append(inner)
        return values, tuple(marks)

    def _alias(self, anchor: str, at: _At) -> tuple[Any, _Marks]:
        self._aliases += 1
        if self._aliases > _MAX_ALIASES:
            raise self._end(at, "yaml_too_complex", f"has more than {_MAX_ALIASES} aliases")
        if anchor not in self._anchors:
            raise self._end(at, "yaml_syntax", f"`*{anchor}` has no `&{anchor}` before it")
        value, marks, nodes = self._anchors[anchor]
        self._count(nodes, at)
        return value, marks

    def _count(self, nodes: int, at: _At) -> None:
        self._nodes += nodes
        if self._nodes > _MAX_NODES:
            raise self._end(at, "yaml_too_complex", f"has more than {_MAX_NODES} values", "aliases count each time")

    def _tag(self, tag: str, at: _At) -> None:
        core = "tag:yaml.org,2002:"
        shown = f"!!{tag.removeprefix(core)}" if tag.startswith(core) else tag
        self._note(at, "yaml_tag", f"the tag {shown} is not allowed", "remove it")

    def _scalar(self, text: str, at: _At) -> Any:
        """A plain scalar by the core schema of YAML 1.2 (section 10.3.2)."""
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if text[0] not in _NUMERIC_START:
            return text
        if _INTEGER.fullmatch(text) is not None:
            if len(text) > _LONGEST_INTEGER:
                self._note(at, "invalid_value", "is too large for a number", "quote it if it is text")
                return 0
            return int(text)
        if _OCTAL.fullmatch(text) is not None and len(text) <= _LONGEST_INTEGER:
            return int(text, 8)
        if _HEX.fullmatch(text) is not None and len(text) <= _LONGEST_INTEGER:
            return int(text, 16)
        if _FLOAT.fullmatch(text) is not None:
            # Python spells infinity and not-a-number without the dot.
            return float(text if text[-1].isdigit() or text[-1] == "." else text.replace(".", ""))
        return text

    def _note(self, at: _At, code: str, message: str, hint: str = "") -> None:
        self.found.append(Diagnostic(self._file, *_unpacked(at), code, message, hint))
        if len(self.found) >= MAX_DIAGNOSTICS:
            raise DiagnosticsFound(self.found)

    def _end(self, at: _At, code: str, message: str, hint: str = "") -> DiagnosticsFound:
        """The end of the reading, with what was noted before."""
        self._note(at, code, message, hint)
        return DiagnosticsFound(self.found)


def _at(event: yaml.Event) -> _At:
    mark = event.start_mark
    assert mark is not None, "both parsers mark every event"
    return mark.line << 20 | mark.column
