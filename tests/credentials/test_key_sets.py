"""Published key sets: fetched when needed, once for all, not too often, and kept while the issuer is away (row 49)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from aiogate.credentials.jose import Key
from aiogate.credentials.key_sets import KeyRing, WrittenKeys
from aiogate.credentials.outbound import Outbound, OutboundFailed, address_mistake
from aiogate.credentials.tokens import TokenMemory, Tokens
from aiogate.errors import Problem
from aiogate.testing import FakeClock
from tests.credentials.issuer import Issuer, public_jwk, running_issuer

ONE, TWO = public_jwk("ES256", kid="one"), public_jwk("ES384", kid="two")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def tokens(clock: FakeClock) -> AsyncIterator[Tokens]:
    made = Tokens(clock)
    yield made
    await made.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running_issuer(ONE) as running:
        yield running


async def asked(ring: KeyRing, algorithm: str, kid: str | None) -> Key | Problem:
    answer = ring.find(algorithm, kid)
    return await answer if isinstance(answer, Awaitable) else answer


async def settled() -> None:
    """Let what runs beside the requests come to its end."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        if task.get_coro().__name__ == "_fetch":  # type: ignore[union-attr]
            await asyncio.wait({task})


async def test_the_first_token_fetches_once_for_all_who_wait(tokens: Tokens, issuer: Issuer) -> None:
    issuer.delay = 0.05
    ring = tokens.published_keys([issuer.jwks], 300)
    answers = await asyncio.gather(*(asked(ring, "ES256", "one") for _ in range(50)))
    assert all(isinstance(answer, Key) for answer in answers)
    assert issuer.asked == 1
    assert isinstance(ring.find("ES256", "one"), Key), "what is known is there without waiting"


async def test_a_client_that_goes_away_leaves_the_keys_to_the_others(tokens: Tokens, issuer: Issuer) -> None:
    issuer.delay = 0.05
    ring = tokens.published_keys([issuer.jwks], 300)
    first = asyncio.create_task(asked(ring, "ES256", "one"))
    second = asyncio.create_task(asked(ring, "ES256", "one"))
    await asyncio.sleep(0.01)
    first.cancel()
    assert isinstance(await second, Key)
    assert issuer.asked == 1


async def test_an_unknown_kid_fetches_again_but_not_too_often(tokens: Tokens, issuer: Issuer, clock: FakeClock) -> None:
    ring = tokens.published_keys([issuer.jwks], 300)
    assert isinstance(await asked(ring, "ES256", "one"), Key)
    issuer.keys = [ONE, TWO]
    for number in range(200):
        refused = ring.find("ES256", f"invented-{number}")
        assert isinstance(refused, Problem)
        assert (refused.code, refused.status) == ("token_invalid", 403)
    assert issuer.asked == 1
    clock.advance(30)
    generation = ring.generation
    flood = await asyncio.gather(*(asked(ring, "ES256", f"invented-{number}") for number in range(50)))
    assert all(isinstance(answer, Problem) for answer in flood)
    assert issuer.asked == 2
    assert ring.generation > generation
    assert isinstance(ring.find("ES384", "two"), Key)


async def test_an_old_set_is_fetched_beside_the_requests(tokens: Tokens, issuer: Issuer, clock: FakeClock) -> None:
    ring = tokens.published_keys([issuer.jwks], 60)
    await asked(ring, "ES256", "one")
    generation = ring.generation
    clock.advance(61)
    issuer.delay = 0.05
    assert isinstance(ring.find("ES256", "one"), Key), "nobody waits"
    assert isinstance(ring.find("ES256", "one"), Key)
    await settled()
    assert (issuer.asked, ring.generation) == (2, generation), "the same keys are the same generation"
    clock.advance(61)
    issuer.keys = [TWO]
    assert isinstance(ring.find("ES256", "one"), Key)
    await settled()
    assert isinstance(await asked(ring, "ES256", "one"), Problem), "what is no longer published is no longer accepted"
    assert ring.generation > generation


@pytest.mark.parametrize(
    "broken",
    [
        (500, b""), (302, b""), (404, b'{"keys": []}'), (200, b"no json"), (200, b"[]"), (200, b'{"keys": []}'),
        (200, b'{"keys": {}}'), (200, json.dumps({"keys": [public_jwk("HS256")]}).encode()),
        (200, b" " * (1 << 20) + b"{}"),
    ],
    ids=["500", "redirect", "404", "text", "list", "empty", "object", "secret", "huge"],
)  # fmt: skip
async def test_keys_stay_while_the_issuer_is_broken(
    tokens: Tokens, issuer: Issuer, clock: FakeClock, broken: Any
) -> None:
    ring = tokens.published_keys([issuer.jwks], 60)
    await asked(ring, "ES256", "one")
    issuer.broken = broken
    for _ in range(3):
        clock.advance(61)
        assert isinstance(ring.find("ES256", "one"), Key)
        await settled()
        assert isinstance(ring.find("ES256", "one"), Key)
        refused = await asked(ring, "ES256", "other")
        assert isinstance(refused, Problem)
        assert "the last fetch failed" in refused.detail
    assert issuer.asked == 4
    issuer.broken = None
    clock.advance(61)
    await asked(ring, "ES256", "other")
    refused = await asked(ring, "ES256", "other")
    assert "the last fetch failed" not in refused.detail  # type: ignore[union-attr]


