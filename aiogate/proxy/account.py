"""The account of a request that has ended: counted always, logged where an access log is kept.

Called once per request, whatever became of it: answered, refused before a chain saw it, or left by its client. It
runs after the last byte was handed over, so that its cost is not in the client's time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiogate.proxy.sweeper import INTERVAL
from aiogate.telemetry.access_log import Line, redacted

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from aiogate.chain.exchange import Exchange
    from aiogate.clock import Clock
    from aiogate.telemetry.access_log import AccessLog
    from aiogate.telemetry.metrics import Counts, Metrics

__all__ = ["Account"]

GONE: Final = 499
"""The status that is logged when the client left before there was one; nginx's."""
OWN: Final = "aiogate.yaml"
"""The file that the gateway's own definitions name."""


class Account:
    """Where the listener reports. One per process."""

    __slots__ = ("_access_log", "_clock", "_metrics", "unrouted")

    def __init__(self, metrics: Metrics, clock: Clock, access_log: AccessLog | None = None) -> None:
        self._access_log = access_log
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
        log = self._access_log
        if log is not None:
            path, query, label, session = "-", "", "", ""
            if exchange is not None:
                assert exchange.api is not None
                # The gateway's own paths, on a shared port, have keys and users in them.
                own = exchange.api.definition is not None and exchange.api.definition.file == OWN
                path = exchange.api.listen_path if own else exchange.path
                if log.query and exchange.query and not own:
                    query = redacted(exchange.query, exchange.api.credential_query)
                if exchange.session is not None:
                    session, label = exchange.session.name_hash, exchange.session.label
                code = code or (exchange.problem.code if exchange.problem is not None else "")
            elif message.path != "/" or message.method != "UNKNOWN":
                path = message.path.partition("?")[0][:2048]
            combined = log.combined
            log.append(
                Line(
                    at=self._clock.now() - seconds,
                    request_id=request_id,
                    client_ip=exchange.client_ip if exchange is not None else peer,
                    method=message.method,
                    path=path,
                    query=query,
                    status=status or GONE,
                    sent=sent,
                    seconds=seconds,
                    upstream=exchange.upstream_seconds if exchange is not None else None,
                    api=exchange.api.id if exchange is not None and exchange.api is not None else "",
                    version=(exchange.version or "") if exchange is not None else "",
                    session=session,
                    label=label,
                    code=code,
                    generation=exchange.generation if exchange is not None else 0,
                    protocol=f"HTTP/{message.version.major}.{message.version.minor}" if combined else "",
                    referer=message.headers.get("Referer", "").partition("?")[0] if combined else "",
                    agent=message.headers.get("User-Agent", "") if combined else "",
                )
            )
