"""`aiogate schema`: the shape of the files, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiogate.cli.printing import example
from aiogate.cli.settings import Mistaken, config_option, folder_option, read_settings
from aiogate.errors import DiagnosticsFound

if TYPE_CHECKING:
    from aiogate.config import schema as schemas

__all__ = ["schema"]


@click.command(epilog=example("aiogate schema > aiogate.schema.json"))
@click.option("--policy", "which", flag_value="policy", help="The schema of a policy.")
@click.option("--settings", "which", flag_value="settings", help="The schema of aiogate.yaml.")
@config_option
@folder_option("plugins", "Folder of plugins [default: plugins].")
def schema(which: str | None, config: Path | None, plugins: Path | None) -> None:
    """Print the JSON Schema of an API definition, with the configurations of all plugins that are there.

    It is of draft 2020-12. Editors with the YAML language server complete keys and mark mistakes with it.
    """
    from aiogate.config import schema as schemas

    if which == "policy":
        made = schemas.policy_schema()
    elif which == "settings":
        made = schemas.settings_schema()
    else:
        try:
            made = schemas.definition_schema(_plugins(read_settings(config, {"plugins": plugins}).plugins))
        except DiagnosticsFound as mistakes:
            raise Mistaken(mistakes.diagnostics) from mistakes
    click.echo(json.dumps(made, indent=2))


def _plugins(folder: Path) -> list[schemas.PluginShape]:
    """Raises `DiagnosticsFound` for a plugin that cannot be loaded."""
    from aiogate.builtin import BUILTINS
    from aiogate.chain.compile import TERMINAL
    from aiogate.chain.contracts import MiddlewareKind
    from aiogate.chain.plugboard import load_plugins
    from aiogate.config.schema import PluginShape

    board, broken = load_plugins(BUILTINS, folder)
    if broken:
        raise DiagnosticsFound(broken)
    return [
        PluginShape(
            loaded.name,
            loaded.kind.config,
            loaded.authenticates,
            refuses=isinstance(loaded.kind, MiddlewareKind) and loaded.kind.refuses,
            summary=loaded.kind.summary,
        )
        for loaded in board.kinds.values()
        if loaded.name != TERMINAL
    ]
