"""The command as a whole: what it loads, its help, its exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from aiogate import __version__
from aiogate.cli.main import COMMANDS, main

HEAVY = ("aiohttp", "pydantic", "redis", "orjson", "re2", "bcrypt", "yaml", "asyncio")


def commands() -> Iterator[tuple[str, ...]]:
    context = click.Context(main)
    for name in COMMANDS:
        yield (name,)
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, inner) for inner in command.list_commands(context))


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["keys", "create", "--help"]])
def test_the_command_loads_click_and_nothing_that_it_does_not_use(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom aiogate.cli.main import main\n"
        f"try:\n    main({arguments!r})\nfinally:\n"
        f"    print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_version_and_module() -> None:
    done = subprocess.run([sys.executable, "-m", "aiogate", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"aiogate {__version__}\n"


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"], prog_name="aiogate")
    assert result.exit_code == 0
    after = result.output.partition("Example:\n")[2]
    assert f"aiogate {' '.join(command)}" in after


def test_the_help_page_names_the_commands_of_this_version() -> None:
    assert [" ".join(command) for command in commands()] == [
        "serve", "check", "reload", "status", "routes", "chain", "why", "shadow", "plugins", "plugins list",
        "keys", "keys create", "keys get", "keys list", "keys revoke", "users", "users add", "users import", "schema",
        "import", "import tyk", "hash-password",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["serve", "--wach"],
        ["serve", "-c", "not-there.yaml"],
        ["check", "not-there"],
        ["chain"],
        ["routes", "--host", "example.com"],
        ["routes", "--match", "not a path"],
        ["hash-password", "--cost", "40"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
