"""`aiogate check`: what a start or a reload would say of the files, by the code that a reload runs.

Mistakes in one file can be found in another (an id that is taken, a policy that names an API), so the whole project is
always loaded; paths only choose which project that is, and whose mistakes are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aiogate.cli.printing import annotation, counted, diagnostic_line, example, joined, print_json, safe
from aiogate.cli.settings import DEFAULT_FILE, config_option, folder_option, from_here, read_settings, settings_file
from aiogate.errors import Diagnostic, DiagnosticsFound

if TYPE_CHECKING:
    from aiogate.config.settings import Settings

__all__ = ["check"]

_FOLDERS: Final = ("apis", "policies", "plugins")
_YAML: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Project:
    """A set of files that is loaded together: a settings file, if there is one, and flags."""

    file: Path | None
    flags: tuple[tuple[str, Path], ...] = ()

    def settings(self) -> Settings:
        """Raises `DiagnosticsFound`."""
        return read_settings(self.file, dict(self.flags))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in one project. The numbers are 0 when it could not be loaded.

    `about_settings` are the mistakes in the settings themselves.
    """

    diagnostics: tuple[Diagnostic, ...]
    apis: int = 0
    policies: int = 0
    plugins: int = 0
    about_settings: frozenset[Diagnostic] = frozenset()


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed: `elsewhere` counts the problems of files that were not asked about."""

    diagnostics: tuple[Diagnostic, ...]
    apis: int
    policies: int
    plugins: int
    elsewhere: int

    @property
    def problems(self) -> Sequence[Diagnostic]:
        return _errors(self.diagnostics)


@click.command(epilog=example("aiogate check", "aiogate check apis.d/login.yaml --json"))
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH]...")
@config_option
@folder_option("apis", "Folder of API definitions [default: apis.d].")
@folder_option("policies", "Folder of policies [default: policies.d].")
@folder_option("plugins", "Folder of plugins [default: plugins].")
@click.option("--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--strict", is_flag=True, help="Take warnings for problems.")
def check(
    paths: tuple[Path, ...],
    config: Path | None,
    apis: Path | None,
    policies: Path | None,
    plugins: Path | None,
    form: str,
    as_json: bool,
    strict: bool,
) -> None:
    """Say what is wrong in settings, definitions, policies and plugins, without serving them.

    Without PATH, the project in the working directory. PATH is a project (a folder with apis.d or aiogate.yaml in it),
    a folder of definitions, or one file: then its own problems are told. Exit code 1: there are problems. A warning is
    none, unless --strict says so. The format `github` is for a workflow: it annotates the lines of a pull request.
    """
    given = {"apis": apis, "policies": policies, "plugins": plugins}
    flags = tuple((name, folder) for name, folder in given.items() if folder is not None)
    report = examine(paths, Project(settings_file(config), flags))
    if strict:
        report = replace(report, diagnostics=tuple(replace(found, severity="error") for found in report.diagnostics))
    if as_json or form == "json":
        print_json(_as_json(report))
    elif form == "github":
        for found in report.diagnostics:
            click.echo(annotation(found))
    else:
        for found in report.diagnostics:
            click.echo(diagnostic_line(asdict(found)))
        click.echo(safe(_summary(report, paths)))
    if report.problems:
        raise click.exceptions.Exit(1)


def examine(paths: Sequence[Path], configured: Project) -> Report:
    """Load each project that the paths belong to, once, and keep what is about the paths."""
    told = [_left_alone(path) for path in paths if path.is_file() and path.name.startswith((".", "_"))]
    elsewhere = 0
    asked = _by_project(paths, configured)
    verdicts = {project: _load(project) for project in asked}
    for project, verdict in verdicts.items():
        about = [
            found
            for found in verdict.diagnostics
            if found in verdict.about_settings or _is_about(found, asked[project])
        ]
        told.extend(about)
        elsewhere += len(_errors(verdict.diagnostics)) - len(_errors(about))
    return Report(
        tuple(dict.fromkeys(from_here(found) for found in told)),
        sum(verdict.apis for verdict in verdicts.values()),
        sum(verdict.policies for verdict in verdicts.values()),
        sum(verdict.plugins for verdict in verdicts.values()),
        elsewhere,
    )


def _by_project(paths: Sequence[Path], configured: Project) -> Mapping[Project, Sequence[Path] | None]:
    """Each project with the files and folders in it that were asked about; None: all of it."""
    if not paths:
        return {configured: None}
    asked: dict[Project, list[Path] | None] = {}
    for path in paths:
        project, whole = _project_of(path, configured)
        if whole:
            asked[project] = None
        elif (chosen := asked.setdefault(project, [])) is not None:
            chosen.append(path.resolve())
    return asked


def _load(project: Project) -> Verdict:
    import asyncio

    from aiogate.config.advice import advice
    from aiogate.runtime.assembly import all_mistakes
    from aiogate.runtime.assembly import check as load

    try:
        settings = project.settings()
    except DiagnosticsFound as mistakes:
        found = asyncio.run(all_mistakes(mistakes)).diagnostics
        return Verdict(found, about_settings=frozenset(mistakes.diagnostics))
    try:
        generation = asyncio.run(load(settings))
    except DiagnosticsFound as mistakes:
        return Verdict(mistakes.diagnostics)
    return Verdict(
        (*generation.warnings, *advice(generation.declared, settings.listen)),
        len(generation.declared.definitions),
        len(generation.declared.policies),
        len(generation.board.plugins),
    )


def _project_of(path: Path, configured: Project) -> tuple[Project, bool]:
    """The project that a path belongs to, and whether the path is the whole of it."""
    place = path.resolve()
    if place.is_dir() and _is_project(place):
        # The working directory's own project keeps the flags and the settings file that were given.
        return (configured if place == Path.cwd() else _project_at(place)), True
    nearby = (_project_at(folder) for folder in place.parents[:2] if _is_project(folder))
    for project in (configured, *nearby):
        if _reads(project, place):
            return project, False
    if not place.is_dir() and place.suffix not in _YAML:
        raise click.UsageError(f"{path} is not a file that the gateway would read")
    folder = place if place.is_dir() else place.parent
    others = tuple((name, value) for name, value in configured.flags if name != "apis")
    return replace(configured, flags=(("apis", folder), *others)), False


def _is_project(folder: Path) -> bool:
    return (folder / "apis.d").is_dir() or (folder / DEFAULT_FILE).is_file()


def _project_at(root: Path) -> Project:
    file = root / DEFAULT_FILE
    if file.is_file():
        return Project(file)
    return Project(None, (("apis", root / "apis.d"), ("policies", root / "policies.d"), ("plugins", root / "plugins")))


def _reads(project: Project, place: Path) -> bool:
    """Whether the project reads the file, or what is in the folder."""
    file = project.file.resolve() if project.file is not None else None
    if place == file:
        return True
    try:
        settings = project.settings()
    except DiagnosticsFound:
        # Where its folders are cannot be said; that its settings are mistaken is what there is to tell.
        return file is not None and place.is_relative_to(file.parent)
    return any(place.is_relative_to(getattr(settings, name).resolve()) for name in _FOLDERS)


def _is_about(found: Diagnostic, chosen: Iterable[Path] | None) -> bool:
    """Whether a diagnostic is about one of the files, or in one of the folders; None: everything is asked about."""
    return chosen is None or any(Path(found.file).resolve().is_relative_to(path) for path in chosen)


def _errors(diagnostics: Iterable[Diagnostic]) -> Sequence[Diagnostic]:
    return [found for found in diagnostics if found.severity == "error"]


def _left_alone(path: Path) -> Diagnostic:
    hint = f"its name begins with {path.name[0]}"
    return Diagnostic(str(path), 0, 0, "file_ignored", "is left alone", hint, severity="warning")


def _summary(report: Report, paths: Sequence[Path]) -> str:
    others = f"; {counted(report.elsewhere, 'problem')} in other files" if report.elsewhere else ""
    if report.problems:
        files = counted(len({found.file for found in report.problems}), "file")
        return f"{counted(len(report.problems), 'problem')} in {files}{others}"
    if report.elsewhere:
        return f"all well: {joined(paths)}{others}"
    warnings = len(report.diagnostics)
    return f"all well: {joined(_loaded(report))}" + (f", {counted(warnings, 'warning')}" if warnings else "")


def _loaded(report: Report) -> Iterator[str]:
    yield counted(report.apis, "API")
    yield counted(report.policies, "policy", "policies")
    yield counted(report.plugins, "plugin")


def _as_json(report: Report) -> Mapping[str, Any]:
    view = {"ok": not report.problems, **asdict(report)}
    if report.problems or report.elsewhere:
        # What was not loaded was not counted.
        view |= {"apis": None, "policies": None, "plugins": None}
    return view
