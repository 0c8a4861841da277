"""`aiogate check`: the same reading, validating and compiling as a reload, without serving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from aiogate.cli.output import fail, print_json
from aiogate.cli.settings import folder_options, line, read_settings
from aiogate.errors import Diagnostic, DiagnosticsFound


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@folder_options
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How problems are printed.")
def check(
    paths: tuple[str, ...],
    config: str | None,
    apis: str | None,
    policies: str | None,
    plugins: str | None,
    state: str | None,
    form: str,
) -> None:
    """Validate settings, definitions, policies and plugins. Never needs a running gateway.

    PATH limits what is reported to files and folders below it; a folder that holds an `apis.d` is checked as a site of
    its own. Without PATH everything is reported. Ends with 1 when there is a problem.

    \b
    Example:
      aiogate check
      aiogate check apis.d/login.yaml --format json
    """
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        fail(f"there is no {', '.join(missing)}", 2)
    flags: dict[str, object] = {"apis": apis, "policies": policies, "plugins": plugins, "state": state}
    found: list[Diagnostic] = []
    summaries: list[str] = []
    sites = [Path(path) for path in paths if (Path(path) / "apis.d").is_dir()]
    rest = [Path(path).resolve() for path in paths if Path(path) not in sites]
    for site in sites:
        own = {**flags, **{name: str(site / folder) for name, folder in FOLDERS.items() if flags[name] is None}}
        file = site / "aiogate.yaml"
        examine(str(file) if file.exists() else None, own, found, summaries)
    if rest or not sites:
        everything: list[Diagnostic] = []
        examine(config, flags, everything, summaries)
        found.extend(one for one in everything if not rest or within(one, rest))
    report(sorted(found), summaries, form)


FOLDERS = {"apis": "apis.d", "policies": "policies.d", "plugins": "plugins"}


def examine(config: str | None, flags: dict[str, object], found: list[Diagnostic], summaries: list[str]) -> None:
    """Check one site; its mistakes go to `found`, what is in it to `summaries`."""
    from aiogate.runtime import assembly

    try:
        settings = read_settings(config, flags)
        generation = asyncio.run(assembly.check(settings))
    except DiagnosticsFound as mistakes:
        found.extend(mistakes.diagnostics)
        return
    found.extend(generation.declared.warnings)
    counts = (
        (len(generation.declared.definitions), "API", "APIs"),
        (len(generation.declared.policies), "policy", "policies"),
        (len(generation.board.plugins), "plugin", "plugins"),
    )
    summaries.append(", ".join(f"{number} {one if number == 1 else many}" for number, one, many in counts))


def within(diagnostic: Diagnostic, paths: Sequence[Path]) -> bool:
    """Whether the diagnostic is about one of these files, or a file in one of these folders."""
    file = Path(diagnostic.file).resolve()
    return any(file == path or path in file.parents for path in paths)


def report(found: Sequence[Diagnostic], summaries: Sequence[str], form: str) -> None:
    """Print everything and end with the exit code."""
    errors = [one for one in found if one.severity == "error"]
    if form == "json":
        print_json({"ok": not errors, "problems": [asdict(one) for one in found]})
    else:
        for one in found:
            click.echo(line(one) if one.severity == "error" else f"{line(one)} [warning]")
        if errors:
            files = len({one.file for one in errors})
            click.echo(f"{len(errors)} problem{'s'[: len(errors) > 1]} in {files} file{'s'[: files > 1]}")
        else:
            click.echo(f"all well: {'; '.join(summaries) or 'nothing was asked'}")
    raise SystemExit(1 if errors else 0)
