"""The parent of several workers: it holds the sockets, starts and replaces workers, and passes word between them.

The parent serves nothing and runs no event loop; it loads no definition and opens no store. Workers are forked after
everything is imported, so that they share the pages, and inherit the sockets, so that a connection that waits to be
accepted outlives the worker that would have accepted it.

`run` is the life of the parent. A worker that ends is replaced at once; one that ends again and again within seconds is
replaced later each time. A reload is in two steps: one worker prepares the new generation, which is the validation,
then all others do, and only when all have it ready all swap; if any cannot, nobody does.

    worker to parent    ready, failed, prepared, committed, leaving, ask, answer
    parent to worker    prepare, commit, abandon, question, answers, verdict, stop, cut

A worker is told to stop over its link, never by a signal: systemd and a terminal signal every process of a group, and a
worker must not take the second of these for the order to cut what runs.
"""

from __future__ import annotations

import ctypes
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiogate.errors import Diagnostic, DiagnosticsFound
from aiogate.runtime.link import Framer, Message, packed
from aiogate.runtime.notify import notify, notify_reloading

__all__ = ["Birth", "Supervisor"]

_log = logging.getLogger("aiogate.supervisor")

SHORT_LIFE: Final = 10.0
"""A worker that ends within so many seconds counts towards a crash loop."""
LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries to start a worker that keeps ending, at most."""
ANSWER_WITHIN: Final = 2.0
"""Seconds that a question to all workers waits for the slowest."""
RELOAD_WITHIN: Final = 120.0
"""Seconds that one step of a reload may take in any worker."""
CUT_AFTER: Final = 5.0
"""Seconds past the drain limit after which a worker is killed."""
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Birth:
    """What a worker is born with. `first`: it loads the declared files; every later one what is being served.

    `generation` is the number of what is being served, 0 at the start.
    """

    index: int
    link: socket.socket
    first: bool
    generation: int
    workers: int


@dataclass(eq=False, slots=True)
class Worker:
    """A child as the parent knows it."""

    index: int
    pid: int
    link: socket.socket
    born: float
    framer: Framer = field(default_factory=Framer)
    waiting: bytearray = field(default_factory=bytearray)
    ready: bool = False
    leaving: bool = False


@dataclass(eq=False, slots=True)
class Question:
    """Something asked of all workers. `asker` gets the answers."""

    asker: Worker
    number: int
    open: set[Worker]
    due: float
    answers: list[Any] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Reload:
    """A reload under way. `asked` are those who wait for its verdict, with their own number."""

    number: int
    reason: str
    asked: list[tuple[Worker, int]]
    leader: Worker
    step: str
    open: set[Worker]
    due: float
    prepared: list[Worker] = field(default_factory=list)
    diagnostics: tuple[Diagnostic, ...] = ()
    verdict: Any = None


class Supervisor:
    """Keeps `workers` workers alive until a signal ends it.

    `work` is run in each forked child and gives its exit code; it must close nothing that it did not open. `ready` is
    called once, with what the first worker told, when all serve. `drain` is the seconds that a stop may take.
    """

    def __init__(
        self,
        workers: int,
        work: Callable[[Birth], int],
        ready: Callable[[Any], None],
        sockets: Sequence[socket.socket],
        drain: float,
    ) -> None:
        self._wanted = workers
        self._work = work
        self._tell_ready = ready
        self._sockets = sockets
        self._drain = drain
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, Worker] = {}
        self._due: dict[int, float] = {}
        """When the worker of this index is to be started."""
        self._short_lives: dict[int, int] = {}
        self._questions: dict[int, Question] = {}
        self._reload: Reload | None = None
        self._reload_asked: list[tuple[Worker | None, int, str]] = []
        self._counter = 0
        self._generation = 0
        self._told: Any = None
        self._announced = False
        self._stopping = False
        self._signals: list[int] = []
        self._failure: DiagnosticsFound | None = None

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Raises `DiagnosticsFound` when the first worker could not start."""
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        self._wake = wake
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
        before = {number: signal.signal(number, self._note) for number in handled}
        old_wakeup = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(woken, selectors.EVENT_READ, None)
        self._woken = woken
        try:
            self._start(0)
            while self._workers or (self._due and not self._stopping):
                for key, _ in self._selector.select(self._patience()):
                    if key.data is None:
                        self._swallow(woken)
                    else:
                        self._read(key.data)
                self._handle_signals()
                self._on_time()
            if self._failure is not None:
                raise self._failure
            return 0
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            woken.close()
            wake.close()

    # Signals

    def _note(self, number: int, frame: object) -> None:
        self._signals.append(number)

    @staticmethod
    def _swallow(woken: socket.socket) -> None:
        try:
            while woken.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _handle_signals(self) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._ask_reload(None, 0, "SIGHUP")
            elif number == signal.SIGUSR2:
                self._recycle()
        # Whatever woke us: a child that ended while another's end was handled sends no signal of its own.
        self._reap()

    def _stop(self) -> None:
        if self._stopping:
            _log.warning("a second signal: what still runs is cut")
            for worker in self._workers.values():
                self._send(worker, ("cut",))
            return
        notify("STOPPING=1")
        _log.info("stopping %d workers", len(self._workers))
        self._stopping = True
        self._due.clear()
        self._stop_by = time.monotonic() + self._drain + CUT_AFTER
        for opened in self._sockets:
            opened.close()
        for worker in self._workers.values():
            self._send(worker, ("stop",))

    def _recycle(self) -> None:
        """Replace every worker, one by one: the next leaves when the one before it has a ready successor."""
        _log.info("recycling %d workers", len(self._workers))
        self._recycling = [worker for worker in self._workers.values() if not worker.leaving]
        self._recycle_next()

    _recycling: Sequence[Worker] = ()

    def _recycle_next(self) -> None:
        while self._recycling:
            worker, *self._recycling = self._recycling
            if worker.pid in self._workers and not worker.leaving:
                self._send(worker, ("stop",))
                return

    # Children

    def _start(self, index: int) -> None:
        """Fork a worker."""
        self._due.pop(index, None)
        ours, theirs = socket.socketpair()
        first = not self._generation
        birth = Birth(index, theirs, first, self._generation, self._wanted)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(birth, ours, parent)
        theirs.close()
        ours.setblocking(False)
        worker = Worker(index, pid, ours, time.monotonic())
        self._workers[pid] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _be_child(self, birth: Birth, ours: socket.socket, parent: int) -> None:
        """The rest of the child's life. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)  # what a terminal sends to all of us, the parent passes on
            self._selector.close()
            self._woken.close()
            self._wake.close()
            ours.close()
            for worker in self._workers.values():
                worker.link.close()
            _end_with(parent)
            code = self._work(birth)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            _log.exception("worker %d ended by a bug", birth.index)
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> None:
        for pid in list(self._workers):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended, status = pid, 0
            if ended:
                self._bury(self._workers.pop(pid), os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, code: int) -> None:
        """A worker has ended."""
        self._read(worker)  # what it said at last
        if worker.link.fileno() >= 0:
            self._selector.unregister(worker.link)
            worker.link.close()
        self._forget(worker)
        lived = time.monotonic() - worker.born
        if self._stopping:
            return
        if not self._announced and not worker.ready:
            # The start itself failed: there is nothing to keep alive.
            if self._failure is None:
                self._failure = DiagnosticsFound([_died(code)])
            self._stop()
            return
        if worker.leaving or self._has(worker.index):
            return
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        _log.error("worker %d (process %d) ended with %s after %.1f s", worker.index, worker.pid, how, lived)
        short = self._short_lives.get(worker.index, 0) + 1 if lived < SHORT_LIFE else 0
        self._short_lives[worker.index] = short
        pause = 0.0 if short < 3 else min(0.5 * 2 ** (short - 3), LONGEST_PAUSE)
        if pause:
            _log.error("worker %d ended %d times within seconds: the next try is in %.1f s", worker.index, short, pause)
        self._due[worker.index] = time.monotonic() + pause

    def _has(self, index: int) -> bool:
        """Whether a worker of this index serves, or will."""
        return index in self._due or any(other.index == index and not other.leaving for other in self._workers.values())

    # Messages

    def _send(self, worker: Worker, message: Message) -> None:
        worker.waiting += packed(message)
        self._flush(worker)

    def _flush(self, worker: Worker) -> None:
        if worker.link.fileno() < 0:
            return
        try:
            while worker.waiting:
                sent = worker.link.send(worker.waiting)
                del worker.waiting[:sent]
        except BlockingIOError:
            pass  # the rest goes with the next turn
        except OSError:
            worker.waiting.clear()  # it is gone; its end is on the way

    def _read(self, worker: Worker) -> None:
        while worker.link.fileno() >= 0:
            try:
                data = worker.link.recv(256 * 1024)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._selector.unregister(worker.link)
                worker.link.close()
                return
            for message in worker.framer.feed(data):
                self._hear(worker, message)

    def _hear(self, worker: Worker, message: Message) -> None:
        kind = message[0]
        if kind == "ready":
            self._is_ready(worker, message[1], message[2])
        elif kind == "failed":
            self._has_failed(worker, message[1])
        elif kind == "leaving":
            self._leaves(worker)
        elif kind == "ask":
            _, number, what, argument = message
            if what == "reload":
                self._ask_reload(worker, number, argument)
            else:
                self._ask_all(worker, number, what, argument)
        elif kind == "answer":
            self._answer(worker, message[1], message[2])
        elif kind == "prepared":
            self._is_prepared(worker, message[1], message[2])
        elif kind == "committed":
            self._has_committed(worker, message[1], message[2])

    def _is_ready(self, worker: Worker, generation: int, told: Any) -> None:
        worker.ready = True
        if not self._generation:
            self._generation, self._told = generation, told
            for index in range(1, self._wanted):
                self._start(index)
        elif not self._announced:
            pass
        else:
            _log.info("worker %d (process %d) serves", worker.index, worker.pid)
        if not self._announced and len(self._workers) == self._wanted and self._all_ready():
            self._announced = True
            self._tell_ready(self._told)
            notify("READY=1", f"STATUS={self._wanted} workers")
        self._recycle_next()

    def _all_ready(self) -> bool:
        return all(worker.ready for worker in self._workers.values())

    def _has_failed(self, worker: Worker, diagnostics: Sequence[Diagnostic]) -> None:
        if not self._announced:
            self._failure = DiagnosticsFound(list(diagnostics))
        else:
            _log.error("worker %d could not start:\n%s", worker.index, "\n".join(map(str, diagnostics)))

    def _leaves(self, worker: Worker) -> None:
        """A worker drains, asked by a signal of its own: its successor starts while it does."""
        worker.leaving = True
        self._forget(worker)
        if not self._stopping and not self._has(worker.index):
            self._due[worker.index] = time.monotonic()

    def _forget(self, worker: Worker) -> None:
        """Nobody waits for it any longer."""
        for number, question in list(self._questions.items()):
            question.open.discard(worker)
            if question.asker is worker:
                del self._questions[number]
            elif not question.open:
                self._close(number)
        reload = self._reload
        if reload is not None and worker in reload.open:
            reload.open.discard(worker)
            if worker is reload.leader and reload.step == "validate":
                self._refuse("the worker that read the files ended")
            else:
                self._go_on(reload)

    # Questions to all

    def _ask_all(self, asker: Worker, asked: int, what: str, argument: Any) -> None:
        asked_of = {worker for worker in self._workers.values() if worker.ready and not worker.leaving}
        asked_of.add(asker)
        self._counter += 1
        question = Question(asker, asked, asked_of, time.monotonic() + ANSWER_WITHIN)
        self._questions[self._counter] = question
        for worker in tuple(asked_of):
            self._send(worker, ("question", self._counter, what, argument))

    def _answer(self, worker: Worker, number: int, answer: Any) -> None:
        question = self._questions.get(number)
        if question is None or worker not in question.open:
            return
        question.open.discard(worker)
        question.answers.append(answer)
        if not question.open:
            self._close(number)

    def _close(self, number: int) -> None:
        question = self._questions.pop(number)
        self._send(question.asker, ("answers", question.number, question.answers))

    # Reloads

    def _ask_reload(self, asker: Worker | None, number: int, reason: str) -> None:
        self._reload_asked.append((asker, number, reason))
        self._begin_reload()

    def _begin_reload(self) -> None:
        """The next reload, for everybody who asked until now; unless one runs, or a worker is not there yet."""
        if self._reload is not None or not self._reload_asked or self._stopping or not self._announced:
            return
        serving = [worker for worker in self._workers.values() if worker.ready and not worker.leaving]
        if not serving or not self._all_ready() or self._due:
            return
        asked, self._reload_asked = self._reload_asked, []
        notify_reloading()
        self._counter += 1
        leader = serving[0]
        waiting = [(worker, number) for worker, number, _ in asked if worker is not None]
        self._reload = Reload(
            self._counter, asked[0][2], waiting, leader, "validate", {leader}, time.monotonic() + RELOAD_WITHIN
        )
        self._send(leader, ("prepare", self._counter, asked[0][2]))

    def _is_prepared(self, worker: Worker, number: int, diagnostics: Sequence[Diagnostic]) -> None:
        reload = self._reload
        if reload is None or reload.number != number or worker not in reload.open:
            self._send(worker, ("abandon", number, "", ()))
            return
        reload.open.discard(worker)
        if diagnostics:
            reload.diagnostics = reload.diagnostics or tuple(diagnostics)
        else:
            reload.prepared.append(worker)
        self._go_on(reload)

    def _has_committed(self, worker: Worker, number: int, verdict: Any) -> None:
        reload = self._reload
        if reload is None or reload.number != number or worker not in reload.open:
            return
        reload.open.discard(worker)
        if worker is reload.leader or reload.verdict is None:
            reload.verdict = verdict
        self._go_on(reload)

    def _go_on(self, reload: Reload) -> None:
        """The next step, once everybody is done with this one."""
        if reload.open:
            return
        if reload.step == "end":
            self._end_reload(reload)
            return
        if reload.diagnostics or not reload.prepared:
            self._refuse("")
            return
        reload.due = time.monotonic() + RELOAD_WITHIN
        if reload.step == "validate":
            reload.step = "prepare"
            reload.open = {
                worker for worker in self._workers.values()
                if worker.ready and not worker.leaving and worker is not reload.leader
            }  # fmt: skip
            if reload.open:
                for worker in tuple(reload.open):
                    self._send(worker, ("prepare", reload.number, reload.reason))
                return
        reload.step = "end"
        self._generation += 1
        reload.open = {worker for worker in reload.prepared if worker.pid in self._workers}
        for worker in tuple(reload.open):
            self._send(worker, ("commit", reload.number, self._generation, worker is reload.leader))
        if not reload.open:
            self._end_reload(reload)

    def _refuse(self, why: str) -> None:
        """Nobody swaps; those who have prepared forget it, and all remember the verdict."""
        reload = self._reload
        assert reload is not None
        if why:
            reload.diagnostics = (Diagnostic("supervisor", 0, 0, "reload_interrupted", why, "reload again"),)
        reload.step = "end"
        reload.prepared = []
        reload.open = {worker for worker in self._workers.values() if worker.ready and not worker.leaving}
        reload.due = time.monotonic() + RELOAD_WITHIN
        for worker in tuple(reload.open):
            self._send(worker, ("abandon", reload.number, reload.reason, reload.diagnostics))
        if not reload.open:
            self._end_reload(reload)

    def _end_reload(self, reload: Reload) -> None:
        self._reload = None
        notify("READY=1")
        for worker, number in reload.asked:
            if worker.pid in self._workers:
                self._send(worker, ("verdict", number, reload.verdict))
        self._begin_reload()

    # Time

    def _patience(self) -> float:
        """Seconds until something is due."""
        now = time.monotonic()
        due = [*self._due.values(), *(question.due for question in self._questions.values())]
        if self._reload is not None:
            due.append(self._reload.due)
        if self._stopping:
            due.append(self._stop_by)
        if any(worker.waiting for worker in self._workers.values()):
            due.append(now + 0.01)
        return min([1.0, *(max(0.0, each - now) for each in due)])

    _stop_by = 0.0

    def _on_time(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.waiting:
                self._flush(worker)
        for number, question in list(self._questions.items()):
            if question.due <= now:
                self._close(number)
        reload = self._reload
        if reload is not None and reload.due <= now:
            late = ", ".join(str(worker.index) for worker in reload.open)
            _log.error("the reload waits no longer for the workers %s", late)
            if reload.step == "end":
                # They have not said that they serve what all others serve: they are replaced.
                for worker in reload.open:
                    _kill(worker.pid, signal.SIGKILL)
                reload.open.clear()
                self._end_reload(reload)
            else:
                self._refuse(f"the workers {late} did not answer in time")
        # What is being served is not settled while a reload runs: a worker that is born then might miss the swap.
        if self._reload is None:
            for index in [index for index, due in self._due.items() if due <= now]:
                self._start(index)
        self._begin_reload()
        if self._stopping and now >= self._stop_by:
            for worker in self._workers.values():
                _log.error("worker %d did not end in time and is killed", worker.index)
                _kill(worker.pid, signal.SIGKILL)
            self._stop_by = now + 1


def _died(code: int) -> Diagnostic:
    how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    return Diagnostic("aiogate", 0, 0, "worker_failed", f"a worker ended with {how} before it served")


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, number)


def _end_with(parent: int) -> None:
    """Have the kernel send us SIGTERM when the parent is gone, however it went; elsewhere the link's end tells us."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (AttributeError, OSError):
        return
    if os.getppid() != parent:
        raise SystemExit(1)
