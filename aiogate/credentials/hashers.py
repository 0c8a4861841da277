"""Child processes that hash passwords, so that it costs the requests beside it nothing.

Threads of low priority do not do: each needs the interpreter's lock to hand in its result, and on a busy machine the
system lets it wait for a turn while it holds the lock and the whole process waits for it, for 60 to 130 ms.

A child is started when it is needed, asked over a socket of its own, and kept. It inherits no other descriptor, and
ends with the gateway, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from typing import Final

from aiogate.credentials.hashes import Algorithm

__all__ = ["HasherLost", "Hashers"]

_log = logging.getLogger("aiogate.passwords")

_COMMAND: Final = (sys.executable, "-P", "-m", "aiogate.credentials.hasher")


class HasherLost(Exception):
    """No process could hash; the text says why. Whoever asked may try again."""


class Hashers:
    """At most `most` children. Further work waits for one of them."""

    def __init__(self, most: int) -> None:
        self._turns = asyncio.Semaphore(most)
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._closing = asyncio.Event()

    async def hashed(self, password: bytes, algorithm: Algorithm, cost: int) -> str:
        """See `hashes.hashed`. Raises `HasherLost`."""
        return await self._ask("hashed", algorithm, password.hex(), str(cost))

    async def matches(self, password: bytes, stored: str, algorithm: Algorithm) -> bool:
        """See `hashes.matches`. Raises `HasherLost`."""
        return await self._ask("matches", algorithm, password.hex(), stored) == "yes"

    async def close(self) -> None:
        """End the children at once. What they were asked, and what still waits, is lost."""
        self._closing.set()
        for child in self._children:
            child.kill()
        await asyncio.gather(*(child.end() for child in self._children))
        self._children.clear()

    async def _ask(self, *words: str) -> str:
        request = " ".join(words).encode("ascii") + b"\n"
        async with self._turns:
            while True:
                # One that waited may have been killed meanwhile; one that is new has no excuse.
                new = not self._idle
                child = await self._started() if new else self._idle.pop()
                try:
                    answer = await child.ask(request)
                except BaseException:
                    child.kill()  # what it still has to say is not for the next who asks
                    raise
                if answer is not None:
                    self._idle.append(child)
                    return answer
                how = await child.end()
                self._children.discard(child)
                if self._closing.is_set():
                    raise HasherLost("the gateway stops")
                _log.warning("a process that hashes passwords ended with %d", how)
                if new:
                    raise HasherLost(f"the process that was to hash the password ended with {how}")

    async def _started(self) -> _Child:
        if self._closing.is_set():
            raise HasherLost("the gateway stops")
        try:
            process, ours = await asyncio.to_thread(_start)
        except OSError as trouble:
            _log.error("no process could be started to hash passwords: %s", trouble)
            raise HasherLost(f"no process could be started to hash the password: {trouble}") from None
        child = _Child(process, *await asyncio.open_unix_connection(sock=ours))
        self._children.add(child)
        if self._closing.is_set():
            child.kill()
        return child


class _Child:
    """One child, asked one thing at a time."""

    def __init__(self, process: subprocess.Popen[bytes], reader: StreamReader, writer: StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> str | None:
        """The answer; None: the child has ended."""
        try:
            self._writer.write(request)
            line = await self._reader.readline()
        except OSError:
            return None
        return line[:-1].decode("ascii") if line.endswith(b"\n") else None

    def kill(self) -> None:
        """End it, without waiting for that."""
        self._process.kill()

    async def end(self) -> int:
        """Kill it where that was not done yet; its exit code, when it has gone."""
        self._process.kill()
        self._writer.transport.abort()
        return await asyncio.to_thread(self._process.wait)


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A new child and our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            # Modules are found where this process found its own, and not in the folder that it happens to be in.
            places = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            end = theirs.fileno()
            return subprocess.Popen(_COMMAND, stdin=end, stdout=end, env=places), ours  # noqa: S603  # our own
        except BaseException:
            ours.close()
            raise
