"""The journey of a YAML file: read, checked, compiled, swapped in.

`Loader.load` is the journey, its lines are the steps in order. Everything is read and everything is validated before
anything changes; any diagnostic refuses the whole load, and the old generation keeps serving. What did not change is
carried over as it is, with its pools and caches; what was replaced is closed after its last request.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from aiogate.builtin import BUILTINS
from aiogate.chain.compile import CompiledApi, Compiler
from aiogate.chain.plugboard import DROP_IN, PlugBoard, load_plugins
from aiogate.config import files
from aiogate.config.loader import Declared, NotLoaded, load
from aiogate.errors import FAILURES, Diagnostic, DiagnosticsFound
from aiogate.proxy.router import RouteTable
from aiogate.proxy.tls import TlsSet, prepare
from aiogate.runtime import same_port
from aiogate.runtime.named_files import store_mistake
from aiogate.turns import rest

if TYPE_CHECKING:
    from aiogate.chain.contracts import Services
    from aiogate.config.definition import BrokenDefinition, Definition
    from aiogate.config.settings import Settings
    from aiogate.telemetry.decisions import Decision

__all__ = [
    "Change",
    "Generation",
    "Loader",
    "ReloadVerdict",
    "difference",
    "discard",
    "let_go",
    "retire",
    "settle",
    "stamp",
]

_log = logging.getLogger("aiogate.reload")
COMPILING = 0.002
"""Seconds of compiling before requests get their turn: a reload of all files must not hold up the loop."""
CLOSED_AT_A_TIME = 8
"""Replaced APIs that are closed before requests get their turn."""
SETTLED_FROM = 256
"""APIs compiled in one reload from which on the collector is told that they stay."""
READINGS = 5
"""How often files are read again that change while they are read."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload changed, by API id."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    policies: bool = False
    certificates: tuple[str, ...] = ()
    """Listeners whose next handshakes use other files."""
    restart_needed: tuple[str, ...] = ()
    """Settings that differ from those in force and wait for the next start."""


