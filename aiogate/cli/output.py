"""How commands speak: tables and JSON on standard output, trouble on standard error, and an exit code."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import click

__all__ = ["fail", "json_option", "moment", "print_json", "print_table", "shown_path"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what is wrong on standard error and end with `code`: 1 a problem was found, 2 wrong usage."""
    click.echo(message, err=True)
    raise SystemExit(code)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell, two spaces apart."""
    lines = [tuple(headings), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def moment(seconds: float) -> str:
    """A time of day for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else "never"


def shown_path(file: str) -> str:
    """A file's path relative to the working directory where that is shorter."""
    if not os.path.isabs(file):
        return file
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative
