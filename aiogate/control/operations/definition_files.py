"""Declarations on disk that a translation wrote: checked, then replaced in one step, and never somebody's own.

A file is written beside its place, made durable and renamed, so that a reader finds the old one or the new one. A link
at that place is replaced, not followed.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from aiogate.config.definition import Definition, read_definition
from aiogate.config.files import read_secret, sync
from aiogate.config.policy import read_policy
from aiogate.config.provenance import is_untouched
from aiogate.config.source import examine
from aiogate.config.variables import Variables, expand, without_echo
from aiogate.domain.policy import Policy
from aiogate.errors import Diagnostic, DiagnosticsFound, Rejected

__all__ = ["check_text", "holds_secret", "remove_file", "replace_file", "strings"]


def check_text(file: Path, text: str, *, is_api: bool) -> Definition | Policy:
    """What a declaration declares. Raises `DiagnosticsFound` for what the gateway could not read.

    Looks at this declaration alone; what it says about others, and its plugins' own settings, is for `aiogate check`.
    """
    source, found = examine(str(file), text.encode())
    if found:
        raise DiagnosticsFound(found)
    missing: list[Diagnostic] = []
    if "${" in text:
        source, missing = expand(source, Variables(os.environ, read_secret))
    try:
        declared = read_definition(source) if is_api else read_policy(source)
    except DiagnosticsFound as mistakes:
        raise DiagnosticsFound(without_echo(mistakes.diagnostics, missing)) from mistakes
    if missing:
        raise DiagnosticsFound(missing)
    return declared


def strings(data: bytes | None) -> frozenset[str]:
    """Every text that stands in a file as a value, `${…}` unresolved; nothing of a file that cannot be read."""
    try:
        value = examine("", data or b"{}")[0].raw
    except DiagnosticsFound:
        return frozenset()
    return frozenset(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


_SECRET_NAMES: Final = re.compile(
    r"secret|passw|token|credential|authori[sz]ation|api[-_]?key|private|cookie|meta\b", re.I
)


def holds_secret(native: Any) -> bool:
    """Whether a declaration may hold a secret, by the names of its keys: then only the gateway's user reads it."""
    if isinstance(native, Mapping):
        return any(
            (_SECRET_NAMES.search(str(key)) is not None and any(_texts(inner))) or holds_secret(inner)
            for key, inner in native.items()
        )
    return isinstance(native, list) and any(map(holds_secret, native))


def replace_file(file: Path, text: str, *, secret: bool = False, force: bool = False) -> None:
    """Write a translated declaration. Raises `Rejected` 409 where somebody's own file is, and OSError.

    `secret`: nobody but the gateway's own user may read it. `force`: replace somebody's own file, but never a link.
    """
    if file.is_symlink() or (not force and file.exists() and not is_untouched(file.read_bytes())):
        raise Rejected(409, f"{file.name} was written by hand")
    mode = 0o600 if secret else 0o644
    if file.exists():
        mode &= file.stat().st_mode
    file.parent.mkdir(parents=True, exist_ok=True)
    # Names that begin with a dot are no declarations: a reload in between does not see it.
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(file.parent)


def remove_file(file: Path) -> None:
    """Delete a declaration, durably. Raises OSError."""
    file.unlink()
    sync(file.parent)
