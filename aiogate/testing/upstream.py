"""An upstream that answers everything and remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from multidict import CIMultiDictProxy

__all__ = ["Received", "RecordingUpstream", "recording_upstream"]


@dataclass(frozen=True, slots=True)
class Received:
    """A request as the upstream got it. `target` is the path and query as they came."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes


Answer = Callable[[Received], Awaitable[web.StreamResponse] | web.StreamResponse]
Asked = web.BaseRequest


@dataclass
class RecordingUpstream:
    """`url` ends in a slash. `answer` may be replaced; by default it is 200 with `{"method", "target"}`."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    """Accepted so far."""
    answer: Answer | None = None

    @property
    def last(self) -> Received:
        return self.received[-1]


class _Counting(web.Server):
    def __init__(self, upstream: RecordingUpstream, handler: Callable[[Asked], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler, access_log=None)
        self._upstream: Final = upstream

    def __call__(self) -> web.RequestHandler:
        self._upstream.connections += 1
        return super().__call__()


@asynccontextmanager
async def recording_upstream(answer: Answer | None = None) -> AsyncIterator[RecordingUpstream]:
    """An HTTP server on a free port of the loopback interface, until the block ends."""
    upstream = RecordingUpstream(answer=answer)

    async def handle(request: Asked) -> web.StreamResponse:
        received = Received(request.method, request.raw_path, request.headers, await request.read())
        upstream.received.append(received)
        if upstream.answer is None:
            return web.json_response({"method": received.method, "target": received.target})
        response = upstream.answer(received)
        return response if isinstance(response, web.StreamResponse) else await response

    # Whoever still waits for an answer when the test is over has waited long enough.
    runner = web.ServerRunner(_Counting(upstream, handle), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        upstream.url = f"http://{host}:{port}/"
        yield upstream
    finally:
        await runner.cleanup()