async def test_without_any_keys_the_answer_is_try_again(tokens: Tokens, issuer: Issuer, clock: FakeClock) -> None:
    issuer.broken = (503, b"")
    ring = tokens.published_keys([issuer.jwks], 60)
    for _ in range(20):
        refused = await asked(ring, "ES256", "one")
        assert isinstance(refused, Problem)
        assert (refused.code, refused.status) == ("issuer_unavailable", 503)
        assert "answered with 503" in refused.detail
    assert issuer.asked == 1
    issuer.broken = None
    clock.advance(2)
    assert isinstance(await asked(ring, "ES256", "one"), Key)


async def test_several_sets_are_one(tokens: Tokens, issuer: Issuer, clock: FakeClock) -> None:
    async with running_issuer(TWO) as other:
        ring = tokens.published_keys([issuer.jwks, other.jwks], 60)
        assert isinstance(await asked(ring, "ES384", "two"), Key)
        assert isinstance(ring.find("ES256", "one"), Key)
        generation = ring.generation
        clock.advance(61)
        other.keys = [{**TWO, "kid": "three"}]
        assert isinstance(await asked(ring, "ES384", "three"), Key)
        assert ring.generation > generation
        assert (await asked(ring, "ES256", "no")).status == 403  # type: ignore[union-attr]
    clock.advance(61)
    tokens_of_nobody = tokens.published_keys([issuer.jwks, "http://127.0.0.1:9/"], 60)
    assert isinstance(await asked(tokens_of_nobody, "ES256", "one"), Key)
    away = await asked(tokens_of_nobody, "ES384", "three")
    assert isinstance(away, Problem)
    assert away.status == 503, "nobody can say that the token is wrong"


async def test_a_set_is_shared_and_given_back(tokens: Tokens, issuer: Issuer) -> None:
    first = tokens.published_keys([issuer.jwks], 60)
    await asked(first, "ES256", "one")
    second = tokens.published_keys([issuer.jwks], 60)
    tokens.give_back(first)
    assert second is first
    tokens.give_back(first)
    assert tokens.published_keys([issuer.jwks], 60) is not first


@pytest.mark.slow
async def test_a_slow_issuer_is_given_up(tokens: Tokens, issuer: Issuer) -> None:
    issuer.delay = 30
    ring = tokens.published_keys([issuer.jwks], 60)
    async with asyncio.timeout(6):
        refused = await asked(ring, "ES256", "one")
    assert isinstance(refused, Problem)
    assert refused.status == 503
    assert "within 3 s" in refused.detail


async def test_an_outbound_request_sends_nothing_of_its_own(issuer: Issuer) -> None:
    outbound = Outbound()
    try:
        answer = await outbound.ask("GET", issuer.jwks, most=1 << 20, within=3)
        assert json.loads(answer.body) == {"keys": [ONE]}
        with pytest.raises(OutboundFailed, match="more than 5 bytes"):
            await outbound.ask("GET", issuer.jwks, most=5, within=3)
        with pytest.raises(OutboundFailed, match="Connect"):
            await outbound.ask("GET", "http://127.0.0.1:9/", most=5, within=3)
    finally:
        await outbound.close()
        await outbound.close()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a/", "http://", "a", "", "http://u:p@a/", "http://a/#x", "http://a b/", "http://\u00e9/", "http://a:0/",
        "http://a:99999/", "http://169.254.169.254/latest", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/",
        "file:///etc/passwd",
    ],
)  # fmt: skip
def test_addresses_that_are_not_asked(url: str, tokens: Tokens) -> None:
    assert address_mistake(url)
    with pytest.raises(ValueError):
        tokens.published_keys([url], 60)


def test_addresses_that_are_asked() -> None:
    for url in ("https://login.example.com/keys?x=1", "http://127.0.0.1:8080/", "http://[::1]:80/", "http://10.0.0.1/"):
        assert address_mistake(url) == ""


def test_written_keys_answer_at_once() -> None:
    ring = WrittenKeys(())
    refused = ring.find("HS256", None)
    assert isinstance(refused, Problem)
    assert refused.code == "token_invalid"


def test_a_memory_forgets_in_time_and_is_bounded(clock: FakeClock) -> None:
    memory: TokenMemory[int] = TokenMemory(clock, capacity=3)
    for number in range(5):
        memory.put(f"token-{number}", number, clock.now() + 10)
        assert memory.get("token-0") == (0 if number < 3 else memory.get("token-0"))
    assert len(memory) == 3
    assert [memory.get(f"token-{number}") for number in range(5)].count(None) == 2
    assert memory.get("token-0") == 0, "what is used stays"
    clock.advance(10)
    assert memory.get("token-0") is None
    assert "token-0" not in repr(memory._entries)
