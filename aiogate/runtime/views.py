"""What the running gateway shows of itself: plain values for the control API and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aiogate.chain.compile import CompiledApi
from aiogate.chain.plugboard import PlugBoard
from aiogate.config.definition import Definition
from aiogate.config.match import Match
from aiogate.proxy.balance import Group

__all__ = ["ChainView", "EjectedView", "MatchView", "PluginView", "RouteView", "RoutesView", "StepView"]


@dataclass(frozen=True, slots=True)
class RouteView:
    """One line of `aiogate routes`."""

    api: str
    name: str
    org: str
    host: str
    listen_path: str
    versions: tuple[str, ...]
    auth: str
    upstream: str
    file: str


@dataclass(frozen=True, slots=True)
class MatchView:
    """Which API and version would take a request, which steps it would meet, and why."""

    api: str
    listen_path: str
    tail: str
    reason: str
    version: str = ""
    """Its name, or why there is none. A version by header is that of a request without the header."""
    steps: tuple[str, ...] = ()
    """In order; entries whose `match` does not apply to the request are left out."""


@dataclass(frozen=True, slots=True)
class RoutesView:
    generation: int
    routes: tuple[RouteView, ...]
    match: MatchView | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """One line of `aiogate chain`."""

    position: int
    stage: str
    name: str
    source: str
    mode: str
    match: str
    rule: str


@dataclass(frozen=True, slots=True)
class ChainView:
    api: str
    version: str
    steps: tuple[StepView, ...]


@dataclass(frozen=True, slots=True)
class EjectedView:
    """A target that is left alone for `seconds` more; `version` is empty for the upstream of the API itself."""

    api: str
    version: str
    target: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PluginView:
    """One line of `aiogate plugins list`."""

    name: str
    source: str
    kinds: tuple[str, ...]
    hooks: tuple[str, ...]
    summary: str


def route_view(api: CompiledApi) -> RouteView:
    definition = api.definition
    auth = definition.auth
    names = [use.name for use in auth.methods]
    shown = "none" if auth.mode == "none" else (" and " if auth.mode == "all" else " or ").join(names)
    return RouteView(
        api=api.id,
        name=definition.name,
        org=api.org,
        host=api.host or "",
        listen_path=api.listen_path,
        versions=tuple(definition.versions.list) if definition.versions is not None else (),
        auth=shown,
        upstream=_upstream_as_written(definition),
        file=definition.file,
    )


def chain_views(api: CompiledApi) -> Sequence[ChainView]:
    """The chain of each version, in the order of the definition."""
    views = []
    for version, chain in api.chains.items():
        steps = tuple(
            StepView(
                position=index,
                stage=step.stage.name,
                name=step.name,
                source=step.source,
                mode=step.mode,
                match=_shown(step.match),
                rule=str(step.position),
            )
            for index, step in enumerate(chain.steps)
        )
        views.append(ChainView(api.id, version, steps))
    return views


def ejected_views(groups: Iterable[Group]) -> tuple[EjectedView, ...]:
    """The targets that get no requests for now. Of two groups of one API and version the newer one counts."""
    shown = {(group.api, group.version, str(target)): seconds for group in groups for target, seconds in group.states()}
    return tuple(EjectedView(*names, round(seconds, 3)) for names, seconds in sorted(shown.items()) if seconds)


def plugin_views(board: PlugBoard) -> Sequence[PluginView]:
    return [PluginView(info.name, info.source, info.kinds, info.hooks, info.summary) for info in board.plugins]


def _shown(match: Match | None) -> str:
    if match is None:
        return ""
    parts = (("paths", match.paths), ("methods", sorted(match.methods)), ("versions", sorted(match.versions)))
    return " ".join(f"{name}={','.join(values)}" for name, values in parts if values)


def _upstream_as_written(definition: Definition) -> str:
    """The upstream's addresses with their `${…}` unresolved: a secret may stand there."""
    written = definition.source.written(("upstream",)) if definition.upstream is not None else ""
    if not isinstance(written, dict):
        return str(written)
    targets = written.get("targets") or [written]
    return " ".join(str(target.get("url", "") if isinstance(target, dict) else target) for target in targets)
