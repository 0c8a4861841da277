"""Passwords: bcrypt away from the event loop, and a memory of what was verified a moment ago.

bcrypt at cost 10 takes 54 ms of a core, so it runs in few threads of low priority with a short queue; what does not fit
is refused as overload instead of piling up. A verified credential is remembered for a minute under a digest keyed with
a random key of this process: the memory holds neither the password nor anything that another process could use. A wrong
password is never remembered, so each guess costs its bcrypt.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Final, TypeVar

import bcrypt

from aiogate.clock import Clock

__all__ = ["Passwords", "PasswordsBusyError"]

_LONGEST: Final = 72
_HASH: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_COSTS: Final = range(4, 18)
_CAPACITY: Final = 100_000
_NICE: Final = 19

_T = TypeVar("_T")


class PasswordsBusyError(Exception):
    """More passwords are waiting to be hashed than the queue holds; the caller answers 503."""


class Passwords:
    """Hashes and verifies passwords.

    `cost` is bcrypt's, for new hashes. A verified credential is remembered for `cache_seconds`; 0: never. At most
    `threads` run at once (default: the cores of this machine) and at most `queue` wait.
    """

    def __init__(
        self, clock: Clock, *, cost: int = 10, cache_seconds: float = 60.0, threads: int | None = None, queue: int = 32
    ) -> None:
        if cost not in _COSTS:
            raise ValueError(f"the cost of bcrypt is {_COSTS.start} to {_COSTS.stop - 1}, not {cost}")
        self._clock = clock
        self._cost = cost
        self._cache_seconds = cache_seconds
        threads = threads or os.cpu_count() or 1
        self._room = threads + queue
        self._pending = 0
        self._pool = ThreadPoolExecutor(threads, "passwords", initializer=_be_nice)
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._flights: dict[bytes, asyncio.Future[bool]] = {}
        # Any well-formed hash costs the same to compare with; nothing known hashes to this one.
        self._nothing = f"$2b${cost:02d}$" + "." * 22 + "/" * 31

    async def hash(self, password: str) -> str:
        """The bcrypt hash of a new password.

        Raises ValueError, with a text for the caller, for a password that bcrypt cannot take: empty, over 72 bytes, or
        with a NUL. Raises `PasswordsBusyError` when the queue is full.
        """
        data = _encoded(password)
        mistake = _mistake(data)
        if mistake:
            raise ValueError(mistake)
        if self._pending >= self._room:
            raise PasswordsBusyError(f"{self._pending} passwords are waiting to be hashed")
        return await asyncio.shield(self._submit(_hash, data, self._cost))

    def remembered(self, name_hash: str, stored_hash: str, password: str) -> bool:
        """Whether this very credential was verified a moment ago. Never waits."""
        known = self._verified.get(name_hash)
        if known is None:
            return False
        digest, until = known
        if until <= self._clock.monotonic():
            del self._verified[name_hash]
            return False
        return hmac.compare_digest(digest, self._digest(name_hash, stored_hash, password))

    async def verify(self, name_hash: str, stored_hash: str, password: str) -> bool | None:
        """Whether `password` has the hash `stored_hash`; None: overloaded, the caller answers 503.

        A hash that is not bcrypt, and a password that bcrypt cannot take, do not match. The same credential is compared
        once for all who wait for it.
        """
        if self.remembered(name_hash, stored_hash, password):
            return True
        data = _encoded(password)
        found = _HASH.fullmatch(stored_hash)
        if _mistake(data) or found is None or int(found[1]) not in _COSTS:
            return False
        digest = self._digest(name_hash, stored_hash, password)
        flight = self._flights.get(digest)
        if flight is None:
            if self._pending >= self._room:
                return None
            flight = self._submit(bcrypt.checkpw, data, stored_hash.encode("ascii"))
            self._flights[digest] = flight
            flight.add_done_callback(lambda _: self._flights.pop(digest, None))
        matches = await asyncio.shield(flight)
        if matches and self._cache_seconds > 0:
            self._remember(name_hash, digest)
        return matches

    async def verify_nothing(self, password: str) -> bool | None:
        """Take as long as for a wrong password, for a user who does not exist. Never True; None: overloaded."""
        matches = await self.verify("", self._nothing, password)
        return matches and False

    def forget(self, name_hash: str) -> None:
        """Drop what is remembered of one user."""
        self._verified.pop(name_hash, None)

    async def close(self) -> None:
        """Let go of the threads. What still waits is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[..., _T], *arguments: object) -> asyncio.Future[_T]:
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        self._pending += 1
        future.add_done_callback(self._landed)
        return future

    def _landed(self, future: asyncio.Future[_T]) -> None:
        self._pending -= 1
        if not future.cancelled():
            future.exception()  # marks it as seen when every caller has gone away

    def _remember(self, name_hash: str, digest: bytes) -> None:
        self._verified[name_hash] = (digest, self._clock.monotonic() + self._cache_seconds)
        self._verified.move_to_end(name_hash)
        if len(self._verified) > _CAPACITY:
            self._verified.popitem(last=False)

    def _digest(self, name_hash: str, stored_hash: str, password: str) -> bytes:
        # The name and the hash have no NUL, so nothing can slide from one part into the next.
        text = f"{name_hash}\0{stored_hash}\0{password}".encode("utf-8", "surrogateescape")
        return blake2b(text, key=self._key, digest_size=32).digest()


def _encoded(password: str) -> bytes:
    # Bytes of a header that are not UTF-8 arrive as surrogates.
    return password.encode("utf-8", "surrogateescape")


def _mistake(data: bytes) -> str:
    if not data:
        return "the password is empty"
    if len(data) > _LONGEST:
        return f"the password has {len(data)} bytes, bcrypt takes at most {_LONGEST}"
    if b"\0" in data:
        return "the password holds a NUL"
    return ""


def _hash(data: bytes, cost: int) -> str:
    return bcrypt.hashpw(data, bcrypt.gensalt(cost)).decode("ascii")


def _be_nice() -> None:
    """Give this thread the lowest priority: on Linux, threads have one each."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
