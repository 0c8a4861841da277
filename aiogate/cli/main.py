"""The command `aiogate`: the table of its commands, each in a module that is imported when it is called for.

Exit codes are click's: 0 well, 1 a problem was found, 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

from aiogate import __version__

__all__ = ["main"]

COMMANDS: Final[Mapping[str, str]] = {
    "serve": "serve:serve",
    "check": "check:check",
    "reload": "gateway:reload",
    "status": "gateway:status",
    "routes": "gateway:routes",
    "chain": "gateway:chain",
    "why": "gateway:why",
    "shadow": "gateway:shadow",
    "plugins": "gateway:plugins",
    "keys": "keys:keys",
    "users": "keys:users",
    "schema": "schema:schema",
    "import": "importing:importing",
    "hash-password": "passwords:hash_password",
}
"""Each command as `module:attribute` of this package, in the order of the help page."""


class _Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: Any = getattr(import_module(f"aiogate.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(
    "aiogate",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExample:\n  aiogate check && aiogate serve",
)
@click.version_option(__version__, prog_name="aiogate", message="%(prog)s %(version)s")
def main() -> None:
    """An API gateway: YAML files in, protected APIs out, and an exact answer to why a request was refused."""
