"""Passwords: what matches, what is remembered, and what a flood of guesses can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiogate.credentials.hashers import Hashers
from aiogate.credentials.hashes import Algorithm, matches
from aiogate.credentials.passwords import Passwords, PasswordsBusyError
from aiogate.testing.clock import FakeClock

NAME = "a" * 64


class Counted:
    """Compares here instead of in children, counts, and can hold the comparisons back."""

    def __init__(self) -> None:
        self.compared = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def matches(self, password: bytes, stored: str, algorithm: Algorithm) -> bool:
        self.compared += 1
        await self.gate.wait()
        return matches(password, stored, algorithm)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    monkeypatch.setattr(Hashers, "matches", lambda self, *arguments: counted.matches(*arguments))
    return counted


@asynccontextmanager
async def opened(clock: FakeClock | None = None, **options: Any) -> AsyncIterator[Passwords]:
    passwords = Passwords(clock=clock or FakeClock(), cost=4, **options)
    try:
        yield passwords
    finally:
        await passwords.close()


async def test_a_password_matches_its_hash_and_no_other() -> None:
    async with opened() as passwords:
        stored = await passwords.hash("test123")
        assert stored.startswith("$2b$04$")
        assert await passwords.verify(NAME, stored, "test123") is True
        assert await passwords.verify(NAME, stored, "test1234") is False
        assert await passwords.verify(NAME, stored, "test123\n") is False
        assert await passwords.verify(NAME, stored, "pass:word") is False


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
async def test_every_spelling_of_bcrypt_is_read(prefix: str) -> None:
    async with opened() as passwords:
        stored = prefix + (await passwords.hash("test123")).removeprefix("$2b$")
        assert await passwords.verify(NAME, stored, "test123") is True


@pytest.mark.parametrize(
    "password, mistake", [("x" * 73, "73 bytes"), ("é" * 37, "74 bytes"), ("a\0b", "NUL"), ("", "empty")]
)
async def test_what_bcrypt_cannot_take_is_refused_when_hashed_and_never_matches(password: str, mistake: str) -> None:
    async with opened() as passwords:
        with pytest.raises(ValueError, match=mistake):
            await passwords.hash(password)
        stored = await passwords.hash("x" * 72)
        assert await passwords.verify(NAME, stored, password) is False
        assert await passwords.verify_nothing(password) is False


@pytest.mark.parametrize(
    "stored",
    ["", "test123", "$2b$", "$2b$04$short", "$2b$31$" + "." * 53, "$2b$03$" + "." * 53, "$5$04$" + "." * 53, "é" * 60],
)
async def test_a_hash_that_is_not_bcrypt_never_matches_and_costs_nothing(counted: Counted, stored: str) -> None:
    async with opened() as passwords:
        assert await passwords.verify(NAME, stored, "test123") is False
    assert counted.compared == 0


async def test_bytes_that_are_not_text_are_a_wrong_password() -> None:
    async with opened() as passwords:
        stored = await passwords.hash("test123")
        assert await passwords.verify(NAME, stored, "caf\udce9") is False
        assert not passwords.remembered(NAME, stored, "caf\udce9")


async def test_a_verified_credential_is_remembered_for_a_while(counted: Counted) -> None:
    clock = FakeClock()
    async with opened(clock, cache_seconds=60) as passwords:
        stored = await passwords.hash("test123")
        assert not passwords.remembered(NAME, stored, "test123")
        await passwords.verify(NAME, stored, "test123")
        assert passwords.remembered(NAME, stored, "test123")
        assert await passwords.verify(NAME, stored, "test123") is True
        assert counted.compared == 1
        clock.advance(60)
        assert not passwords.remembered(NAME, stored, "test123")
        assert await passwords.verify(NAME, stored, "test123") is True
        assert counted.compared == 2


async def test_what_is_remembered_is_this_user_this_hash_and_this_password() -> None:
    async with opened() as passwords:
        stored = await passwords.hash("test123")
        await passwords.verify(NAME, stored, "test123")
        assert not passwords.remembered(NAME, stored, "test124")
        assert not passwords.remembered("b" * 64, stored, "test123")
        assert not passwords.remembered(NAME, await passwords.hash("test123"), "test123")
        passwords.forget(NAME)
        assert not passwords.remembered(NAME, stored, "test123")


async def test_a_wrong_password_is_never_remembered(counted: Counted) -> None:
    async with opened() as passwords:
        stored = await passwords.hash("test123")
        await passwords.verify(NAME, stored, "test123")
        for _ in range(3):
            assert await passwords.verify(NAME, stored, "wrong") is False
        assert passwords.remembered(NAME, stored, "test123")
    assert counted.compared == 4


async def test_a_memory_of_no_seconds_remembers_nothing() -> None:
    async with opened(cache_seconds=0) as passwords:
        stored = await passwords.hash("test123")
        await passwords.verify(NAME, stored, "test123")
        assert not passwords.remembered(NAME, stored, "test123")


async def test_the_memory_holds_no_password() -> None:
    async with opened() as passwords:
        stored = await passwords.hash("very-secret")
        await passwords.verify(NAME, stored, "very-secret")
        assert "very-secret" not in repr([getattr(passwords, name) for name in vars(passwords)])


async def test_the_same_credential_is_compared_once_for_all_who_wait(counted: Counted) -> None:
    async with opened(processes=1, queue=0) as passwords:
        stored = await passwords.hash("test123")
        counted.gate.clear()
        asking = [asyncio.ensure_future(passwords.verify(NAME, stored, "test123")) for _ in range(100)]
        await asyncio.sleep(0)
        asking[0].cancel()
        await asyncio.sleep(0)
        counted.gate.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[1:] == [True] * 99
    assert counted.compared == 1


async def test_what_does_not_fit_the_queue_is_overload(counted: Counted) -> None:
    async with opened(processes=1, queue=2) as passwords:
        stored = await passwords.hash("test123")
        counted.gate.clear()
        asking = [asyncio.ensure_future(passwords.verify(NAME, stored, f"wrong{number}")) for number in range(5)]
        await asyncio.sleep(0)
        assert await passwords.verify_nothing("wrong") is None
        with pytest.raises(PasswordsBusyError):
            await passwords.hash("test123")
        counted.gate.set()
        assert await asyncio.gather(*asking) == [False, False, False, None, None]
        assert await passwords.verify(NAME, stored, "test123") is True


async def test_an_unknown_user_costs_what_a_wrong_password_costs(counted: Counted) -> None:
    async with opened() as passwords:
        assert await passwords.verify_nothing("test123") is False
        assert await passwords.verify_nothing("test123") is False
        assert counted.compared == 2
        assert passwords._nothing.startswith("$2b$04$")


@pytest.mark.parametrize("cost", [3, 18])
def test_a_cost_that_makes_no_sense_is_refused(cost: int) -> None:
    with pytest.raises(ValueError, match="the cost of bcrypt"):
        Passwords(clock=FakeClock(), cost=cost)
