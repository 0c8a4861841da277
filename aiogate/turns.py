"""How the threads of a reload and the event loop take turns, so that no request waits for a reload.

One interpreter runs one thread at a time, and a thread that wants its turn waits for two others: for Python, which asks
the one that runs to stop every so often, and on a busy core for the kernel, which may let it run on for milliseconds.
So while a reload works, Python asks more often, and the work itself stops now and then of its own accord: `rest` is
called in every loop over all files or all APIs.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["in_small_turns", "rest"]

TURN: Final = 0.0001
"""Seconds that a thread runs before another may: Python's own 5 ms, at every turn, would be felt."""
WORK: Final = 0.0002
"""Seconds of work after which a thread rests."""
REST: Final = 0.00002
"""Seconds of a rest. The kernel makes more of it; what counts is that the core is free."""


class _Turns:
    """How threads and the collector take turns, changed for as long as anybody asks for it."""

    __slots__ = ("_asking", "_collecting", "_interval", "loop", "rested", "resting")

    def __init__(self) -> None:
        self._asking = 0
        self._interval = 0.0
        self._collecting = False
        self.resting = 0
        self.rested = 0.0
        self.loop = 0
        """The thread that asked, which is the event loop's and never rests."""

    def begin(self, serving: bool) -> None:
        if not self._asking:
            self._interval, self._collecting = sys.getswitchinterval(), gc.isenabled()
            sys.setswitchinterval(TURN)
            gc.disable()
        self._asking += 1
        self.resting += serving
        self.loop = threading.get_ident()

    def end(self, serving: bool) -> None:
        self.resting -= serving
        self._asking -= 1
        if not self._asking:
            sys.setswitchinterval(self._interval)
            if self._collecting:
                gc.enable()


_turns = _Turns()


@contextmanager
def in_small_turns(*, serving: bool = True) -> Iterator[None]:
    """While a reload works in threads: requests get their turn soon, and the collector stays out of it.

    What a load makes lives on, and the collector, which holds up everything, would walk it again and again. To be used
    in the event loop's thread. Without requests to be served, at a start, nothing rests.
    """
    _turns.begin(serving)
    try:
        yield
    finally:
        _turns.end(serving)


def rest() -> None:
    """Leave the core to others for a moment, if this thread works beside requests and has worked for a while.

    To be called where a piece of work of some microseconds is done and the next begins.
    """
    if _turns.resting:
        now = time.perf_counter()
        if now - _turns.rested > WORK and threading.get_ident() != _turns.loop:
            time.sleep(REST)
            _turns.rested = time.perf_counter()
