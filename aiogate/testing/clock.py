"""A clock that moves only when a test moves it."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """Stands in for the machine's clocks. `now` is in seconds since the epoch; both clocks move by `advance`."""

    __slots__ = ("_elapsed", "_now")

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._elapsed = 1_000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Raises ValueError for a negative number: use `set` to turn the wall clock back."""
        if seconds < 0:
            raise ValueError("time passes forwards; `set` turns the wall clock back")
        self._now += seconds
        self._elapsed += seconds

    def set(self, now: float) -> None:
        """Set the wall clock as an administrator would; the monotonic clock stays."""
        self._now = now
