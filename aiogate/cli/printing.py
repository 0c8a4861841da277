"""What the commands print: aligned tables and pairs, times, diagnostics, JSON.

Labels, paths and reasons come from clients and other operators. Whatever is not a printable character is shown escaped,
so that nobody can write control sequences to the terminal of who reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click

from aiogate.errors import Diagnostic

__all__ = [
    "annotation",
    "as_json",
    "counted",
    "diagnostic_line",
    "example",
    "joined",
    "moment",
    "print_json",
    "print_pairs",
    "print_table",
    "safe",
    "seconds",
]

F = TypeVar("F", bound=Callable[..., Any])


def example(*lines: str) -> str:
    """The epilog of a help page: what to type, line by line."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def as_json(command: F) -> F:
    """Give a command the flag `--json`, its parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def safe(text: object) -> str:
    """The text with everything that is not printable escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in str(text)
    )


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns under their heads, the last one as long as it is. A column without any text is left out."""
    cells = [[safe(cell) for cell in row] for row in rows]
    kept = [index for index in range(len(heads)) if any(row[index] for row in cells)]
    lines = [[row[index] for index in kept] for row in [list(heads), *cells]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(kept))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """A name and a value per line; pairs with an empty value are left out."""
    shown = [(name, safe(value)) for name, value in pairs if value not in ("", None)]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {value}")


def counted(number: int, one: str, many: str = "") -> str:
    """`1 problem`, `2 problems`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def joined(names: Iterable[object]) -> str:
    return ", ".join(str(name) for name in names)


def moment(epoch: float) -> str:
    """A time in the zone of this machine, to the second; the epoch as it is where no calendar has it."""
    try:
        return datetime.fromtimestamp(epoch).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{epoch:g}"


def seconds(duration: float) -> str:
    return f"{duration * 1000:.0f} ms" if duration < 1 else f"{duration:.1f} s"


def annotation(found: Diagnostic) -> str:
    """A workflow command of GitHub Actions, which marks the line in a pull request.

    Line breaks and `%` are escaped in both parts, `:` and `,` in properties as well.
    """
    place = {"file": found.file, "line": found.line or "", "col": found.column or "", "title": f"aiogate {found.code}"}
    properties = ",".join(f"{name}={_property(value)}" for name, value in place.items() if value)
    hint = f" ({found.hint})" if found.hint else ""
    return f"::{found.severity} {properties}::{safe(found.message + hint).replace('%', '%25')}"


def _property(value: object) -> str:
    return safe(value).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")


def diagnostic_line(found: Mapping[str, Any]) -> str:
    """`file:line:column: message (hint)` of a diagnostic as the control API or `dataclasses.asdict` gives it."""
    hint = f" ({found['hint']})" if found.get("hint") else ""
    severity = "warning: " if found.get("severity") == "warning" else ""
    return safe(f"{found['file']}:{found['line']}:{found['column']}: {severity}{found['message']}{hint}")
