"""Which requests a plugin's entry is for: `match: {paths: [...], methods: [...], versions: [...]}`.

Globs are compiled once; a request meets a set, a tuple of prefixes and at most one RE2 expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final

import re2
from pydantic import AfterValidator, BeforeValidator

from aiogate.config.addresses import canonical_path
from aiogate.config.model import Model, mistake

__all__ = ["Match", "MatchDeclaration", "Method"]

_METHOD: Final = re.compile(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]*", re.ASCII)
_STARS: Final = re.compile(r"/\*\*/|\*\*|\*")
_LONGEST_GLOB: Final = 2048


def _parse_glob(value: Any) -> str:
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a path", "such as `/catalogue/*`")
    if len(value) > _LONGEST_GLOB:
        raise mistake("invalid_value", f"is longer than {_LONGEST_GLOB} characters")
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

_Some = AfterValidator(_some)


class MatchDeclaration(Model):
    """A match as it is written; a key that is left out matches everything."""

    paths: Annotated[tuple[Annotated[str, BeforeValidator(_parse_glob)], ...], _Some] | None = None
    """Globs over the path behind the listen path; see `Match`."""
    methods: Annotated[tuple[Method, ...], _Some] | None = None
    """Methods in upper case."""
    versions: Annotated[tuple[str, ...], _Some] | None = None
    """Versions of the definition."""


class Match:
    """A compiled match. An empty part matches everything.

    `paths` are globs over the whole path behind the listen path (and behind the version's segment, where that is
    stripped); it begins with `/`. `*` stands for any characters within one segment, none included; `**` for any
    characters, slashes included; `/**/` also for a single `/`. A `/*` at the end stands for everything below, at any
    depth: `/catalogue/*` matches `/catalogue/` and `/catalogue/a/b`, but not `/catalogue`. Case matters, as in paths.
    """

    __slots__ = ("_exact", "_expression", "_prefixes", "methods", "paths", "versions")

    def __init__(self, paths: Iterable[str] = (), methods: Iterable[str] = (), versions: Iterable[str] = ()) -> None:
        self.paths = tuple(paths)
        self.methods = frozenset(methods)
        self.versions = frozenset(versions)
        self._exact = frozenset(path for path in self.paths if "*" not in path)
        self._prefixes = tuple(path[:-1] for path in self.paths if path.endswith("/*") and "*" not in path[:-1])
        rest = [path for path in self.paths if path not in self._exact and path[:-1] not in self._prefixes]
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
        return self._expression is not None and self._expression.fullmatch(tail) is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Match):
            return NotImplemented
        return (self.paths, self.methods, self.versions) == (other.paths, other.methods, other.versions)

    def __hash__(self) -> int:
        return hash((self.paths, self.methods, self.versions))

    def __repr__(self) -> str:
        return f"Match(paths={self.paths!r}, methods={sorted(self.methods)!r}, versions={sorted(self.versions)!r})"


def _compiled(globs: Iterable[str]) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile("(?s)" + "|".join(f"(?:{_expression(glob)})" for glob in globs), options)


def _expression(glob: str) -> str:
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
