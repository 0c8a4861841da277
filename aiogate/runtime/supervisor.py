"""The parent of several workers: it holds the sockets, starts and replaces workers, and passes word between them.

The parent serves nothing and runs no event loop; it loads no definition and opens no store. Workers are forked after
everything is imported, so that they share the pages, and inherit the sockets, so that a connection that waits to be
accepted outlives the worker that would have accepted it.

`run` is the life of the parent. A worker that ends is replaced at once; one that ends again and again within seconds is
replaced later each time. What workers do together (reloads, questions to all) is in `together`.

    worker to parent    ready, failed, leave, ask, answer, prepared, ended
    parent to worker    stop, cut, question, answers, prepare, commit, abandon, verdict

A worker is told to stop over its link: systemd and a terminal signal every process of a group, and one that stopped by
itself would leave connections to a socket that nobody accepts from. A worker that gets a signal of its own asks whether
it may leave, and may when another serves.
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
from typing import Any, Final

from aiogate.errors import Diagnostic, DiagnosticsFound
from aiogate.runtime.child import Birth, Child
from aiogate.runtime.link import Message
from aiogate.runtime.notify import notify
from aiogate.runtime.together import Together

__all__ = ["Supervisor"]

_log = logging.getLogger("aiogate.supervisor")

SHORT_LIFE: Final = 10.0
"""A worker that ends within so many seconds counts towards a crash loop."""
LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries to start a worker that keeps ending, at most."""
CUT_AFTER: Final = 5.0
"""Seconds past the drain limit after which a worker is killed."""
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
_PR_SET_PDEATHSIG: Final = 1


