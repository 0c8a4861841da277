"""From a definition to an immutable chain per version: the compile step.

`compile_api` reads like the chain it makes: the core steps and the plugins' steps are gathered, sorted by stage (inside
a stage: the order of the YAML list, then `before` and `after`), and frozen. Nothing is opened here; what a plugin
opens, it opens on the first request or in its lifecycle hook.

A `CompiledApi` whose definition, plugins and options did not change is carried into the next generation as it is, with
its connection pools and caches. `close` of a replaced one runs after its last request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from aiogate.chain import authenticate, authorise, limit, opening, upgrades, versions
from aiogate.chain.contracts import (
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    Middleware,
    MiddlewareKind,
    OnRequest,
    OnResponse,
    Opens,
    Services,
    Stage,
)
from aiogate.chain.exchange import Exchange, Response
from aiogate.chain.plugboard import LoadedKind, PlugBoard
from aiogate.chain.run import decision_of
from aiogate.config.diagnose import diagnostics_of, did_you_mean
from aiogate.errors import FAILURES, PROBLEMS, Diagnostic, Position, Problem

if TYPE_CHECKING:
    from aiogate.clock import Clock
    from aiogate.config.definition import BrokenDefinition, Definition, Match, PluginUse
    from aiogate.config.source import Source
    from aiogate.telemetry.decisions import Decision
    from aiogate.telemetry.events import EventBus

__all__ = ["Chain", "CompiledApi", "Compiler", "Step"]

_log = logging.getLogger("aiogate.chain")
TERMINAL: Final = "reverse_proxy"
CORE: Final = "core"
ENDPOINTS: Final = "endpoints"
"""The step of a method's own endpoints."""


@dataclass(frozen=True, slots=True)
class Step:
    """One place in a chain, as `aiogate chain` prints it."""

    name: str
    stage: Stage
    source: str
    position: Position
    mode: str = "enforce"
    match: Match | None = None
    on_request: OnRequest | None = None
    on_response: OnResponse | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """The steps of one version, in order. `calls` and `responders` are what the loop in `run` reads."""

    api: CompiledApi
    version: str
    steps: tuple[Step, ...]
    calls: tuple[tuple[int, OnRequest], ...]
    responders: tuple[tuple[OnResponse, ...], ...]
    """For each step, what runs on the way back when it was the last one entered."""


class Lease:
    """How many requests run on a compiled API, so that what was replaced is closed after its last request."""

    __slots__ = ("_close", "active", "retired")

    def __init__(self) -> None:
        self.active = 0
        self.retired = False
        self._close: Callable[[], None] | None = None

    def retire(self, close: Callable[[], None]) -> None:
        """No new request comes. Call `close` now, or when the last running one is done."""
        self.retired = True
        self._close = close
        self.done()

    def done(self) -> None:
        """To be called when `active` has fallen."""
        if self.retired and self.active == 0 and self._close is not None:
            close, self._close = self._close, None
            close()


class CompiledApi:
    """One API as it is served.

    Immutable, but for its running requests (`lease`), its counts (`counts`) and its chains, which change as a whole
    when its organisation gets a session or loses it (`chain.organisation`).
    """

    __slots__ = (
        "_choose",
        "_record",
        "chains",
        "clock",
        "closers",
        "counts",
        "credential_query",
        "definition",
        "events",
        "fingerprint",
        "host",
        "id",
        "lease",
        "listen_path",
        "org",
        "plain",
        "takers",
        "undecided",
    )

    def __init__(
        self, definition: Definition, fingerprint: str, services: Services, record: Callable[[Decision], None]
    ) -> None:
        self.definition = definition
        self.fingerprint = fingerprint
        self.id = definition.id
        self.org = definition.org
        self.host = definition.listen.host
        self.listen_path = definition.listen.path
        self.clock: Clock = services.clock
        self.events: EventBus = services.events
        self.lease = Lease()
        self.counts = services.metrics.of(definition.id)
        self._record = record
        self._choose = versions.chooser(definition.versions) if definition.versions is not None else None
        # Filled once by the compiler, which needs the API for its chains; never changed afterwards.
        self.chains: Mapping[str, Chain] = {}
        self.undecided: Chain | None = None
        self.closers: tuple[Callable[[], None], ...] = ()
        self.credential_query: frozenset[str] = frozenset()
        self.takers: dict[str, Callable[..., OnRequest]] = {}
        """Make the limit step of a version, with or without an organisation's buckets."""
        self.plain: Mapping[str, Chain] | None = None
        """The chains of the compiler, while those with the organisation's steps stand in their place."""

    def select(self, exchange: Exchange) -> Chain:
        """The chain for this request. Sets `api`, `tail` and `version` of the exchange; never fails."""
        exchange.api = self
        exchange.tail = exchange.path[len(self.listen_path) - 1 :] or "/"
        if self._choose is None:
            exchange.version = versions.DEFAULT_VERSION
            return self.chains[versions.DEFAULT_VERSION]
        chosen = self._choose(exchange)
        if isinstance(chosen, Problem):
            exchange.version_problem = chosen
            assert self.undecided is not None
            return self.undecided
        exchange.version = chosen
        return self.chains[chosen]

    def record(self, decision: Decision) -> None:
        self._record(decision)

    def __repr__(self) -> str:
        return f"<CompiledApi {self.id} at {self.listen_path}>"