@dataclass(frozen=True, slots=True)
class ReloadVerdict:
    """What became of one reload. `generation` is the one that serves now, whether the reload was accepted or not."""

    ok: bool
    generation: int
    at: float
    seconds: float
    reason: str
    diagnostics: tuple[Diagnostic, ...] = ()
    changed: Change = Change()


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that one load declared and compiled."""

    table: RouteTable
    declared: Declared
    board: PlugBoard
    stamp: bytes = b""
    """That of the files when they were read."""
    tls: TlsSet = field(default_factory=TlsSet)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """What is to be told and refuses nothing."""
        return (*self.tls.warnings, *self.declared.warnings)

    @property
    def number(self) -> int:
        return self.table.generation

    def parts(self) -> list[object]:
        """What most of its memory is in, piece by piece."""
        return [*self.table.apis.values(), *self.declared.parts()]


class Loader:
    """Makes generations. Keeps no state: what came before is an argument."""

    __slots__ = ("_now", "_own", "_record", "_services")

    def __init__(
        self,
        services: Services,
        record: Callable[[Decision], None],
        now: Callable[[], float],
        own: Sequence[Definition] = (),
    ) -> None:
        self._services = services
        self._record = record
        self._now = now
        self._own = own

    async def load(
        self,
        settings: Settings,
        previous: Generation | None,
        first: int = 1,
        *,
        instead: Mapping[Path, bytes | None] | None = None,
    ) -> Generation:
        """The next generation; without a previous one its number is `first`.

        `instead`: see `config.loader.load`. Raises `DiagnosticsFound` with every mistake in every file.
        """
        declared, board, stamped, half_read, found = await self._read(settings, previous, instead)
        before = previous.tls if previous else TlsSet()
        tls, mistakes = await asyncio.to_thread(prepare, settings.listen, settings.place, before)
        found.extend(mistakes)
        found.extend(await asyncio.to_thread(lambda: list(store_mistake(settings))))
        compiler = Compiler(board, self._services, self._record, settings.quota_status)
        for partial in half_read:
            found.extend(compiler.check_broken(partial))
        definitions = [definition for definition in declared.definitions if definition.active]
        if self._own:
            found.extend(same_port.conflicts(definitions))
        apis, uncompiled = await self._compile(compiler, definitions, previous)
        found.extend(uncompiled)
        if found:
            discard(apis, board, previous)
            raise DiagnosticsFound(found)
        number = previous.number + 1 if previous else first
        own = previous.table.own if previous else [served(compiler, definition) for definition in self._own]
        table = await asyncio.to_thread(RouteTable, number, apis, declared.policies, self._now(), own)
        return Generation(table, declared, board, stamped, tls)

    async def _read(
        self, settings: Settings, previous: Generation | None, instead: Mapping[Path, bytes | None] | None
    ) -> tuple[Declared, PlugBoard, bytes, tuple[BrokenDefinition, ...], list[Diagnostic]]:
        """Everything that is on disk, as it was at one moment: what changes meanwhile is read again."""
        before = await asyncio.to_thread(stamp, settings)
        for reading in range(1, READINGS + 1):
            declared, mistakes, half_read = await asyncio.to_thread(declare, settings, previous, instead)
            board, broken = load_plugins(BUILTINS, settings.plugins, previous.board if previous else None)
            after = await asyncio.to_thread(stamp, settings)
            if after == before or reading == READINGS:
                break
            forget(board.modules.values(), previous)
            before = after
        if after != before:
            _log.warning("the files never rested while they were read %d times: reload again when they do", READINGS)
        return declared, board, after, half_read, [*mistakes, *broken]

    async def _compile(
        self, compiler: Compiler, definitions: Sequence[Definition], previous: Generation | None
    ) -> tuple[list[CompiledApi], list[Diagnostic]]:
        apis: list[CompiledApi] = []
        found: list[Diagnostic] = []
        began = time.perf_counter()
        for definition, before in await asyncio.to_thread(carried_on, compiler, definitions, previous):
            if before is not None:
                apis.append(before)
                continue
            api, mistakes = compiler.compile(definition)
            found.extend(mistakes)
            if api is not None:
                apis.append(api)
            if time.perf_counter() - began > COMPILING:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return apis, found


def stamp(settings: Settings) -> bytes:
    """Equal while nothing changes on disk of what is declared: definitions, policies, plugins and the settings file."""
    single = (settings.file,) if settings.file is not None else ()
    return files.stamp((settings.apis, settings.policies), settings.plugins, single)


def carried_on(
    compiler: Compiler, definitions: Sequence[Definition], previous: Generation | None
) -> list[tuple[Definition, CompiledApi | None]]:
    """Each definition with the compiled API that serves it on; None: it must be compiled.

    Thousands of comparisons take as long as many requests: this runs in a thread.
    """
    old = previous.table.apis if previous else {}
    kept: list[tuple[Definition, CompiledApi | None]] = []
    for definition in definitions:
        rest()
        before = old.get(definition.id)
        same = before is not None and before.fingerprint == compiler.fingerprint(definition)
        kept.append((definition, before if same else None))
    return kept


def served(compiler: Compiler, definition: Definition) -> CompiledApi:
    """One of our own definitions, compiled; a mistake in it is a bug."""
    api, mistakes = compiler.compile(definition)
    assert api is not None, mistakes
    return api


def declare(
    settings: Settings, previous: Generation | None, instead: Mapping[Path, bytes | None] | None = None
) -> tuple[Declared, tuple[Diagnostic, ...], tuple[BrokenDefinition, ...]]:
    """Read every file: what is free of mistakes, the mistakes, and the definitions that have some.

    All three, so that the plugins' mistakes are told in the same breath.
    """
    try:
        return load(settings, previous.declared if previous else None, instead=instead), (), ()
    except NotLoaded as mistakes:
        return mistakes.declared, mistakes.diagnostics, mistakes.broken


def settle(change: Change) -> None:
    """After a large load, take all that lives out of the collector's rounds: one walk over it is a second of silence.

    What is replaced later has no circles (`close` opens the one there is) and goes without the collector.
    """
    if len(change.added) + len(change.changed) >= SETTLED_FROM:
        gc.freeze()


def difference(old: Generation | None, new: Generation, restart_needed: tuple[str, ...] = ()) -> Change:
    """What is new, for the verdict."""
    before = old.table.apis if old else {}
    after = new.table.apis
    return Change(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(id for id in after.keys() & before.keys() if after[id] is not before[id])),
        removed=tuple(sorted(before.keys() - after.keys())),
        policies=old is None or old.declared.policies is not new.declared.policies,
        certificates=tuple(
            name
            for name, server in new.tls.servers.items()
            if old is not None and old.tls.servers.get(name) is not server
        ),
        restart_needed=restart_needed,
    )


async def retire(old: Generation, new: Generation) -> None:
    """Close what the new generation does not carry on, each after its last request; then forget its plugins' code.

    It takes the old generation apart, a little at a time: nothing else may look into it afterwards.
    """
    carried = {id(api) for api in new.table.apis.values()}
    replaced = [api for api in old.table.apis.values() if id(api) not in carried]
    modules = tuple(old.board.modules.values())
    running = len(replaced)

    def done(api: CompiledApi) -> None:
        nonlocal running
        close(api)
        running -= 1
        if running == 0:
            forget(modules, new)

    for count, api in enumerate(replaced):
        if count % CLOSED_AT_A_TIME == 0:
            await asyncio.sleep(0)
        api.lease.retire(lambda api=api: done(api))  # type: ignore[misc]  # the default binds the loop variable
    if not replaced:
        forget(modules, new)


def let_go(parts: list[object]) -> None:
    """Free the parts of what nobody needs any more; in a thread, because all of them at once take long."""
    while parts:
        rest()
        parts.pop()


def discard(apis: Iterable[CompiledApi], board: PlugBoard, previous: Generation | None) -> None:
    """Close what a refused load compiled, and forget the code that it loaded; it never served."""
    serving = {id(api) for api in previous.table.apis.values()} if previous else set()
    for api in apis:
        if id(api) not in serving:
            close(api)
    forget(board.modules.values(), previous)


def forget(modules: Iterable[ModuleType], serving: Generation | None) -> None:
    """Take the code of drop-in plugins that no longer runs, and of what their packages hold, out of `sys.modules`."""
    kept = {id(module) for module in serving.board.modules.values()} if serving is not None else set()
    gone = [module.__name__ for module in modules if id(module) not in kept and module.__name__.startswith(DROP_IN)]
    for name in [name for name in sys.modules if any(name == one or name.startswith(f"{one}.") for one in gone)]:
        del sys.modules[name]


def close(api: CompiledApi) -> None:
    """Run what the API's plugins want run at the end, and open the circle of the API and its chains."""
    for closer in api.closers:
        try:
            closer()
        except FAILURES:
            _log.exception("closing what API %s had opened failed", api.id)
    api.chains = {}
    api.undecided = None
