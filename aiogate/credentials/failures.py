"""Who failed to prove who he is, how often, and how long he has to wait before he may try again.

Counted are wrong credentials per address and user, and per address over all users and keys. Whoever is over a limit is
refused before anything is hashed or looked up. Windows are fixed and begin with the first failure.

A shared address (an office behind one router) is spared where it can be: repeating one dead key counts once, because a
search tries many; and whoever passed from an address while it was being counted is not stopped by the others there.

The memory is bounded: names are kept as short digests, and the least recently counted go first. Each process counts for
itself.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from aiogate.clock import Clock

__all__ = ["Failures", "Limit"]


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` failures in `window` seconds."""

    count: int
    window: float


class _Count:
    __slots__ = ("ends", "failures")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.failures = 0


class Failures:
    """The failures of the last while. `user` limits one name at one address, `address` all of them; None: no limit.

    `capacity` names and addresses are remembered.
    """

    def __init__(
        self, clock: Clock, *, user: Limit | None = None, address: Limit | None = None, capacity: int = 50_000
    ) -> None:
        self._clock = clock
        self._user = user
        self._address = address
        self._capacity = capacity
        self._key = secrets.token_bytes(16)
        self._counts: OrderedDict[bytes, _Count] = OrderedDict()
        self._passed: OrderedDict[bytes, float] = OrderedDict()

    @property
    def quiet(self) -> bool:
        """Whether nobody failed lately: then there is nothing to ask and nothing to tell."""
        return not self._counts

    def wait(self, address: str, name: str, *, secret: bool = False) -> float:
        """Seconds until this address may try this name; 0: now. `secret`: the name itself is what is guessed."""
        if not self._counts:
            return 0.0
        now = self._clock.monotonic()
        self._let_go(now)
        pair, everywhere = self._keys(address, name)
        wait = 0.0 if secret else self._left(pair, self._user, now)
        if not wait and self._passed.get(pair, 0.0) <= now:
            wait = self._left(everywhere, self._address, now)
        return wait

    def failed(self, address: str, name: str, *, secret: bool = False) -> None:
        """A wrong credential came for `name` from `address`. A secret name counts once for the address."""
        now = self._clock.monotonic()
        pair, everywhere = self._keys(address, name)
        tries = self._count(pair, self._address if secret else self._user, now)
        if tries < 2 or not secret:
            self._count(everywhere, self._address, now)

    def passed(self, address: str, name: str) -> None:
        """A right credential came for `name` from `address`. To be told while not `quiet`."""
        pair, everywhere = self._keys(address, name)
        if self._address is not None and everywhere in self._counts:
            self._passed[pair] = self._clock.monotonic() + self._address.window
            self._passed.move_to_end(pair)
            if len(self._passed) > self._capacity:
                self._passed.popitem(last=False)

    def __len__(self) -> int:
        """How many names and addresses are remembered."""
        return len(self._counts) + len(self._passed)

    def _count(self, key: bytes, limit: Limit | None, now: float) -> int:
        if limit is None:
            return 0
        count = self._counts.get(key)
        if count is None or count.ends <= now:
            count = self._counts[key] = _Count(now + limit.window)
        count.failures += 1
        self._counts.move_to_end(key)
        if len(self._counts) > self._capacity:
            self._counts.popitem(last=False)
        return count.failures

    def _left(self, key: bytes, limit: Limit | None, now: float) -> float:
        count = self._counts.get(key) if limit is not None else None
        if count is None or limit is None or count.failures < limit.count:
            return 0.0
        return max(0.0, count.ends - now)

    def _let_go(self, now: float) -> None:
        """Forget what has ended, oldest first and few at a time."""
        for _ in range(4):
            if not self._counts:
                self._passed.clear()
                return
            key, count = next(iter(self._counts.items()))
            if count.ends > now:
                return
            del self._counts[key]

    def _keys(self, address: str, name: str) -> tuple[bytes, bytes]:
        """The digests of a name at an address, and of the address alone."""
        network = _network(address) if ":" in address else address
        return self._digest(f"{network}\0{name}"), self._digest(network)

    def _digest(self, text: str) -> bytes:
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()


@lru_cache(maxsize=1024)
def _network(address: str) -> str:
    """The /64 of an IPv6 address: one client may use all of it."""
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
