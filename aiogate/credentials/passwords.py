"""Passwords: hashing away from the event loop, and a memory of what was verified a moment ago.

New hashes are bcrypt's or, with the extra `argon2`, Argon2id's; both are verified side by side, by their prefix. bcrypt
at cost 10 takes 54 ms of a core, so it runs in few processes of low priority with a short queue; what does not fit is
refused as overload instead of piling up. A verified credential is remembered for a minute under a digest keyed with a
random key of this process: the memory holds neither the password nor anything that another process could use. A wrong
password is never remembered, so each guess costs its bcrypt.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from hashlib import blake2b
from typing import Any, Final, TypeVar

from aiogate.clock import Clock
from aiogate.credentials.hashers import HasherLost, Hashers
from aiogate.credentials.hashes import COSTS, Algorithm, hash_mistake, kind_of_hash, mistake, of_nothing

__all__ = ["Passwords", "PasswordsBusyError"]

_CAPACITY: Final = 100_000

_T = TypeVar("_T")


class PasswordsBusyError(Exception):
    """More passwords are waiting to be hashed than the queue holds, or nothing can hash; the caller answers 503."""


class Passwords:
    """Hashes and verifies passwords.

    New hashes are of `algorithm`; `cost` is bcrypt's. A verified credential is remembered for `cache_seconds`, or for
    as long as its API says; 0: never. At most `processes` run at once (default: the cores of this machine) and at most
    `queue` wait.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        algorithm: Algorithm = "bcrypt",
        cost: int = 10,
        cache_seconds: float = 60.0,
        processes: int | None = None,
        queue: int = 32,
    ) -> None:
        if cost not in COSTS:
            raise ValueError(f"the cost of bcrypt is {COSTS.start} to {COSTS.stop - 1}, not {cost}")
        self._clock = clock
        self._algorithm = algorithm
        self._cost = cost
        self._cache_seconds = cache_seconds
        processes = processes or os.cpu_count() or 1
        self._room = processes + queue
        self._hashers = Hashers(processes)
        self._pending: set[asyncio.Task[Any]] = set()
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[bool]] = {}
        self._nothing = of_nothing(algorithm, cost)

    async def hash(self, password: str) -> str:
        """The hash of a new password.

        Raises ValueError, with a text for the caller, for a password that cannot be taken: empty, over 72 bytes (1024
        for Argon2id), or with a NUL. Raises `PasswordsBusyError` when the queue is full.
        """
        data = _encoded(password)
        if wrong := mistake(data, self._algorithm):
            raise ValueError(wrong)
        if len(self._pending) >= self._room:
            raise PasswordsBusyError(f"{len(self._pending)} passwords are waiting to be hashed")
        try:
            return await asyncio.shield(self._begun(self._hashers.hashed(data, self._algorithm, self._cost)))
        except HasherLost as lost:
            raise PasswordsBusyError(str(lost)) from None

    def remembered(self, name_hash: str, stored_hash: str, password: str, cache: float | None = None) -> bool:
        """Whether this very credential was verified in the last `cache` seconds (None: as set). Never waits."""
        known = self._verified.get(name_hash)
        if known is None:
            return False
        digest, verified = known
        if self._clock.monotonic() - verified >= (self._cache_seconds if cache is None else cache):
            return False
        return hmac.compare_digest(digest, self._digest(name_hash, stored_hash, password))

    async def verify(self, name_hash: str, stored_hash: str, password: str, cache: float | None = None) -> bool | None:
        """Whether `password` has the hash `stored_hash`; None: overloaded, the caller answers 503.

        A hash that cannot be verified, and a password that its algorithm cannot take, do not match. The same credential
        is compared once for all who wait for it. `cache`: see `remembered`.
        """
        if self.remembered(name_hash, stored_hash, password, cache):
            return True
        data = _encoded(password)
        algorithm = kind_of_hash(stored_hash)
        if algorithm is None or mistake(data, algorithm):
            return False
        digest = self._digest(name_hash, stored_hash, password)
        flight = self._flights.get(digest)
        if flight is None:
            if len(self._pending) >= self._room:
                return None
            flight = self._begun(self._hashers.matches(data, stored_hash, algorithm))
            self._flights[digest] = flight
            flight.add_done_callback(lambda _: self._flights.pop(digest, None))
        try:
            matched = await asyncio.shield(flight)
        except HasherLost:
            return None
        if matched and (self._cache_seconds if cache is None else cache) > 0:
            self._remember(name_hash, digest)
        return matched

    async def verify_nothing(self, password: str) -> bool | None:
        """Take as long as for a wrong password, for a user who does not exist. Never True; None: overloaded."""
        matched = await self.verify("", self._nothing, password)
        return matched and False

    def unusable(self, stored_hash: str) -> str:
        """Why a stored hash can be verified by no password; empty when it can. For `why`, never for the client."""
        return hash_mistake(stored_hash)

    def impossible(self, stored_hash: str, password: str) -> str:
        """Why no hash of this kind can be of this password; empty when one may. For `why`, never for the client."""
        algorithm = kind_of_hash(stored_hash)
        return mistake(_encoded(password), algorithm) if algorithm is not None else ""

    def forget(self, name_hash: str) -> None:
        """Drop what is remembered of one user."""
        self._verified.pop(name_hash, None)

    async def close(self) -> None:
        """End the processes. What still waits is told that it is overload."""
        await self._hashers.close()
        await asyncio.gather(*self._pending, return_exceptions=True)

    def _begun(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._landed)
        return task

    def _landed(self, task: asyncio.Task[Any]) -> None:
        self._pending.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen when every caller has gone away

    def _remember(self, name_hash: str, digest: bytes) -> None:
        self._verified[name_hash] = (digest, self._clock.monotonic())
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
