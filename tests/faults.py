"""A TCP proxy that does to a connection what a bad network or a bad server does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class FaultProxy:
    """Passes bytes on to `port` on loopback, with a fault if one is set.

    `delay`: seconds that each piece of a reply is held back. `blackhole`: nothing passes, nothing closes. `garbage`:
    these bytes instead of each reply. `refuse`: connections are closed at once.
    """

    target: int
    port: int = 0
    delay: float = 0.0
    blackhole: bool = False
    garbage: bytes = b""
    refuse: bool = False
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def heal(self) -> None:
        self.delay, self.blackhole, self.garbage, self.refuse = 0.0, False, b"", False

    def reset(self) -> None:
        """Cut every connection as a crash does."""
        for writer in list(self._writers):
            writer.transport.abort()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            done = {
                asyncio.ensure_future(self._pass(reader, back, reply=False)),
                asyncio.ensure_future(self._pass(there, writer, reply=True)),
            }
            await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.cancel()
            await asyncio.gather(*done, return_exceptions=True)
        finally:
            self._writers -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reply: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                while self.blackhole:
                    await asyncio.sleep(0.01)
                if not reply:
                    self.requests.append(data)
                else:
                    if self.delay:
                        await asyncio.sleep(self.delay)
                    data = self.garbage or data
                writer.write(data)
                await writer.drain()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def fault_proxy(target: int) -> AsyncIterator[FaultProxy]:
    """A proxy on a free port in front of `target`."""
    proxy = FaultProxy(target)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
