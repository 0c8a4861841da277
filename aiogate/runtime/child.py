"""A worker as its parent knows it: a process and the link to it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from aiogate.runtime.link import Framer, Message, packed

__all__ = ["Birth", "Child"]

_READ = 256 * 1024


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
class Child:
    """`ready`: it serves. `leaving`: it takes no new connection, and its place may be taken."""

    index: int
    pid: int
    link: socket.socket
    born: float
    ready: bool = False
    leaving: bool = False
    framer: Framer = field(default_factory=Framer)
    unsent: bytearray = field(default_factory=bytearray)

    def send(self, *message: object) -> None:
        """Send a message, now or with the next `flush`. To one that is gone it is not sent."""
        self.unsent += packed(message)
        self.flush()

    def flush(self) -> None:
        if self.link.fileno() < 0:
            return
        try:
            while self.unsent:
                sent = self.link.send(self.unsent)
                del self.unsent[:sent]
        except BlockingIOError:
            pass  # the rest goes with the next turn
        except OSError:
            self.unsent.clear()  # it is gone; its end is on the way

    def messages(self) -> Iterator[Message]:
        """What has come. Raises EOFError at the link's end."""
        while self.link.fileno() >= 0:
            try:
                data = self.link.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                raise EOFError
            yield from self.framer.feed(data)

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.pid, signal.SIGKILL)
