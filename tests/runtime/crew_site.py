"""A supervisor whose workers serve nothing: they do what the test's words on their command line say.

    python crew_site.py FOLDER WORKERS

A file in FOLDER decides: `broken` (prepare tells its text as a diagnostic), `fails` (a worker that starts says so),
`crash` (a worker ends at once), `stuck` (a question is not answered), `lingers` (a stop takes that many seconds).
Workers write `PID INDEX FIRST GENERATION` to the file `born` when they serve.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiogate.errors import Diagnostic, DiagnosticsFound
from aiogate.runtime.child import Birth
from aiogate.runtime.crew import Crew, failed
from aiogate.runtime.supervisor import Supervisor

FOLDER = Path(sys.argv[1])


def told(name: str) -> str | None:
    file = FOLDER / name
    return file.read_text() if file.exists() else None


class Reloads:
    def __init__(self, generation: int) -> None:
        self.generation = generation

    async def prepare(self, reason: str) -> Sequence[Diagnostic]:
        broken = told("broken")
        return [Diagnostic("apis.d/a.yaml", 1, 2, "code", broken)] if broken is not None else []

    async def commit(self, generation: int, *, keep: bool) -> Any:
        self.generation = generation
        note(f"commit {generation} {keep}")
        return ("accepted", generation)

    async def abandon(self, reason: str, diagnostics: Sequence[Diagnostic]) -> Any:
        note(f"abandon {reason} {[each.message for each in diagnostics]}")
        return ("refused", [each.message for each in diagnostics])


def note(text: str) -> None:
    with (FOLDER / "log").open("a") as log:
        log.write(f"{os.getpid()} {text}\n")


async def life(birth: Birth) -> int:
    crew = Crew(birth)
    if told("fails") is not None:
        failed(birth, [Diagnostic("apis.d/a.yaml", 3, 4, "code", "cannot start")])
        return 1
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, crew.ask_to_leave)
    reloads = Reloads(birth.generation or 1)

    async def answer(argument: Any) -> Any:
        if told("stuck") == str(birth.index):
            await asyncio.sleep(60)
        return (os.getpid(), reloads.generation, argument)

    note(f"born {birth.index} {birth.first} {birth.generation}")
    await crew.join(reloads, {"who": answer}, ("told by", birth.index), reloads.generation)
    if told("crash") == str(birth.index):
        return 3
    asking = asyncio.create_task(ask(crew)) if birth.index == 0 else None
    waits = [asyncio.create_task(crew.stopping.wait())]
    await asyncio.wait(waits)
    note("leaving")
    cut = asyncio.create_task(crew.cutting.wait())
    await asyncio.wait([cut], timeout=float(told("lingers") or 0))
    note("cut" if cut.done() else "drained")
    if asking is not None:
        asking.cancel()
    await crew.leave()
    return 0


async def ask(crew: Crew) -> None:
    """Do what the file `ask` says, and write what came to `asked`."""
    while True:
        wanted = told("ask")
        if wanted is not None:
            (FOLDER / "ask").unlink()
            found = await (crew.reload("asked") if wanted == "reload" else crew.gather("who", wanted))
            (FOLDER / ".asked").write_text(repr(found))
            (FOLDER / ".asked").rename(FOLDER / "asked")
        await asyncio.sleep(0.01)


def ready(told: Any) -> None:
    sys.stdout.write(f"ready {told}\n")
    sys.stdout.flush()


try:
    sys.exit(Supervisor(int(sys.argv[2]), lambda birth: asyncio.run(life(birth)), ready, [], 5.0).run())
except DiagnosticsFound as found:
    sys.stdout.write(f"failed {[str(each) for each in found.diagnostics]}\n")
    sys.exit(1)