class Compiler:
    """Turns definitions into compiled APIs. One per generation; it keeps nothing but its arguments."""

    __slots__ = ("_board", "_quota_status", "_record", "_services")

    def __init__(
        self, board: PlugBoard, services: Services, record: Callable[[Decision], None], quota_status: int
    ) -> None:
        self._board = board
        self._services = services
        self._record = record
        self._quota_status = quota_status

    def fingerprint(self, definition: Definition) -> str:
        """Equal for two definitions that compile to the same thing."""
        names = {use.name for use in (*definition.auth.methods, *definition.plugins)}
        digests = [self._board.kinds[name].digest for name in sorted(names) if name in self._board.kinds]
        return "|".join((definition.digest, str(self._quota_status), *digests))

    def compile(self, definition: Definition) -> tuple[CompiledApi | None, list[Diagnostic]]:
        """The compiled API, or every diagnostic of the plugins it uses."""
        builder = _Builder(definition, self._board, self._services, self._quota_status)
        api = CompiledApi(definition, self.fingerprint(definition), self._services, self._record)
        builder.build(api)
        if not builder.diagnostics:
            return api, []
        # What was opened before another plugin refused serves nobody, and nobody else closes it.
        for closer in builder.closers:
            try:
                closer()
            except FAILURES:
                _log.exception("closing what API %s had opened failed", definition.id)
        return None, builder.diagnostics

    def check_broken(self, broken: BrokenDefinition) -> list[Diagnostic]:
        """What the plugins say about the entries of a definition that has mistakes elsewhere."""
        entries = _Entries(self._board, broken.source)
        for use in broken.auth.methods:
            entries.configured(use, AuthenticatorKind)
        for use in broken.plugins:
            entries.configured(use, MiddlewareKind)
        return entries.diagnostics


class _Entries:
    """The plugins' entries of one file: their kinds and their validated configurations, or diagnostics."""

    def __init__(self, board: PlugBoard, source: Source) -> None:
        self.board = board
        self.source = source
        self.diagnostics: list[Diagnostic] = []

    def configured(self, use: PluginUse, wanted: type[Any]) -> tuple[LoadedKind | None, Any]:
        """The kind of that name and its validated configuration, or diagnostics."""
        loaded = self.board.kinds.get(use.name)
        if loaded is None:
            names = [kind.name for kind in self.board.kinds.values() if isinstance(kind.kind, wanted)]
            self.report(use, "plugin_unknown", f"no plugin is called `{use.name}`", did_you_mean(use.name, names))
            return None, None
        if not isinstance(loaded.kind, wanted):
            place = "auth" if loaded.authenticates else "plugins"
            self.report(use, "plugin_not_auth", f"`{use.name}` does not belong here", f"it stands under `{place}:`")
            return None, None
        kind = loaded.kind
        # Authentication in shadow mode is refused where definitions are read.
        if use.mode == "shadow" and isinstance(kind, MiddlewareKind) and not kind.refuses:
            self.report(
                use, "shadow_not_allowed", f"`{use.name}` cannot run in shadow mode", "only rules that can refuse can"
            )
        try:
            return loaded, kind.config.model_validate(use.config)
        except ValidationError as error:
            self.diagnostics.extend(diagnostics_of(error, self.source, use.path))
            return None, None

    def report(self, use: PluginUse, code: str, message: str, hint: str = "") -> None:
        path = ".".join(str(part) for part in use.path)
        self.diagnostics.append(Diagnostic.at(use.position, code, message, hint, path))


