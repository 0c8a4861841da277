"""Several workers on one set of sockets: what the supervisor starts, and the life of each.

The first worker reads the declared files. Whoever is born later serves what the others serve: the declared files while
these have not changed, and otherwise the copies that were kept when they were accepted (`last_good`).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from aiogate.builtin import BUILTINS
from aiogate.errors import Diagnostic, DiagnosticsFound
from aiogate.runtime import last_good
from aiogate.runtime.assembly import Place
from aiogate.runtime.crew import Crew, failed
from aiogate.runtime.descriptors import room_for
from aiogate.runtime.gateway import replace_reloadable
from aiogate.runtime.supervisor import Supervisor
from aiogate.runtime.worker import bind, loop_factory, run_file, say_ready, serving, settled
from aiogate.stores.base import StoreUnavailable
from aiogate.stores.factory import engine_of

if TYPE_CHECKING:
    from aiogate.config.settings import Settings
    from aiogate.runtime.child import Birth
    from aiogate.runtime.gateway import Addresses, Gateway
    from aiogate.runtime.last_good import Fallback
    from aiogate.runtime.reload import ReloadVerdict
    from aiogate.runtime.worker import Bound, Doors

__all__ = ["supervise"]

_log = logging.getLogger("aiogate.supervisor")


def supervise(
    settings: Settings, read_settings: Callable[[], Settings], doors: Doors, fallback: Fallback | None = None
) -> int:
    """Be the parent of `settings.workers` workers until a signal ends it. Returns the exit code.

    Raises `DiagnosticsFound` when they cannot start.
    """
    bound = bind(settings)
    control, sockets = bound

    def work(birth: Birth) -> int:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            try:
                return runner.run(live(birth, settings, read_settings, doors, bound, fallback))
            except DiagnosticsFound as mistakes:
                failed(birth, mistakes.diagnostics)
                return 1

    with ExitStack() as stack:
        for opened in (control, *sockets):
            stack.callback(opened.close)

        def ready(addresses: Addresses) -> None:
            stack.enter_context(run_file(settings, addresses))
            say_ready(addresses)

        import_all(settings)
        # What is there now is shared by all workers for as long as nobody writes to it, and the collector would.
        gc.freeze()
        return Supervisor(settings.workers, work, ready, (control, *sockets), settings.timeouts.drain).run()


def import_all(settings: Settings) -> None:
    """Import what each worker would import by itself: that is most of what the birth of one takes."""
    for name in BUILTINS:
        importlib.import_module(name)
    with suppress(StoreUnavailable):  # the first worker says so
        engine_of(settings.store)


async def live(
    birth: Birth,
    settings: Settings,
    read_settings: Callable[[], Settings],
    doors: Doors,
    bound: Bound,
    fallback: Fallback | None,
) -> int:
    """The life of a worker. Raises `DiagnosticsFound` when it cannot start."""
    loop = asyncio.get_running_loop()
    crew, hangup = Crew(birth), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, crew.ask_to_leave)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    if birth.first:
        place = Place(1, None)
    else:
        fallback = None
        settings, place = await asyncio.to_thread(served, birth, settings, read_settings)
    # One of them looks after the files; all others hear of it.
    settings = settings.model_copy(update={"watch": settings.watch and birth.index == 0})
    room, complaint = room_for(settings.limits.connections)
    async with serving(
        settings, read_settings, doors,
        cut=crew.cutting, fallback=fallback, connections=room, bound=bound, place=place,
    ) as gateway:  # fmt: skip
        gateway.crew = crew
        if birth.first and fallback is None:
            await last_good.keep_served(gateway)
        settled()
        if complaint and birth.first:
            _log.warning("%s", complaint)
        generation = gateway.current.table.generation
        await crew.join(Member(gateway), gateway.answers(), gateway.addresses(), generation)
        reloads = loop.create_task(reload_on(hangup, gateway))
        await crew.stopping.wait()
        reloads.cancel()
        _log.info("worker %d drains: %d connections", birth.index, gateway.connections())
    await crew.leave()
    return 0


def served(birth: Birth, settings: Settings, read_settings: Callable[[], Settings]) -> tuple[Settings, Place]:
    """What the other workers serve: the settings in force, and where its files are."""
    try:
        settings = replace_reloadable(settings, read_settings())
        if not last_good.changed_since(settings):
            return settings, Place(birth.generation, None)
    except (DiagnosticsFound, OSError) as error:
        _log.info("worker %d serves the files that were kept: %s", birth.index, error)
    restored = last_good.restore(settings.state, f"worker-{birth.index}")
    return settings, Place(birth.generation, restored.serves(settings) if restored is not None else None)


async def reload_on(hangup: asyncio.Event, gateway: Gateway) -> None:
    """A hangup of one worker is one of all."""
    while True:
        await hangup.wait()
        hangup.clear()
        await gateway.reload("SIGHUP")


class Member:
    """The reloads of a worker, as the supervisor leads them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def prepare(self, reason: str) -> Sequence[Diagnostic]:
        return await self._gateway.prepare(reason)

    async def commit(self, generation: int, *, keep: bool) -> ReloadVerdict:
        verdict = await self._gateway.commit(generation)
        if keep:
            await last_good.keep_served(self._gateway)
        return verdict

    async def abandon(self, reason: str, diagnostics: Sequence[Diagnostic]) -> ReloadVerdict:
        return await self._gateway.abandon(reason, diagnostics)
