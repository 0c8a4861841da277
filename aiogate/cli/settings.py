"""From the flags of a command to `Settings`: to serve, to check, to find the running gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from aiogate.cli.printing import diagnostic_line
from aiogate.errors import Diagnostic, DiagnosticsFound

if TYPE_CHECKING:
    from aiogate.config.settings import Settings
    from aiogate.runtime.last_good import Fallback

__all__ = [
    "DEFAULT_FILE",
    "Mistaken",
    "config_option",
    "folder_option",
    "from_here",
    "last_good",
    "read_settings",
    "settings_file",
]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILE: Final = "aiogate.yaml"
"""The settings file in the working directory that is read when none is named. It need not be there."""


class Mistaken(click.ClickException):
    """The operator's files or flags hold mistakes: one line each on standard error, exit code 1."""

    def __init__(self, diagnostics: Iterable[Diagnostic], advice: str = "") -> None:
        self.lines = [diagnostic_line(asdict(from_here(found))) for found in diagnostics]
        self.advice = advice
        super().__init__("\n".join(self.lines))

    def show(self, file: Any = None) -> None:
        for line in (*self.lines, *([self.advice] if self.advice else [])):
            click.echo(line, err=True, file=file)


def from_here(found: Diagnostic) -> Diagnostic:
    """The diagnostic with its file as it is called from the working directory, if it is below."""
    file, here = Path(found.file), Path.cwd()
    if not file.is_absolute() or not file.is_relative_to(here):
        return found
    return replace(found, file=str(file.relative_to(here)))


def config_option(command: F) -> F:
    return click.option(
        "-c", "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
        help=f"Settings file [default: {DEFAULT_FILE} in the working directory, if it is there].",
    )(command)  # fmt: skip


def folder_option(name: str, meaning: str) -> Callable[[F], F]:
    """A flag for a folder, relative to the working directory."""
    return click.option(f"--{name}", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help=meaning)


def settings_file(config: Path | None) -> Path | None:
    """The file that was named, or else the one in the working directory; None: there is none."""
    if config is not None:
        return config
    found = Path(DEFAULT_FILE)
    return found if found.exists() else None


def read_settings(config: Path | None, flags: Mapping[str, object]) -> Settings:
    """The settings in force: flags before the environment before the file.

    Raises `DiagnosticsFound`.
    """
    from aiogate.config.settings import load_settings

    return load_settings(settings_file(config), None, _from_flags(config, flags))


def _from_flags(config: Path | None, flags: Mapping[str, object]) -> Mapping[str, object]:
    file = settings_file(config)
    # Folders in the file are relative to the file, those of flags to where the command was typed.
    elsewhere = file is not None and file.parent != Path()
    return {name: value.absolute() if elsewhere and isinstance(value, Path) else value for name, value in flags.items()}


def last_good(config: Path | None, flags: Mapping[str, object], mistakes: DiagnosticsFound) -> Fallback:
    """What a start with mistakes serves instead.

    Raises `DiagnosticsFound`, with those mistakes and why there is nothing to fall back on.
    """
    from aiogate.config.settings import load_settings, where_state_is
    from aiogate.runtime.last_good import Fallback, restore

    file, given = settings_file(config), _from_flags(config, flags)
    state = where_state_is(file, None, given)
    restored = restore(state)
    if restored is None:
        message, hint = "no generation is kept here", "--keep-last-good needs one that has served before"
        raise DiagnosticsFound([*mistakes.diagnostics, Diagnostic(str(state), 0, 0, "file_unreadable", message, hint)])
    try:
        settings = load_settings(file, None, given)
    except DiagnosticsFound:
        if restored.settings is None:
            file = None
        settings = load_settings(file, None, given, instead=restored.settings)
    return Fallback(settings, restored, mistakes.diagnostics)
