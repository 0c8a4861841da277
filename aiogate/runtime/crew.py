"""A worker's end of its link to the supervisor: what it is told, and what it asks of all workers.

Without a supervisor there is no crew, and the process speaks for itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiogate.runtime.link import Framer, Message, packed

if TYPE_CHECKING:
    from aiogate.errors import Diagnostic
    from aiogate.runtime.child import Birth
    from aiogate.runtime.reload import ReloadVerdict

__all__ = ["Crew", "Reloads", "failed"]

_log = logging.getLogger("aiogate.supervisor")
_READ: Final = 256 * 1024

Answer = Callable[[Any], Any]
"""What a worker answers to a question, from the question's argument; both travel as pickles."""


class Reloads(Protocol):
    """A reload in steps, so that all workers swap or none."""

    async def prepare(self, reason: str) -> Sequence[Diagnostic]:
        """Make the next generation and hold it. What is in its way, if anything is."""
        ...

    async def commit(self, generation: int, *, keep: bool) -> ReloadVerdict:
        """Serve what was prepared, under this number. `keep`: note it as the last that worked."""
        ...

    async def abandon(self, reason: str, diagnostics: Sequence[Diagnostic]) -> ReloadVerdict:
        """Let go of what was prepared, if anything was: the reload is refused for these diagnostics."""
        ...


class Crew:
    """A worker among all. `stopping` is set when it shall drain, `cutting` when it shall not wait any longer.

    A supervisor that is gone stops its workers, too.
    """

    def __init__(self, birth: Birth) -> None:
        self.birth = birth
        self.stopping = asyncio.Event()
        self.cutting = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._doing: set[asyncio.Task[None]] = set()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._alone = False
        self._reloads: Reloads | None = None
        self._answers: Mapping[str, Answer] = {}

    async def join(self, reloads: Reloads, answers: Mapping[str, Answer], told: Any, generation: int) -> None:
        """Say that this worker serves, and listen from now on."""
        self._reloads = reloads
        self._answers = answers
        reader, self._writer = await asyncio.open_connection(sock=self.birth.link)
        self._hearing = asyncio.get_running_loop().create_task(self._hear(reader))
        self.send(("ready", generation, told))

    def ask_to_leave(self) -> None:
        """Ask to be told to stop, which happens when another worker serves. May be called before `join`."""
        if self._writer is None or self._writer.is_closing():
            self.stopping.set()
        else:
            self.send(("leave",))

    async def leave(self) -> None:
        """The worker is at its end."""
        if self._hearing is not None:
            under_way = [self._hearing, *self._doing]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()

    def send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(packed(message))

    async def gather(self, what: str, argument: Any = None) -> Sequence[Any]:
        """What each worker answers to a question, our own answer among them; a worker that is stuck is left out."""
        answers: Sequence[Any] = await self._ask(what, argument)
        return answers

    async def reload(self, reason: str) -> ReloadVerdict:
        """A reload of all workers; its verdict."""
        verdict: ReloadVerdict = await self._ask("reload", reason)
        return verdict

    async def _ask(self, what: str, argument: Any) -> Any:
        if self._alone:
            raise ConnectionError("the supervisor is gone")  # while we drain, nobody would answer
        self._count += 1
        number = self._count
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        self.send(("ask", number, what, argument))
        try:
            return await asked
        finally:
            del self._asked[number]

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        framer = Framer()
        while data := await reader.read(_READ):
            for message in framer.feed(data):
                # In tasks: the verdict of a reload may be awaited by what a message of its own asked for.
                task = asyncio.get_running_loop().create_task(self._obey(message))
                self._doing.add(task)
                task.add_done_callback(self._done)
        _log.error("the supervisor is gone: worker %d stops", self.birth.index)
        self._alone = True
        self.stopping.set()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ConnectionError("the supervisor is gone"))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._doing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a message of the supervisor could not be followed", exc_info=error)

    async def _obey(self, message: Message) -> None:
        reloads = self._reloads
        assert reloads is not None
        kind = message[0]
        if kind == "question":
            _, number, what, argument = message
            answer: Any = self._answers[what](argument)
            if isinstance(answer, Awaitable):
                answer = await answer
            self.send(("answer", number, answer))
        elif kind in ("answers", "verdict"):
            asked = self._asked.get(message[1])
            if asked is not None and not asked.done():
                asked.set_result(message[2])
        elif kind == "prepare":
            self.send(("prepared", message[1], tuple(await reloads.prepare(message[2]))))
        elif kind == "commit":
            self.send(("ended", message[1], await reloads.commit(message[2], keep=message[3])))
        elif kind == "abandon":
            self.send(("ended", message[1], await reloads.abandon(message[2], message[3])))
        elif kind == "stop":
            self.stopping.set()
        elif kind == "cut":
            self.cutting.set()


def failed(birth: Birth, diagnostics: Sequence[Diagnostic]) -> None:
    """Tell the supervisor why this worker does not come to serve."""
    birth.link.setblocking(True)
    birth.link.sendall(packed(("failed", tuple(diagnostics))))
