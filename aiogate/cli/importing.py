"""`aiogate import tyk`: Tyk's API definitions and policies, from JSON files to YAML files.

The translator is the control room's. A declaration with a refused field is not written at all: without that field it
would do something else than Tyk did. A file that somebody wrote by hand is not overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiogate.cli.printing import counted, example, print_json, safe
from aiogate.errors import DiagnosticsFound, Rejected

if TYPE_CHECKING:
    from aiogate.control.operations.translate import Translation

__all__ = ["importing"]

LARGEST = 64 * 1024 * 1024
"""Largest file that is read, in bytes."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one declaration. `written` is the file; empty: nothing was written."""

    source: str
    id: str
    written: str
    ignored: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@click.group("import", epilog=example("aiogate import tyk apps/"))
def importing() -> None:
    """Take declarations over from another gateway."""


@importing.command(epilog=example("aiogate import tyk apps/ --apis apis.d --policies policies.d"))
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--apis", type=click.Path(file_okay=False, path_type=Path), default=Path("apis.d"), show_default=True,
              metavar="DIR", help="Folder that API definitions are written into.")  # fmt: skip
@click.option("--policies", type=click.Path(file_okay=False, path_type=Path), default=Path("policies.d"),
              show_default=True, metavar="DIR", help="Folder that policies are written into.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def tyk(path: Path, apis: Path, policies: Path, *, dry_run: bool, as_json: bool) -> None:
    """Write Tyk's classic API definitions and policies as YAML.

    PATH is a JSON file or a folder of them. Each field that has no exact equal gets a line. Exit code 1: something was
    refused, and not written. `aiogate check` looks at the whole set afterwards.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise click.UsageError(f"{path} holds no .json files")
    done = [one for file in files for one in _file(file, apis, policies, dry_run=dry_run)]
    if as_json:
        print_json([{name: getattr(one, name) for name in Imported.__slots__} for one in done])
    else:
        for one in done:
            _print(one)
    if any(one.refused for one in done):
        raise click.exceptions.Exit(1)


def _print(one: Imported) -> None:
    click.echo(safe(f"{one.source}: {one.written or 'not written: ' + counted(len(one.refused), 'refused field')}"))
    for word, lines in (("refused", one.refused), ("ignored", one.ignored)):
        for line in lines:
            click.echo(safe(f"  {word}  {line}"))


def _file(file: Path, apis: Path, policies: Path, *, dry_run: bool) -> Iterator[Imported]:
    from aiogate.control.operations.translate import translate_api, translate_policy

    try:
        if file.stat().st_size > LARGEST:
            raise ValueError("it is larger than 64 MiB")
        value = json.loads(file.read_bytes())
        found = list(_declarations(value))
    except (OSError, ValueError, RecursionError) as error:
        yield Imported(str(file), "", "", refused=(f"(file): cannot be read: {error}",))
        return
    for is_api, body in found:
        literal = _literal(body)
        translation = translate_api(literal) if is_api else translate_policy(literal)
        yield _write(file, translation, apis if is_api else policies, is_api=is_api, dry_run=dry_run)


def _declarations(value: Any) -> Iterator[tuple[bool, Mapping[str, Any]]]:
    """Each definition (True) and policy (False): alone, in a list, by id, or in the wrapping of a Dashboard's reply."""
    if isinstance(value, list):
        for one in value:
            yield from _declarations(one)
        return
    if not isinstance(value, dict):
        raise ValueError("neither an API definition nor a policy")  # it is the file's content
    wrapped = next((value[name] for name in ("api_definition", "apis", "Data") if value.get(name)), None)
    if wrapped is not None:
        hooks = value.get("hook_references")
        for is_api, body in _declarations(wrapped):
            yield is_api, ({**body, "hook_references": hooks} if hooks else body)
    elif "proxy" in value or "api_id" in value or "version_data" in value:
        yield True, value
    elif {"access_rights", "rate", "quota_max", "partitions", "key_expires_in"} & value.keys():
        yield False, value
    elif value and all(isinstance(inner, dict) for inner in value.values()):
        for name, inner in value.items():
            yield False, {**inner, "id": name}
    else:
        raise ValueError("neither an API definition nor a policy")


def _literal(value: Any) -> Any:
    """The same with every `${` escaped: Tyk has no such variables, and a text of Tyk's must not become one."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: _literal(inner) for key, inner in value.items()}
    return [_literal(inner) for inner in value] if isinstance(value, list) else value


def _write(source: Path, translation: Translation, folder: Path, *, is_api: bool, dry_run: bool) -> Imported:
    from aiogate.control.operations.definition_files import check_text, replace_file
    from aiogate.control.operations.translate import yaml_text

    refused = list(translation.refused)
    file = folder / f"{translation.id}.yaml"
    if not refused:
        text = yaml_text(translation.native, f"imported from {safe(source.name)}")
        try:
            check_text(file, text, is_api=is_api)
            if not dry_run:
                replace_file(file, text)
        except DiagnosticsFound as mistakes:
            refused += [f"{found.path or '(file)'}: {found.message}" for found in mistakes.diagnostics]
        except Rejected as no:
            refused.append(f"(file): {no.message}")
        except OSError as error:
            refused.append(f"(file): {file} cannot be written: {error.strerror or error}")
    return Imported(
        str(source), translation.id, "" if refused else str(file), tuple(translation.ignored), tuple(refused)
    )
