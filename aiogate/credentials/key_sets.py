"""Where the keys of tokens come from: written down by the operator, or published by an issuer as a JWK Set.

A published set is fetched when a token first needs it, and kept. It is asked for again when it has grown old, beside
the requests, which are served by what is known; and when a token names a key that is not in it, which is what a
rotation looks like: then that request alone waits, and who asks meanwhile shares the one fetch. Two fetches are 30 s
apart at least, so that a flood of invented names asks the issuer nothing. While the issuer is away the keys that are
known stay in use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Final, Protocol

import orjson

from aiogate.clock import Clock
from aiogate.credentials.jose import Key, fitting, keys_of_set
from aiogate.credentials.outbound import Outbound, OutboundFailed, address_mistake
from aiogate.errors import PROBLEMS, Problem

__all__ = ["KeyRing", "PublishedKeys", "SeveralKeys", "WrittenKeys", "discovered"]

_log = logging.getLogger("aiogate.credentials")
APART: Final = 30.0
"""Seconds between two fetches of one set."""
APART_WITHOUT: Final = 2.0
"""Seconds between two attempts while there are no keys at all: nobody can be let in until one succeeds."""
WITHIN: Final = 3.0
"""Seconds that a fetch may take."""
MOST: Final = 1 << 20
"""Bytes of a set."""


class KeyRing(Protocol):
    """Keys to verify tokens by. `generation` changes whenever the keys do."""

    @property
    def generation(self) -> int: ...

    def find(self, algorithm: str, kid: str | None) -> Key | Problem | Awaitable[Key | Problem]:
        """The key for a token, or the refusal. Waits only where keys have to be fetched for this very token."""
        ...


class WrittenKeys:
    """Keys that do not change."""

    generation = 0

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    def find(self, algorithm: str, kid: str | None) -> Key | Problem:
        found = fitting(self._keys, algorithm, kid)
        return found if isinstance(found, Key) else PROBLEMS["token_invalid"].because(found)


class PublishedKeys:
    """The JWK Set of one issuer.

    `locate` tells its address, and may have to ask for it itself; it raises `OutboundFailed`. `lifetime` seconds after
    a fetch the set is fetched again.
    """

    def __init__(
        self, name: str, locate: Callable[[], Awaitable[str]], outbound: Outbound, clock: Clock, lifetime: float
    ) -> None:
        self.name = name
        self.generation = 0
        self._locate = locate
        self._outbound = outbound
        self._clock = clock
        self.lifetime = lifetime
        self._keys: tuple[Key, ...] = ()
        self._digest = b""
        self._fetched = 0.0
        self._tried: float | None = None
        self._failure = ""
        self._flight: asyncio.Task[None] | None = None

    def find(self, algorithm: str, kid: str | None) -> Key | Problem | Awaitable[Key | Problem]:
        """See `KeyRing`."""
        if self._keys and self._clock.monotonic() - self._fetched >= self.lifetime:
            self.refresh()
        found = fitting(self._keys, algorithm, kid, named=True)
        if isinstance(found, Key):
            return found
        if self.refresh() is None:
            return self._refusal(found)
        return self._find_later(algorithm, kid)

    def holds(self, algorithm: str, kid: str | None) -> bool:
        """Whether the key of a token is known without a fetch."""
        return isinstance(fitting(self._keys, algorithm, kid, named=True), Key)

    def refresh(self) -> asyncio.Task[None] | None:
        """The fetch that runs, or a new one; None: the last one is too recent."""
        if self._flight is not None:
            return self._flight
        now = self._clock.monotonic()
        apart = APART if self._keys else APART_WITHOUT
        if self._tried is not None and now - self._tried < apart:
            return None
        self._tried = now
        self._flight = asyncio.get_running_loop().create_task(self._fetch())
        return self._flight

    def close(self) -> None:
        """Give up on a running fetch."""
        if self._flight is not None:
            self._flight.cancel()

    async def _find_later(self, algorithm: str, kid: str | None) -> Key | Problem:
        flight = self.refresh()
        if flight is not None:
            # Shielded: a client that goes away must not take the keys from the others.
            await asyncio.wait({flight})
        found = fitting(self._keys, algorithm, kid, named=True)
        return found if isinstance(found, Key) else self._refusal(found)

    def _refusal(self, reason: str) -> Problem:
        if not self._keys:
            return PROBLEMS["issuer_unavailable"].because(f"the keys of {self.name} are not known: {self._failure}")
        return PROBLEMS["token_invalid"].because(f"{reason}, in the keys of {self.name}{self._trouble()}")

    def _trouble(self) -> str:
        return f" (the last fetch failed: {self._failure})" if self._failure else ""

    async def _fetch(self) -> None:
        try:
            url = await self._locate()
            answer = await self._outbound.ask("GET", url, headers=_ACCEPT, most=MOST, within=WITHIN)
            if answer.status != 200:
                raise OutboundFailed(f"{url} answered with {answer.status}")
            # A large set takes long to read, and this is the event loop that serves everybody.
            keys = await asyncio.to_thread(_read, answer.body)
        except (OutboundFailed, ValueError) as trouble:
            self._failure = str(trouble)
            _log.warning("the keys of %s could not be fetched: %s; %d stay in use", self.name, trouble, len(self._keys))
        else:
            self._failure = ""
            self._fetched = self._clock.monotonic()
            digest = sha256(answer.body).digest()
            if digest != self._digest:
                self._digest, self._keys = digest, keys
                self.generation += 1
        finally:
            self._flight = None


_ACCEPT: Final = {"Accept": "application/json, application/jwk-set+json"}


def _read(body: bytes) -> tuple[Key, ...]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as mistake:
        raise ValueError(f"the set is not JSON: {mistake.msg}") from None
    if not isinstance(value, dict):
        raise ValueError("the set is not a JSON object")
    return keys_of_set(value)


class SeveralKeys:
    """Several published sets as one: the first that holds the key."""

    def __init__(self, rings: Sequence[PublishedKeys]) -> None:
        self.rings = tuple(rings)

    @property
    def generation(self) -> int:
        return sum(ring.generation for ring in self.rings)

    def find(self, algorithm: str, kid: str | None) -> Key | Problem | Awaitable[Key | Problem]:
        """See `KeyRing`."""
        for ring in self.rings:
            if ring.holds(algorithm, kid):
                return ring.find(algorithm, kid)
        return self._ask_all(algorithm, kid)

    async def _ask_all(self, algorithm: str, kid: str | None) -> Key | Problem:
        asked = [ring.find(algorithm, kid) for ring in self.rings]
        answers = [one if isinstance(one, (Key, Problem)) else await one for one in asked]
        keys = [answer for answer in answers if isinstance(answer, Key)]
        if keys:
            return keys[0]
        problems = [answer for answer in answers if isinstance(answer, Problem)]
        # While one issuer is away, nobody can say that the token is wrong.
        return next((one for one in problems if one.status >= 500), problems[0])


async def discovered(outbound: Outbound, issuer: str) -> str:
    """The address of a provider's key set (OpenID Connect Discovery 1.0 section 4). Raises `OutboundFailed`."""
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    answer = await outbound.ask("GET", url, headers={"Accept": "application/json"}, most=MOST, within=WITHIN)
    if answer.status != 200:
        raise OutboundFailed(f"{url} answered with {answer.status}")
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError as mistake:
        raise OutboundFailed(f"{url} is not JSON: {mistake.msg}") from None
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        # Section 4.3: a document that speaks for somebody else is not this provider's.
        said = document.get("issuer") if isinstance(document, dict) else None
        raise OutboundFailed(f"{url} says that the issuer is {said!r}"[:300])
    found = document.get("jwks_uri")
    if not isinstance(found, str) or address_mistake(found):
        raise OutboundFailed(f"the jwks_uri of {url} cannot be asked")
    if url.startswith("https:") and not found.startswith("https:"):
        raise OutboundFailed(f"the jwks_uri of {url} is not https")
    return found