class _Builder(_Entries):
    """The work on one definition: configurations validated once, steps built for each version."""

    def __init__(self, definition: Definition, board: PlugBoard, services: Services, quota_status: int) -> None:
        super().__init__(board, definition.source)
        self.definition = definition
        self.services = services
        self.quota_status = quota_status
        self.closers: list[Callable[[], None]] = []
        self.credential_query: set[str] = set()
        self.core_position = definition.source.locate(())

    def build(self, api: CompiledApi) -> None:
        definition = self.definition
        methods = [(use, *self.configured(use, AuthenticatorKind)) for use in definition.auth.methods]
        plugins = [(use, *self.configured(use, MiddlewareKind)) for use in definition.plugins]
        self.check_answers([kind for _, kind, _ in plugins if kind is not None])
        if self.diagnostics:
            return
        chains: dict[str, Chain] = {}
        for version, expires in versions.expiries(definition.versions).items():
            try:
                chains[version] = freeze(api, version, self.steps(api, version, expires, methods, plugins))
            except ValueError as error:
                self.diagnostics.append(Diagnostic.at(self.at("plugins"), "build_failed", str(error)))
        if self.diagnostics:
            return
        api.chains = chains
        if definition.versions is not None:
            some = next(iter(chains.values()))
            entry = list(_undecided(some.steps))
            refuse = Step("versions", Stage.VERSION, CORE, self.at("versions"), on_request=versions.refusal_step())
            api.undecided = freeze(api, "", [*entry, refuse])
        api.closers = tuple(self.closers)
        api.credential_query = frozenset(self.credential_query)

    def check_answers(self, kinds: Iterable[LoadedKind]) -> None:
        definition = self.definition
        declared = definition.versions.list.values() if definition.versions is not None else ()
        covered = definition.upstream is not None or (declared and all(version.upstream for version in declared))
        if not covered and not any(isinstance(kind.kind, MiddlewareKind) and kind.kind.answers for kind in kinds):
            self.diagnostics.append(
                Diagnostic.at(
                    self.core_position,
                    "upstream_missing",
                    f"API {definition.id} has no upstream and no plugin that answers",
                    "add `upstream: http://…`, or the plugin `mock`",
                )
            )

    def steps(
        self,
        api: CompiledApi,
        version: str,
        expires: float | None,
        methods: Sequence[tuple[PluginUse, LoadedKind | None, Any]],
        plugins: Sequence[tuple[PluginUse, LoadedKind | None, Any]],
    ) -> list[Step]:
        """Every step of one version, in order."""
        definition, services = self.definition, self.services
        steps: list[Step] = []
        further: list[Step] = []
        contributions: list[limit.Contribution] = []
        openers: list[tuple[Opens, Position]] = []

        expiry = versions.expiry_step(definition.expires, expires, services.clock)
        if expiry is not None:
            steps.append(
                Step(
                    "versions",
                    Stage.VERSION,
                    CORE,
                    self.at("expires" if expires is None else "versions"),
                    on_request=expiry,
                )
            )
        for use, loaded, config in plugins:
            assert loaded is not None
            assert isinstance(loaded.kind, MiddlewareKind)
            if use.match is not None and use.match.versions and version not in use.match.versions:
                continue
            middleware = self.made(use, loaded, config, version)
            if middleware is None:
                continue
            for bucket, problem in middleware.buckets:
                contribution = limit.Contribution(bucket, problem, use.match, use.position)
                # In force, a bucket is taken by the core's limit step; its own line only shows where it came from.
                step = Step(use.name, Stage.LIMIT, loaded.source, use.position, use.mode, use.match)
                if use.mode == "shadow":
                    take = limit.shadow_limit(contribution, services.counters, services.clock)
                    step = in_shadow(api, step, take)
                else:
                    contributions.append(contribution)
                further.append(step)
            if middleware.opens is not None and use.mode != "shadow":
                openers.append((opening.where(use.match, middleware.opens), use.position))
            if middleware.on_request is not None or middleware.on_response is not None:
                further.append(plugin_step(api, use, loaded, middleware))

        if openers:
            decide = opening.opening_step([opens for opens, _ in openers])
            steps.append(Step("open", Stage.VERSION, CORE, openers[0][1], on_request=decide))
        refuse = upgrades.websocket_step(definition.websocket)
        if refuse is not None:
            steps.append(Step("websocket", Stage.VERSION, CORE, self.at("websocket"), on_request=refuse))
        if definition.auth.mode != "none":
            steps.extend(self.auth_steps(version, methods, some_open=bool(openers)))
        steps.extend(further)

        authenticated = definition.auth.mode != "none"
        api.takers[version] = taker = partial(
            limit.limit,
            contributions,
            definition.session_limits,
            services.counters,
            services.clock,
            self.quota_status,
        )
        if authenticated or contributions:
            shown = limit.show_quota if authenticated else None
            steps.append(Step("limits", Stage.LIMIT, CORE, self.core_position, on_request=taker(), on_response=shown))
        steps.append(self.terminal(version))
        return steps

    def auth_steps(
        self, version: str, methods: Sequence[tuple[PluginUse, LoadedKind | None, Any]], *, some_open: bool
    ) -> Iterable[Step]:
        definition = self.definition
        names = tuple(use.name for use, _, _ in methods)
        built: list[Authenticator] = []
        for use, loaded, config in methods:
            assert loaded is not None
            assert isinstance(loaded.kind, AuthenticatorKind)
            context = BuildContext(definition, version, self.services, use.position, names)
            try:
                authenticator = loaded.kind.build(config, context)
            except FAILURES as error:
                self.build_failed(use, error)
                continue
            if authenticator.close is not None:
                self.closers.append(authenticator.close)
            self.credential_query.update(authenticator.credential_query)
            built.append(authenticator)
        if len(built) != len(methods):
            return
        position = self.at("auth")
        for (use, loaded, _), authenticator in zip(methods, built, strict=True):
            if authenticator.endpoints is not None and loaded is not None:
                yield Step(
                    ENDPOINTS, Stage.VERSION, loaded.source, use.position, on_request=authenticator.endpoints,
                    before=("paths", "open", "websocket"), after=("ip_filter",),
                )  # fmt: skip
        if definition.auth.mode == "all":
            call = authenticate.all_of(built, names, definition.auth.session_from)
        else:
            call = authenticate.any_of(built)
        call = opening.unless_open(call) if some_open else call
        yield Step("auth", Stage.AUTHENTICATE, ", ".join(names), position, on_request=call)
        if definition.strip_credentials:
            strip = authenticate.strip_step(built)
            yield Step("strip_credentials", Stage.AUTHENTICATE, CORE, self.at("strip_credentials"), on_request=strip)
        check = authorise.authorise(definition.id, versioned=definition.versions is not None, clock=self.services.clock)
        check = opening.unless_open(check) if some_open else check
        yield Step("access", Stage.AUTHORISE, CORE, position, on_request=check)

    def terminal(self, version: str) -> Step:
        """The last step: it speaks to the upstream, where this version has one, and refuses where it has none."""
        definition = self.definition
        declared = definition.versions.list[version].upstream if definition.versions is not None else None
        if declared is None and definition.upstream is None:
            return Step("no_upstream", Stage.UPSTREAM, CORE, self.core_position, on_request=_nothing_answered)
        loaded = self.board.kinds[TERMINAL]
        assert isinstance(loaded.kind, MiddlewareKind)
        position = self.at("upstream") if declared is None else self.at("versions")
        context = BuildContext(definition, version, self.services, position)
        middleware = loaded.kind.build(loaded.kind.config(), context)
        if middleware.close is not None:
            self.closers.append(middleware.close)
        return Step(
            TERMINAL, Stage.UPSTREAM, loaded.source, position,
            on_request=middleware.on_request, on_response=middleware.on_response,
        )  # fmt: skip

    def made(self, use: PluginUse, loaded: LoadedKind, config: Any, version: str) -> Middleware | None:
        assert isinstance(loaded.kind, MiddlewareKind)
        same = [other for other in self.definition.plugins if other.name == use.name]
        ordinal = next(number for number, other in enumerate(same) if other is use)
        context = BuildContext(self.definition, version, self.services, use.position, ordinal=ordinal, mode=use.mode)
        try:
            middleware = loaded.kind.build(config, context)
        except FAILURES as error:
            self.build_failed(use, error)
            return None
        if middleware.close is not None:
            self.closers.append(middleware.close)
        return middleware

    def build_failed(self, use: PluginUse, error: BaseException) -> None:
        """A plugin's own `build` refused a configuration that its model accepts."""
        if isinstance(error, ValueError):
            self.report(use, "build_failed", f"`{use.name}`: {error}")
            return
        _log.exception("plugin %s could not be built for API %s", use.name, self.definition.id, exc_info=error)
        self.report(use, "build_failed", f"`{use.name}` could not be built: {type(error).__name__}: {error}")

    def at(self, key: str) -> Position:
        """Where this key of the definition stands, or the file's beginning."""
        return self.definition.source.locate_key((key,))


