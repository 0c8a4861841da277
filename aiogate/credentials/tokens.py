"""The service that plugins verify tokens with: verifiers, the keys that they share, and memories of what was right.

`Tokens` is one for the gateway. Published key sets are shared by address: two APIs with one issuer fetch its keys once,
and a reload that changes an API does not fetch them again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

import orjson

from aiogate.clock import Clock
from aiogate.credentials.claims import ClaimRules, check_claims
from aiogate.credentials.jose import Key, Token, parse_keys, read_token
from aiogate.credentials.key_sets import KeyRing, PublishedKeys, SeveralKeys, WrittenKeys, discovered
from aiogate.credentials.outbound import Outbound, OutboundFailed, address_mistake
from aiogate.errors import PROBLEMS, Problem

__all__ = ["TokenMemory", "TokenVerifier", "Tokens"]

_REMEMBERED: Final = 20_000
T = TypeVar("T")
Ask = Callable[[Mapping[str, str], Mapping[str, str], int, float], Awaitable[Mapping[str, Any] | str]]


class TokenMemory(Generic[T]):
    """What was found out about tokens, until a moment of the wall clock.

    Tokens are kept as digests under a random key of this process: the memory holds no credential. It is bounded, the
    least recently used go first.
    """

    __slots__ = ("_capacity", "_clock", "_entries", "_key")

    def __init__(self, clock: Clock, capacity: int = _REMEMBERED) -> None:
        self._clock = clock
        self._capacity = capacity
        self._key = secrets.token_bytes(32)
        self._entries: OrderedDict[bytes, tuple[T, float]] = OrderedDict()

    def get(self, token: str) -> T | None:
        digest = sha256(self._key + token.encode("utf-8", "surrogateescape")).digest()
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if entry[1] <= self._clock.now():
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return entry[0]

    def put(self, token: str, value: T, until: float) -> None:
        """Remember `value` until then, in epoch seconds."""
        digest = sha256(self._key + token.encode("utf-8", "surrogateescape")).digest()
        self._entries[digest] = (value, until)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


class TokenVerifier:
    """Verifies tokens as one API wants them.

    `algorithms` are the names that are allowed. Every step refuses by itself: form, algorithm, key, signature, claims.
    """

    __slots__ = ("_algorithms", "_clock", "_keys", "_rules")

    def __init__(self, algorithms: Sequence[str], keys: KeyRing, rules: ClaimRules, clock: Clock) -> None:
        self._algorithms = frozenset(algorithms)
        self._keys = keys
        self._rules = rules
        self._clock = clock

    @property
    def generation(self) -> int:
        """Changes whenever the keys do: what was verified before then has to be verified again."""
        return self._keys.generation

    def read(self, text: str) -> Token | Problem:
        """The token, nothing verified but that its algorithm is allowed."""
        token = read_token(text)
        if isinstance(token, str):
            return PROBLEMS["token_invalid"].because(token)
        if token.algorithm not in self._algorithms:
            allowed = ", ".join(sorted(self._algorithms))
            return PROBLEMS["token_algorithm"].because(
                f"the header `alg` is {token.header.get('alg')!r}, allowed here: {allowed}"[:500]
            )
        return token

    def verify(self, token: Token) -> float | Problem | Awaitable[float | Problem]:
        """Until when a token that was read holds, in epoch seconds. Waits only when keys have to be fetched for it."""
        found = self._keys.find(token.algorithm, token.kid)
        if isinstance(found, (Key, Problem)):
            return self._verified(token, found)
        return self._verify_later(token, found)

    def verify_by(self, token: Token, keys: Sequence[Key]) -> float | Problem:
        """The same by keys that are at hand, whatever the token calls them."""
        found = WrittenKeys(keys).find(token.algorithm, None)
        return self._verified(token, found)

    async def _verify_later(self, token: Token, pending: Awaitable[Key | Problem]) -> float | Problem:
        return self._verified(token, await pending)

    def _verified(self, token: Token, key: Key | Problem) -> float | Problem:
        if isinstance(key, Problem):
            return key
        if not key.verifies(token.algorithm, token.signed, token.signature):
            named = f"kid {key.kid!r}" if key.kid is not None else "without kid"
            return PROBLEMS["token_invalid"].because(
                f"the signature is not that of the {key.kind} key ({named}) by {token.algorithm}"
            )
        until = check_claims(token, self._rules, self._clock.now())
        return until if isinstance(until, Problem) else float(until)


class Tokens:
    """What plugins verify tokens with."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.outbound = Outbound()
        self._published: dict[tuple[str, float], tuple[PublishedKeys, int]] = {}

    def written_keys(self, text: str, algorithms: Sequence[str]) -> KeyRing:
        """The keys in a text of the operator's. Raises ValueError when none of them serves one of `algorithms`."""
        keys = parse_keys(text)
        if not any(key.algorithms.intersection(algorithms) for key in keys):
            kinds = ", ".join(sorted({key.kind for key in keys}))
            raise ValueError(f"a key of the kind {kinds} verifies none of {', '.join(algorithms)}")
        return WrittenKeys(keys)

    def issuer_of(self, text: str) -> str | None:
        """Who a token says to come from. Nothing is verified: it tells no more than which method is to do that."""
        token = read_token(text)
        issuer = token.claims.get("iss") if isinstance(token, Token) else None
        return issuer if isinstance(issuer, str) else None

    def no_keys(self) -> KeyRing:
        """For verifiers that are given the key with each token."""
        return WrittenKeys(())

    def parsed(self, text: str) -> Sequence[Key]:
        """The keys in a text. Raises ValueError."""
        return parse_keys(text)

    def published_keys(self, urls: Sequence[str], lifetime: float) -> KeyRing:
        """The key sets at these addresses, shared with whoever names the same; `give_back` ends that.

        They are fetched again after `lifetime` seconds. Raises ValueError for an address that cannot be asked.
        """
        for url in urls:
            if mistake := address_mistake(url):
                raise ValueError(f"the address of a key set {mistake}")
        rings = [self._lease(url, lifetime, lambda url=url: _given(url)) for url in urls]  # type: ignore[misc]  # the default binds the loop variable
        return rings[0] if len(rings) == 1 else SeveralKeys(rings)

    def discovered_keys(self, issuer: str, lifetime: float) -> KeyRing:
        """The key set that an OpenID provider names in its discovery document, otherwise like `published_keys`."""
        if mistake := address_mistake(issuer):
            raise ValueError(f"the address of the issuer {mistake}")
        return self._lease(f"issuer {issuer}", lifetime, lambda: discovered(self.outbound, issuer))

    def give_back(self, keys: KeyRing) -> None:
        """The caller needs these published keys no more; the last one who does ends them."""
        for ring in keys.rings if isinstance(keys, SeveralKeys) else (keys,):
            if not isinstance(ring, PublishedKeys):
                continue
            place = (ring.name, ring.lifetime)
            known, leases = self._published[place]
            if leases > 1:
                self._published[place] = (known, leases - 1)
            else:
                del self._published[place]
                ring.close()

    def verifier(
        self,
        algorithms: Sequence[str],
        keys: KeyRing,
        *,
        issuers: Iterable[str] = (),
        audiences: Iterable[str] = (),
        required: Sequence[str] = ("exp",),
        skews: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> TokenVerifier:
        """A verifier; `skews` are the seconds for `exp`, `nbf` and `iat`, the rest is as in `ClaimRules`."""
        rules = ClaimRules(frozenset(issuers), frozenset(audiences), *skews, tuple(required))
        return TokenVerifier(algorithms, keys, rules, self._clock)

    def checker(
        self,
        *,
        issuers: Iterable[str] = (),
        audiences: Iterable[str] = (),
        required: Sequence[str] = ("exp",),
        skews: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Callable[[Token, float], Problem | float]:
        """The function that looks at claims which somebody else has verified; see `check_claims`."""
        rules = ClaimRules(frozenset(issuers), frozenset(audiences), *skews, tuple(required))
        return lambda token, now: check_claims(token, rules, now)

    def asker(self, url: str) -> Ask:
        """The function that posts a form to this address and gives the JSON object that it answers with, or a reason.

        Its arguments are the headers, the form, and how many bytes and seconds the answer may take. Raises ValueError
        for an address that cannot be asked.
        """
        if mistake := address_mistake(url):
            raise ValueError(f"the address {mistake}")

        async def ask(
            headers: Mapping[str, str], form: Mapping[str, str], most: int, within: float
        ) -> Mapping[str, Any] | str:
            try:
                answer = await self.outbound.ask("POST", url, headers=headers, form=form, most=most, within=within)
            except OutboundFailed as trouble:
                return str(trouble)
            if answer.status != 200:
                return f"it answered with {answer.status}"
            try:
                value = orjson.loads(answer.body)
            except orjson.JSONDecodeError as mistake:
                return f"its answer is not JSON: {mistake.msg}"
            return value if isinstance(value, dict) else "its answer is not a JSON object"

        return ask

    def memory(self, of: type[T]) -> TokenMemory[T]:
        """A memory for one user of it, of values of this type."""
        return TokenMemory[T](self._clock)

    async def close(self) -> None:
        """Give up on what runs, and close every connection."""
        for ring, _ in self._published.values():
            ring.close()
        await asyncio.sleep(0)
        await self.outbound.close()

    def _lease(self, name: str, lifetime: float, locate: Callable[[], Awaitable[str]]) -> PublishedKeys:
        known = self._published.get((name, lifetime))
        ring = known[0] if known is not None else PublishedKeys(name, locate, self.outbound, self._clock, lifetime)
        self._published[name, lifetime] = (ring, known[1] + 1 if known is not None else 1)
        return ring


async def _given(url: str) -> str:
    return url
