"""Which requests a plugin's entry is for: `match: {paths: [...], methods: [...], versions: [...]}`.

A path is written as a glob, which begins with `/`, or as a pattern, which begins with `^`. Globs are compiled once; a
request meets a set, a tuple of prefixes, at most one RE2 expression, and the patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final

import re2
from pydantic import AfterValidator, BeforeValidator

from aiogate.config.addresses import canonical_path
from aiogate.config.model import Model, mistake
from aiogate.config.units import parse_pattern

__all__ = ["Match", "MatchDeclaration", "Method", "PathEntry", "PathTable", "glob_expression"]

_METHOD: Final = re.compile(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]*", re.ASCII)
_STARS: Final = re.compile(r"/\*\*/|\*\*|\*")
_LONGEST_GLOB: Final = 2048
_LIKE_A_PATTERN: Final = re.compile(r"\.[*+]|[\[\]{}|\\?]|\$$")
_PARAMETERS: Final = re.compile(r"(?:;|%3B)[^/]*")
_SLASHES: Final = re.compile(r"/{2,}")


def _parse_path(value: Any) -> str:
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a path", "such as `/catalogue/*`")
    if len(value) > _LONGEST_GLOB:
        raise mistake("invalid_value", f"is longer than {_LONGEST_GLOB} characters")
    if value.startswith("^"):
        return parse_pattern(value).text
    if value.startswith("/") and _LIKE_A_PATTERN.search(value):
        # Read as a glob it would match next to nothing, and a rule that keeps somebody out would not.
        hint = "a pattern begins with `^`; in a glob `*` is any text in one segment, `**` any text"
        raise mistake("invalid_value", "looks like a pattern and begins like a glob", hint, show=True)
    return canonical_path(value)


def _parse_method(value: Any) -> str:
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a method", "such as `GET`")
    if _METHOD.fullmatch(value) is None:
        hint = f"did you mean `{value.upper()}`?" if _METHOD.fullmatch(value.upper()) else "such as `GET`"
        raise mistake("invalid_value", "is not a method", hint, show=True)
    return value


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise mistake("invalid_value", "is an empty list", "leave the key out to match everything")
    return values


Method = Annotated[str, BeforeValidator(_parse_method)]
"""A method in upper case."""

Path = Annotated[str, BeforeValidator(_parse_path)]
"""A glob in canonical form, or a pattern that begins with `^`."""

_Some = AfterValidator(_some)


class MatchDeclaration(Model):
    """A match as it is written; a key that is left out matches everything."""

    paths: Annotated[tuple[Path, ...], _Some] | None = None
    """Globs or patterns over the path behind the listen path; see `Match`."""
    methods: Annotated[tuple[Method, ...], _Some] | None = None
    """Methods in upper case."""
    versions: Annotated[tuple[str, ...], _Some] | None = None
    """Versions of the definition."""


class Match:
    """A compiled match. An empty part matches everything.

    `paths` are globs or patterns over the path behind the listen path (and behind the version's segment, where that
    is stripped); it begins with `/`. A pattern begins with `^` and is searched; a glob covers the whole path: `*`
    stands for any characters within one segment, none included; `**` for any characters, slashes included; `/**/`
    also for a single `/`. A `/*` at the end stands for everything below, at any depth: `/catalogue/*` matches
    `/catalogue/` and `/catalogue/a/b`, but not `/catalogue`. Case matters, as in paths.
    """

    __slots__ = ("_exact", "_expression", "_patterns", "_prefixes", "methods", "paths", "versions")

    def __init__(self, paths: Iterable[str] = (), methods: Iterable[str] = (), versions: Iterable[str] = ()) -> None:
        self.paths = tuple(paths)
        self.methods = frozenset(methods)
        self.versions = frozenset(versions)
        globs = [path for path in self.paths if not path.startswith("^")]
        self._patterns = tuple(parse_pattern(path) for path in self.paths if path.startswith("^"))
        self._exact = frozenset(path for path in globs if "*" not in path)
        self._prefixes = tuple(path[:-1] for path in globs if path.endswith("/*") and "*" not in path[:-1])
        rest = [path for path in globs if path not in self._exact and path[:-1] not in self._prefixes]
        self._expression: Any = _compiled(rest) if rest else None

    @classmethod
    def of(cls, declared: MatchDeclaration) -> Match:
        return cls(declared.paths or (), declared.methods or (), declared.versions or ())

    def applies(self, method: str, tail: str, version: str) -> bool:
        """Whether a request is meant. `tail` is canonical and begins with `/`."""
        if self.methods and method not in self.methods:
            return False
        if self.versions and version not in self.versions:
            return False
        if not self.paths or tail in self._exact or tail.startswith(self._prefixes):
            return True
        if self._expression is not None and self._expression.fullmatch(tail) is not None:
            return True
        return any(pattern.matches(tail) for pattern in self._patterns)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Match):
            return NotImplemented
        return (self.paths, self.methods, self.versions) == (other.paths, other.methods, other.versions)

    def __hash__(self) -> int:
        return hash((self.paths, self.methods, self.versions))

    def __repr__(self) -> str:
        return f"Match(paths={self.paths!r}, methods={sorted(self.methods)!r}, versions={sorted(self.versions)!r})"


class PathEntry(Model):
    """One path of a list, alone or with methods: `/public/*`, or `{path: /public/*, methods: [GET]}`."""

    shorthand: ClassVar[str | None] = "path"

    path: Path
    """A glob, or a pattern that begins with `^`; see `Match`."""
    methods: Annotated[tuple[Method, ...], _Some] | None = None
    """Methods in upper case; None: all."""

    def __str__(self) -> str:
        return f"{','.join(self.methods)} {self.path}" if self.methods else self.path


class PathTable:
    """A list of paths as a rule reads it, with the readings that servers behind us may have of one path.

    Some servers cut path parameters off (`/secret;x=1` is `/secret` to them), and many take `/secret/` for `/secret`. A
    rule that keeps out must hold for each such reading, a rule that lets in only for what they all agree on.
    """

    __slots__ = ("_entries", "_groups")

    def __init__(self, entries: Iterable[PathEntry]) -> None:
        self._entries = tuple((entry, Match([entry.path], entry.methods or ())) for entry in entries)
        by_methods: dict[tuple[str, ...], list[str]] = {}
        for entry, _ in self._entries:
            by_methods.setdefault(tuple(sorted(entry.methods or ())), []).append(entry.path)
        self._groups = tuple(Match(paths, methods) for methods, paths in by_methods.items())

    def keeps_out(self, method: str, path: str) -> PathEntry | None:
        """The first entry that matches any reading of a canonical path."""
        found = self._find(method, path)
        if found is None and (";" in path or "%3B" in path):
            path = _without_parameters(path)
            found = self._find(method, path)
        if found is None and path.endswith("/") and path != "/":
            found = self._find(method, path[:-1])
        return found

    def lets_in(self, method: str, path: str) -> PathEntry | None:
        """The first entry that matches a canonical path, provided that it is in the list without its parameters too."""
        found = self._find(method, path)
        if found is not None and (";" in path or "%3B" in path) and not _PARAMETERS.search(found.path):
            return found if self._find(method, _without_parameters(path)) is not None else None
        return found

    def _find(self, method: str, path: str) -> PathEntry | None:
        for group in self._groups:
            if group.applies(method, path, ""):
                return next(entry for entry, match in self._entries if match.applies(method, path, ""))
        return None

    def __bool__(self) -> bool:
        return bool(self._entries)


def _without_parameters(path: str) -> str:
    return _SLASHES.sub("/", _PARAMETERS.sub("", path))


def _compiled(globs: Iterable[str]) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile("(?s)" + "|".join(f"(?:{glob_expression(glob)})" for glob in globs), options)


def glob_expression(glob: str) -> str:
    """One glob as an RE2 expression for the whole path."""
    if glob.endswith("/*"):
        glob += "*"
    parts: list[str] = []
    end = 0
    for found in _STARS.finditer(glob):
        parts.append(re2.escape(glob[end : found.start()]))
        parts.append({"/**/": "/(?:.*/)?", "**": ".*", "*": "[^/]*"}[found[0]])
        end = found.end()
    parts.append(re2.escape(glob[end:]))
    return "".join(parts)