def _nothing_answered(_: Exchange) -> Problem:
    return PROBLEMS["not_found"].because("no step of the chain answered, and this version of the API has no upstream")


def plugin_step(api: CompiledApi, use: PluginUse, loaded: LoadedKind, middleware: Middleware) -> Step:
    """The step of one entry under `plugins:`, with its match and its mode wrapped around it while compiling."""
    kind = loaded.kind
    assert isinstance(kind, MiddlewareKind)
    on_request, on_response = middleware.on_request, middleware.on_response
    if use.match is not None and (use.match.paths or use.match.methods):
        on_request, on_response = matched(use.match, on_request), matched_response(use.match, on_response)
    step = Step(
        use.name, kind.stage, loaded.source, use.position, use.mode, use.match,
        on_response=on_response, before=kind.before, after=kind.after,
    )  # fmt: skip
    if use.mode == "shadow" and on_request is not None:
        return in_shadow(api, step, on_request)
    return replace(step, on_request=on_request)


def in_shadow(api: CompiledApi, step: Step, call: OnRequest) -> Step:
    """The step in shadow mode: it decides and is recorded, and never refuses, answers, edits a response or fails."""

    def observe(exchange: Exchange, spoken: Problem | Response | None) -> None:
        if spoken is None:
            return
        if isinstance(spoken, Response):
            detail = f"the step would have answered with {spoken.status}"
            spoken = Problem("answered", spoken.status, "the step would have answered", detail)
        api.record(decision_of(spoken, api, step, exchange, shadow=True))

    def failed(exchange: Exchange, error: BaseException) -> None:
        _log.error("request %s: the step %s in shadow mode failed", exchange.request_id, step.name, exc_info=error)

    async def settle(exchange: Exchange, pending: Awaitable[Problem | Response | None]) -> None:
        try:
            observe(exchange, await pending)
        except FAILURES as error:
            failed(exchange, error)

    def on_request(exchange: Exchange) -> Awaitable[None] | None:
        try:
            spoken = call(exchange)
        except FAILURES as error:
            failed(exchange, error)
            return None
        if spoken is None or isinstance(spoken, (Problem, Response)):
            observe(exchange, spoken)
            return None
        return settle(exchange, spoken)

    return replace(step, on_request=on_request, on_response=None)


