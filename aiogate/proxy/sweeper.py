"""Deadlines without timers.

A timer per request costs more than parsing the request. So whoever has a deadline stores it, and one timer looks at all
of them four times a second. Deadlines are therefore up to a quarter of a second late, never early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["INTERVAL", "Sweeper"]

INTERVAL: Final = 0.25
"""Seconds between two sweeps."""


class Sweeper:
    """Calls each of `sweeps` with the loop's time, every `INTERVAL` seconds, from `start` to `stop`."""

    __slots__ = ("_handle", "_sweeps")

    def __init__(self, *sweeps: Callable[[float], None]) -> None:
        self._sweeps = sweeps
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sweep at once, then on and on."""
        self._sweep(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = loop.call_later(INTERVAL, self._sweep, loop)
        now = loop.time()
        for sweep in self._sweeps:
            sweep(now)
