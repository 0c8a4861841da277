"""What all workers do together: answer a question, and reload in step.

A reload has two steps. One worker prepares the new generation, which is the validation; then all others do. Only when
all have it ready all serve it; if any cannot, nobody does. Whoever asks for a reload while one runs shares the next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiogate.errors import Diagnostic
from aiogate.runtime.notify import notify, notify_reloading

if TYPE_CHECKING:
    from aiogate.runtime.child import Child

__all__ = ["Together"]

_log = logging.getLogger("aiogate.supervisor")

ANSWER_WITHIN: Final = 2.0
"""Seconds that a question to all workers waits for the slowest."""
RELOAD_WITHIN: Final = 120.0
"""Seconds that one step of a reload may take in any worker."""


@dataclass(eq=False, slots=True)
class Question:
    """Something asked of all workers by one of them, under its own `number`."""

    asker: Child
    number: int
    open: set[Child]
    due: float
    answers: list[Any] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Reload:
    """A reload under way. `asked` are those who wait for its verdict, each with its own number for it.

    `step` is `validate` (the leader prepares), `prepare` (all others do) or `end` (all swap, or all forget it); `open`
    are those who have not done it yet.
    """

    number: int
    reason: str
    asked: list[tuple[Child, int]]
    leader: Child
    step: str
    open: set[Child]
    due: float
    prepared: list[Child] = field(default_factory=list)
    diagnostics: tuple[Diagnostic, ...] = ()
    verdict: Any = None


class Crowd(Protocol):
    """The workers there are."""

    def serving(self) -> list[Child]:
        """Those that serve and stay."""
        ...

    def settled(self) -> bool:
        """Whether nobody is being started, and no stop has begun."""
        ...


class Together:
    """The questions and the reload under way. `generation` is the number of what is served, 0 until it is known."""

    def __init__(self, crowd: Crowd) -> None:
        self.generation = 0
        self._crowd = crowd
        self._questions: dict[int, Question] = {}
        self._reload: Reload | None = None
        self._wanted: list[tuple[Child | None, int, str]] = []
        self._count = 0

    @property
    def reloading(self) -> bool:
        return self._reload is not None

    def due(self) -> Iterable[float]:
        """When to call `on_time`, in monotonic seconds."""
        yield from (question.due for question in self._questions.values())
        if self._reload is not None:
            yield self._reload.due

    def on_time(self, now: float) -> None:
        """Wait no longer for those who are late, and begin what could not begin before."""
        for number, question in list(self._questions.items()):
            if question.due <= now:
                self._close(number)
        reload = self._reload
        if reload is not None and reload.due <= now:
            self._give_up(reload)
        self._begin()

    def forget(self, child: Child) -> None:
        """A worker is gone or leaves: nobody waits for it any longer."""
        for number, question in list(self._questions.items()):
            question.open.discard(child)
            if question.asker is child:
                del self._questions[number]
            elif not question.open:
                self._close(number)
        reload = self._reload
        if reload is None:
            return
        if child in reload.prepared:
            reload.prepared.remove(child)
        if child in reload.open:
            reload.open.discard(child)
            if reload.step == "validate":
                self._refuse(reload, "the worker that read the files ended")
            else:
                self._go_on(reload)

    # Questions

    def ask(self, asker: Child, number: int, what: str, argument: Any) -> None:
        """Put a question to all workers, the asker among them."""
        asked = {*self._crowd.serving(), asker}
        self._count += 1
        self._questions[self._count] = Question(asker, number, asked, time.monotonic() + ANSWER_WITHIN)
        for child in tuple(asked):
            child.send("question", self._count, what, argument)

    def answer(self, child: Child, number: int, answer: Any) -> None:
        question = self._questions.get(number)
        if question is None or child not in question.open:
            return
        question.open.discard(child)
        question.answers.append(answer)
        if not question.open:
            self._close(number)

    def _close(self, number: int) -> None:
        question = self._questions.pop(number)
        question.asker.send("answers", question.number, question.answers)

    # Reloads

    def reload(self, asker: Child | None, number: int, reason: str) -> None:
        """Reload, now or when the one that runs has ended."""
        self._wanted.append((asker, number, reason))
        self._begin()

    def _begin(self) -> None:
        if self._reload is not None or not self._wanted or not self._crowd.settled():
            return
        serving = self._crowd.serving()
        if not serving:
            return
        wanted, self._wanted = self._wanted, []
        reason = wanted[0][2]
        asked = [(child, number) for child, number, _ in wanted if child is not None]
        self._count += 1
        leader = serving[0]
        due = time.monotonic() + RELOAD_WITHIN
        self._reload = Reload(self._count, reason, asked, leader, "validate", {leader}, due)
        notify_reloading()
        leader.send("prepare", self._count, reason)

    def prepared(self, child: Child, number: int, diagnostics: Sequence[Diagnostic]) -> None:
        """A worker has prepared the next generation, or has these mistakes in its way."""
        reload = self._reload
        if reload is None or reload.number != number or child not in reload.open:
            child.send("abandon", number, "", ())
            return
        reload.open.discard(child)
        if diagnostics:
            reload.diagnostics = reload.diagnostics or tuple(diagnostics)
        else:
            reload.prepared.append(child)
        self._go_on(reload)

    def ended(self, child: Child, number: int, verdict: Any) -> None:
        """A worker serves the next generation, or has forgotten it."""
        reload = self._reload
        if reload is None or reload.number != number or child not in reload.open:
            return
        reload.open.discard(child)
        if child is reload.leader or reload.verdict is None:
            reload.verdict = verdict
        self._go_on(reload)

    def _go_on(self, reload: Reload) -> None:
        """The next step, once everybody is done with this one."""
        if reload.open:
            return
        if reload.step == "end":
            self._close_reload(reload)
        elif reload.diagnostics or not reload.prepared:
            self._refuse(reload)
        elif reload.step == "validate":
            others = {child for child in self._crowd.serving() if child is not reload.leader}
            self._enter(reload, "prepare", others)
            for child in others:
                child.send("prepare", reload.number, reload.reason)
            self._go_on(reload)
        else:
            self.generation += 1
            self._enter(reload, "end", set(reload.prepared))
            # One of them notes what is served: any that is born later reads it there.
            keeper = reload.prepared[0]
            for child in reload.prepared:
                child.send("commit", reload.number, self.generation, child is keeper)

    def _refuse(self, reload: Reload, why: str = "") -> None:
        """Nobody swaps; those who have prepared forget it, and all remember the verdict."""
        if why:
            reload.diagnostics = (Diagnostic("supervisor", 0, 0, "reload_interrupted", why, "reload again"),)
        self._enter(reload, "end", set(self._crowd.serving()))
        for child in tuple(reload.open):
            child.send("abandon", reload.number, reload.reason, reload.diagnostics)
        self._go_on(reload)

    def _enter(self, reload: Reload, step: str, those: set[Child]) -> None:
        reload.step, reload.open = step, those
        reload.due = time.monotonic() + RELOAD_WITHIN

    def _give_up(self, reload: Reload) -> None:
        late = ", ".join(str(child.index) for child in reload.open)
        _log.error("the reload waits no longer for the workers %s", late)
        if reload.step != "end":
            self._refuse(reload, f"the workers {late} did not answer in time")
            return
        # They have not said that they serve what all others serve: they are replaced.
        for child in reload.open:
            child.kill()
        reload.open.clear()
        self._close_reload(reload)

    def _close_reload(self, reload: Reload) -> None:
        self._reload = None
        notify("READY=1")
        for child, number in reload.asked:
            child.send("verdict", number, reload.verdict)
        self._begin()