class Supervisor:
    """Keeps `workers` workers alive until a signal ends it.

    `work` is run in each forked child and gives its exit code. `ready` is called once, with what the first worker told,
    when all serve. `sockets` are closed when a stop begins. `drain` is the seconds that a stop may take.
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
        self._ready = ready
        self._sockets = sockets
        self._drain = drain
        self._children: dict[int, Child] = {}
        self._due: dict[int, float] = {}
        """When the worker of this index is to be started."""
        self._short_lives: dict[int, int] = {}
        self._together = Together(self)
        self._recycling: list[Child] = []
        self._told: Any = None
        self._announced = False
        self._stop_by: float | None = None
        self._signals: list[int] = []
        self._failure: DiagnosticsFound | None = None
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Raises `DiagnosticsFound` when the first worker could not start."""
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        before = {number: signal.signal(number, self._note) for number in _HANDLED}
        wakeup = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        try:
            self._start(0)
            while self._children or (self._due and self._stop_by is None):
                self._await_room()
                for key, events in self._selector.select(self._patience()):
                    if key.data is not None and events & selectors.EVENT_READ:
                        self._read(key.data)
                self._handle_signals()
                self._on_time()
            if self._failure is not None:
                raise self._failure
            return 0
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            self._woken.close()
            self._wake.close()

    # Who there is

    def serving(self) -> list[Child]:
        """Those that serve and stay."""
        return [child for child in self._children.values() if child.ready and not child.leaving]

    def settled(self) -> bool:
        """Whether nobody is being started, and no stop has begun."""
        starting = self._due or not all(child.ready for child in self._children.values())
        return self._announced and self._stop_by is None and not starting

    def _has(self, index: int) -> bool:
        """Whether a worker of this index serves, or will."""
        return index in self._due or any(
            child.index == index and not child.leaving for child in self._children.values()
        )

    # Signals

    def _note(self, number: int, frame: object) -> None:
        self._signals.append(number)

    def _handle_signals(self) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        signals, self._signals = self._signals, []
        for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._together.reload(None, 0, "SIGHUP")
            elif number == signal.SIGUSR2:
                self._recycle()
        # Whatever woke us: a child that ended while another's end was handled sends no signal of its own.
        self._reap()

    def _stop(self) -> None:
        if self._stop_by is not None:
            _log.warning("a second signal: what still runs is cut")
            for child in self._children.values():
                child.send("cut")
            return
        notify("STOPPING=1")
        _log.info("stopping %d workers", len(self._children))
        self._due.clear()
        self._stop_by = time.monotonic() + self._drain + CUT_AFTER
        for opened in self._sockets:
            opened.close()
        for child in self._children.values():
            child.send("stop")

    def _recycle(self) -> None:
        """Replace every worker, one by one: the next leaves when the one before it has a ready successor."""
        self._recycling += self.serving()
        _log.info("recycling %d workers", len(self._recycling))
        self._recycle_next()

    def _recycle_next(self) -> None:
        """Let the next one go that shall leave, unless nobody else would be left to serve."""
        while self._recycling and self._stop_by is None:
            child = self._recycling[0]
            if child.pid in self._children and not child.leaving:
                if len(self.serving()) < min(2, self._wanted):
                    return
                self._let_go(child)
            self._recycling.pop(0)

    def _let_go(self, child: Child) -> None:
        """Tell a worker to drain; its successor starts while it does."""
        child.leaving = True
        self._together.forget(child)
        if not self._has(child.index):
            self._due[child.index] = time.monotonic()
        child.send("stop")

    # Births and deaths

    def _start(self, index: int) -> None:
        """Fork a worker."""
        self._due.pop(index, None)
        ours, theirs = socket.socketpair()
        generation = self._together.generation
        birth = Birth(index, theirs, not generation, generation, self._wanted)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._live(birth, ours, parent)
        theirs.close()
        ours.setblocking(False)
        child = self._children[pid] = Child(index, pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _live(self, birth: Birth, ours: socket.socket, parent: int) -> None:
        """The rest of a child's life. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)  # what a terminal sends to all of us, the parent passes on
            self._selector.close()
            for opened in (self._woken, self._wake, ours, *(child.link for child in self._children.values())):
                opened.close()
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
        for pid in list(self._children):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended, status = pid, 0
            if ended:
                child = self._children.pop(pid)
                self._read(child)  # what it said at last
                self._hang_up(child)
                self._together.forget(child)
                self._bury(child, _how(os.waitstatus_to_exitcode(status)))
                self._recycle_next()

    def _bury(self, child: Child, how: str) -> None:
        """A worker has ended: see that another takes its place."""
        if self._stop_by is not None:
            return
        if not self._announced and not child.ready:
            # The start itself failed: there is nothing to keep alive.
            message = f"a worker ended with {how} before it served"
            self._failure = self._failure or DiagnosticsFound([Diagnostic("aiogate", 0, 0, "worker_failed", message)])
            self._stop()
            return
        if child.leaving or self._has(child.index):
            return
        lived = time.monotonic() - child.born
        _log.error("worker %d (process %d) ended with %s after %.1f s", child.index, child.pid, how, lived)
        short = self._short_lives.get(child.index, 0) + 1 if lived < SHORT_LIFE else 0
        self._short_lives[child.index] = short
        pause = 0.0 if short < 3 else min(0.5 * 2 ** (short - 3), LONGEST_PAUSE)
        if pause:
            _log.error("worker %d ended %d times within seconds: the next try is in %.1f s", child.index, short, pause)
        self._due[child.index] = time.monotonic() + pause

    # Messages

    def _read(self, child: Child) -> None:
        try:
            for message in child.messages():
                self._hear(child, message)
        except EOFError:
            self._hang_up(child)

    def _hang_up(self, child: Child) -> None:
        if child.link.fileno() >= 0:
            self._selector.unregister(child.link)
            child.link.close()

    def _hear(self, child: Child, message: Message) -> None:
        kind, *said = message
        if kind == "ready":
            self._is_ready(child, *said)
        elif kind == "failed":
            self._has_failed(child, *said)
        elif kind == "leave":
            self._recycling.append(child)
            self._recycle_next()
        elif kind == "ask":
            number, what, argument = said
            if what == "reload":
                self._together.reload(child, number, argument)
            else:
                self._together.ask(child, number, what, argument)
        elif kind == "answer":
            self._together.answer(child, *said)
        elif kind == "prepared":
            self._together.prepared(child, *said)
        elif kind == "ended":
            self._together.ended(child, *said)

    def _is_ready(self, child: Child, generation: int, told: Any) -> None:
        child.ready = True
        if not self._together.generation:
            self._together.generation, self._told = generation, told
            for index in range(1, self._wanted):
                self._start(index)
        if self._announced:
            _log.info("worker %d (process %d) serves", child.index, child.pid)
        elif len(self.serving()) == self._wanted:
            self._announced = True
            self._ready(self._told)
            notify("READY=1", f"STATUS={self._wanted} workers")
        self._recycle_next()

    def _has_failed(self, child: Child, diagnostics: Sequence[Diagnostic]) -> None:
        if not self._announced:
            self._failure = DiagnosticsFound(list(diagnostics))
        else:
            _log.error("worker %d could not start:\n%s", child.index, "\n".join(map(str, diagnostics)))

    def _await_room(self) -> None:
        """Be woken when a link takes more of what it had no room for."""
        for child in self._children.values():
            if child.link.fileno() >= 0:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.unsent else 0)
                if self._selector.get_key(child.link).events != events:
                    self._selector.modify(child.link, events, child)

    # Time

    def _patience(self) -> float:
        """Seconds until something is due."""
        now = time.monotonic()
        due = [now + 1.0, *self._due.values(), *self._together.due()]
        if self._stop_by is not None:
            due.append(self._stop_by)
        return max(0.0, min(due) - now)

    def _on_time(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            child.flush()
        self._together.on_time(now)
        # What is served is not settled while a reload runs: a worker that is born then might miss the swap.
        if not self._together.reloading:
            for index in [index for index, due in self._due.items() if due <= now]:
                self._start(index)
        if self._stop_by is not None and now >= self._stop_by:
            for child in self._children.values():
                _log.error("worker %d did not end in time and is killed", child.index)
                child.kill()
            self._stop_by = now + 1


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def _end_with(parent: int) -> None:
    """Have the kernel send us SIGTERM when the parent is gone, however it went; elsewhere the link's end tells us."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (AttributeError, OSError):
        return
    if os.getppid() != parent:
        raise SystemExit(1)
