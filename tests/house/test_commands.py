"""`docs/command-line.md` names every command, and every option that is not everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from aiogate.cli.main import main
from tests.house.manual import ROOT

EVERYWHERE = {"--help", "--json", "--state", "--config", "--version"}


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_described_with_its_options(name: str) -> None:
    command = COMMANDS[name]
    page = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    assert f"| `{name}" in page
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert {option for option in options - EVERYWHERE if f"`{option}" not in page} == set()
    assert "Example" in command.get_help(click.Context(command))
