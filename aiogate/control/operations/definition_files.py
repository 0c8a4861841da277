"""Declarations on disk that a translation wrote: checked, then replaced in one step, and never somebody's own.

A file is written beside its place, made durable and renamed, so that a reader finds the old one or the new one. A link
at that place is replaced, not followed.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from aiogate.config.definition import parse_identifier, read_definition
from aiogate.config.policy import read_policy
from aiogate.config.provenance import is_untouched
from aiogate.config.source import examine
from aiogate.errors import Diagnostic, DiagnosticsFound, Rejected

__all__ = ["check_text", "replace_file"]


def check_text(file: Path, text: str, *, is_api: bool) -> None:
    """Refuse what the gateway could not read. Raises `DiagnosticsFound`.

    Looks at this declaration alone; what it says about others, and its plugins' own settings, is for `aiogate check`.
    """
    try:
        parse_identifier(file.name.removesuffix(".yaml"))
    except ValueError as wrong:
        message = f"the id {file.name.removesuffix('.yaml')!r} cannot be one here"
        raise DiagnosticsFound([Diagnostic(str(file), 0, 0, "invalid_id", message, path="id")]) from wrong
    source, found = examine(str(file), text.encode())
    if found:
        raise DiagnosticsFound(found)
    if is_api:
        read_definition(source)
    else:
        read_policy(source)


def replace_file(file: Path, text: str) -> None:
    """Write a translated declaration. Raises `Rejected` 409 where somebody's own file is, and OSError."""
    if file.is_symlink() or (file.exists() and not is_untouched(file.read_bytes())):
        raise Rejected(409, f"{file.name} was written by hand")
    file.parent.mkdir(parents=True, exist_ok=True)
    # Names that begin with a dot are no declarations: a reload in between does not see it.
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
