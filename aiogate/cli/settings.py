"""The options by which commands find the settings: flags beat the environment beats the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from aiogate.cli.output import fail, shown_path
from aiogate.errors import Diagnostic, DiagnosticsFound

if TYPE_CHECKING:
    from aiogate.config.settings import Settings

__all__ = ["config_option", "folder_options", "line", "read_settings", "settings_or_fail", "state_option"]

DEFAULT_FILE: Final = "aiogate.yaml"
Command = TypeVar("Command", bound=Callable[..., Any])

config_option = click.option(
    "-c", "--config", metavar="FILE", help=f"The settings file. Default: {DEFAULT_FILE}, where it exists."
)
state_option = click.option("--state", metavar="DIR", help="The state folder. Default: var.")


def folder_options(command: Command) -> Command:
    """`--apis`, `--policies`, `--plugins`, `--state`, `-c`."""
    for decorate in (
        click.option("--apis", metavar="DIR", help="The folder of API definitions. Default: apis.d."),
        click.option("--policies", metavar="DIR", help="The folder of policies. Default: policies.d."),
        click.option("--plugins", metavar="DIR", help="The folder of drop-in plugins. Default: plugins."),
        state_option,
        config_option,
    ):
        command = decorate(command)
    return command


def read_settings(config: str | None, flags: dict[str, object]) -> Settings:
    """The settings in force. Raises `DiagnosticsFound`."""
    from aiogate.config.settings import load_settings

    file = Path(config) if config is not None else Path(DEFAULT_FILE)
    if config is None and not file.exists():
        return load_settings(None, flags=flags)
    return load_settings(file, flags=flags)


def settings_or_fail(config: str | None, flags: dict[str, object]) -> Settings:
    """The settings in force; their mistakes end the command."""
    try:
        return read_settings(config, flags)
    except DiagnosticsFound as found:
        fail("\n".join(line(diagnostic) for diagnostic in found.diagnostics))


def line(diagnostic: Diagnostic) -> str:
    """A diagnostic as people and editors read it: `file:line:column: message (hint)`."""
    place = shown_path(diagnostic.file)
    if diagnostic.line:
        place += f":{diagnostic.line}:{diagnostic.column}"
    hint = f" ({diagnostic.hint})" if diagnostic.hint else ""
    return f"{place}: {diagnostic.message}{hint}"