def matched(match: Match, call: OnRequest | None) -> OnRequest | None:
    """The function, for the requests that match only."""
    if call is None:
        return None
    wrapped = call

    def on_request(exchange: Exchange) -> Any:
        if match.applies(exchange.method, exchange.tail, exchange.version or ""):
            return wrapped(exchange)
        return None

    return on_request


def matched_response(match: Match, call: OnResponse | None) -> OnResponse | None:
    if call is None:
        return None
    wrapped = call

    def on_response(exchange: Exchange, response: Response) -> Any:
        if match.applies(exchange.method, exchange.tail, exchange.version or ""):
            return wrapped(exchange, response)
        return None

    return on_response


def freeze(api: CompiledApi, version: str, steps: Sequence[Step]) -> Chain:
    """The steps in their order, and what the loop needs of them."""
    placed = tuple(ordered(steps))
    calls = tuple((index, step.on_request) for index, step in enumerate(placed) if step.on_request is not None)
    responders = tuple(
        tuple(step.on_response for step in reversed(placed[: last + 1]) if step.on_response is not None)
        for last in range(len(placed))
    )
    return Chain(api, version, placed, calls, responders)


def ordered(steps: Sequence[Step]) -> list[Step]:
    """By stage; inside a stage as given, moved only as far as `before` and `after` ask.

    Raises ValueError when those wishes contradict each other.
    """
    result: list[Step] = []
    for stage in Stage:
        waiting = [step for step in steps if step.stage is stage]
        while waiting:
            for step in waiting:
                others = [other for other in waiting if other is not step]
                if not any(_precedes(other, step) for other in others):
                    result.append(step)
                    waiting.remove(step)
                    break
            else:
                names = ", ".join(step.name for step in waiting)
                raise ValueError(f"`before` and `after` of {names} contradict each other")
    return result


def _precedes(first: Step, second: Step) -> bool:
    return second.name in first.before or first.name in second.after


def _undecided(steps: Sequence[Step]) -> Iterable[Step]:
    """The steps for requests that name no version: those at the entry, and endpoints of methods with what is before."""
    last = max((index for index, step in enumerate(steps) if step.name == ENDPOINTS), default=-1)
    for index, step in enumerate(steps):
        if step.stage is Stage.ENTRY or (step.stage is Stage.VERSION and index <= last and step.name != "versions"):
            if not _version_bound(step):
                yield step


def _version_bound(step: Step) -> bool:
    return step.match is not None and bool(step.match.versions)
