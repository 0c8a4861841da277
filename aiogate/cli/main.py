"""`aiogate`: the table of contents of the command line.

A command's module is imported when the command runs, so that `aiogate --version` and `--help` cost an import of click
and nothing else.
"""

from __future__ import annotations

import importlib
from typing import Final

import click

from aiogate import __version__

__all__ = ["main"]

COMMANDS: Final = {
    "serve": ("serve", "Run the gateway in the foreground."),
    "check": ("check", "Validate settings, definitions, policies and plugins without serving."),
    "reload": ("gateway", "Ask the running gateway to reload, and wait for the verdict."),
    "status": ("gateway", "Show the running gateway: generation, APIs, store, last reload."),
    "routes": ("gateway", "Show the route table, or which API would take a request."),
    "chain": ("gateway", "Show an API's middleware in order."),
    "why": ("gateway", "Explain why a request was refused."),
    "shadow": ("gateway", "Show what rules in shadow mode would have refused."),
    "plugins": ("gateway", "Show what is loaded and from where."),
    "keys": ("keys", "Create, show, list and revoke keys."),
    "users": ("keys", "Add basic-auth users."),
    "hash-password": ("passwords", "Hash a password with bcrypt."),
}
"""Command to module and one line of help. The module has a click command of the command's name, `-` as `_`."""


class Commands(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"aiogate.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aiogate")
def main() -> None:
    """An API gateway: YAML in, protected APIs out, and an exact answer to why a request was refused.

    \b
    Example:
      aiogate serve
      aiogate why 69a868e45421-00000004
    """
