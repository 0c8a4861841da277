"""`${…}` in values: what differs between machines, and what must not stand in a file.

`${NAME}` is an environment variable, `${NAME:-default}` has a default for one that is unset or empty, `${file:/path}`
is a file's content without its last line break. A value may be text around one or several of them; keys are never
expanded. `$${` is a literal `${`. The unresolved text stays in `Source.raw`: it is the only form that is ever shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from aiogate.config.source import Path, Source, show_path
from aiogate.errors import Diagnostic

__all__ = ["Unresolved", "Variables", "expand", "without_echo"]

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_WORDS: Final = "write ${NAME}, ${NAME:-default} or ${file:/path}; a literal ${ is $${"


class Unresolved(Exception):
    """A reference without a value: the diagnostic's code, message and hint."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Variables:
    """Where references get their values, with each answer remembered: one load sees one value.

    `read_file` returns the bytes of a secret's file and raises OSError.
    """

    def __init__(self, environ: Mapping[str, str], read_file: Callable[[str], bytes]) -> None:
        self._environ = environ
        self._read_file = read_file
        self._files: dict[str, str] = {}

    def resolve(self, reference: str) -> str:
        """The value of what stands between `${` and `}`. Raises `Unresolved`."""
        if reference.startswith("file:"):
            return self._file(reference.removeprefix("file:"))
        name, has_default, default = reference.partition(":-")
        if _NAME.fullmatch(name) is None or "${" in default:
            raise Unresolved("invalid_value", f"`${{{reference}}}` is not a variable", _WORDS)
        if has_default:
            return self._environ.get(name) or default
        if name not in self._environ:
            raise Unresolved(
                "variable_missing", f"the variable {name} is not set", f"set it, or write ${{{name}:-default}}"
            )
        return self._environ[name]

    def unchanged(self, known: tuple[tuple[str, str], ...]) -> bool:
        """Whether references that were resolved before still have the same values."""
        try:
            return all(self.resolve(reference) == value for reference, value in known)
        except Unresolved:
            return False

    def expand_text(self, text: str, used: dict[str, str]) -> str:
        """The text with its references resolved, which `used` collects. Raises `Unresolved` for one without a value."""

        def value_of(found: re.Match[str]) -> str:
            if found[0] == "$${":
                return "${"
            if not found[2]:
                raise Unresolved("invalid_value", "`${` has no `}`", _WORDS)
            value = self.resolve(found[1])
            used[found[1]] = value
            return value

        return _REFERENCE.sub(value_of, text)

    def _file(self, path: str) -> str:
        if path not in self._files:
            try:
                content = self._read_file(path).decode("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
                raise Unresolved(
                    "variable_missing", f"the file {path} cannot be read: {reason}", "it must exist and be readable"
                ) from error
            self._files[path] = content.removesuffix("\n").removesuffix("\r")
        return self._files[path]


def expand(source: Source, variables: Variables) -> tuple[Source, list[Diagnostic]]:
    """The source with its references resolved, and a diagnostic for each value that has one without a value."""
    used: dict[str, str] = {}
    found: list[Diagnostic] = []

    def walk(value: Any, path: Path) -> Any:
        if isinstance(value, str):
            if "${" not in value:
                return value
            try:
                return variables.expand_text(value, used)
            except Unresolved as problem:
                found.append(
                    Diagnostic.at(source.locate(path), problem.code, problem.message, problem.hint, show_path(path))
                )
                return value
        if isinstance(value, dict):
            pairs = {key: walk(inner, (*path, key)) for key, inner in value.items()}
            # What holds no reference is shared with `raw`, not copied.
            return pairs if any(pairs[key] is not value[key] for key in pairs) else value
        if isinstance(value, list):
            items = [walk(inner, (*path, index)) for index, inner in enumerate(value)]
            return items if any(one is not other for one, other in zip(items, value, strict=True)) else value
        return value

    value = walk(source.raw, ())
    return replace(source, value=value, variables=tuple(sorted(used.items()))), found


def without_echo(found: Iterable[Diagnostic], first: Iterable[Diagnostic]) -> list[Diagnostic]:
    """`first`, and of `found` what is not about the same places: an unresolved `${NAME}` is no URL either."""
    kept = list(dict.fromkeys(first))
    places = {(one.line, one.column) for one in kept}
    return [*kept, *(one for one in found if (one.line, one.column) not in places)]
