"""The account of a request that has ended: counted always, logged where an access log is kept.

Called once per request, whatever became of it: answered, refused before a chain saw it, or left by its client. It
runs after the last byte was handed over, so that its cost is not in the client's time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiogate.proxy.sweeper import INTERVAL

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from aiogate.chain.exchange import Exchange
    from aiogate.clock import Clock
    from aiogate.telemetry.metrics import Counts, Metrics

__all__ = ["Account"]


class Account:
    """Where the listener reports. One per process."""

    __slots__ = ("_clock", "_metrics", "unrouted")

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self.unrouted: Counts = metrics.unrouted

    def sweep(self, now: float) -> None:
        """To be called with the event loop's time, every time the deadlines are looked at."""
        self._metrics.tick(now, INTERVAL)

    def ended(
        self,
        message: RawRequestMessage,
        exchange: Exchange | None,
        request_id: str,
        began: float,
        status: int,
        received: int,
        sent: int,
        code: str,
        peer: str,
    ) -> None:
        """A request has ended.

        `exchange` is None where no API took it, `status` 0 where there was no response. `began` is monotonic seconds,
        `received` and `sent` bytes of bodies. `code` is the listener's own refusal, and empty for those of a chain.
        """
        seconds = self._clock.monotonic() - began
        if exchange is None:
            counts = self.unrouted
        else:
            assert exchange.api is not None
            counts = exchange.api.counts
        counts.ended(status, seconds, received, sent)
        if code:
            if code == "truncated":
                counts.upstream_failed(code)
            else:
                counts.refused(code)
