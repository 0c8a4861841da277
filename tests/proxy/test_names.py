"""Addresses of names: one lookup for all who wait, and name servers that are away."""

from __future__ import annotations

import asyncio
import socket

import pytest

from aiogate.proxy import names as module
from aiogate.proxy.names import NameCache, Unreachable


class Resolver:
    """Stands in for the loop's. `answers` are addresses, an exception, or None: it hangs."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host, port, **_):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(0)
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in answer for _ in range(2)]


@pytest.fixture
async def ask(monkeypatch):
    """Asks for a name, `later` seconds after the last time."""
    loop = asyncio.get_running_loop()
    cache = NameCache()

    def with_resolver(resolver):
        monkeypatch.setattr(loop, "getaddrinfo", resolver)

        async def ask(later=0.0, patience=1.0):
            cache._known = {name: (at - later, found) for name, (at, found) in cache._known.items()}
            return await cache.addresses("up.example", 80, loop.time() + patience)

        return ask

    return with_resolver


AWAY = socket.gaierror(-2, "Name or service not known")


async def test_a_name_is_asked_for_once_at_a_time_and_remembered(ask):
    resolver = Resolver(["127.0.0.1", "127.0.0.2"])
    one = ask(resolver)
    assert set(await asyncio.gather(*(one() for _ in range(9)))) == {("127.0.0.1", "127.0.0.2")}
    await one(later=29)
    assert resolver.asked == 1


async def test_an_older_answer_serves_while_a_new_one_is_sought(ask):
    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    one = ask(resolver)
    await one()
    assert await one(later=31) == ("127.0.0.1",)
    for _ in range(5):
        await asyncio.sleep(0)
    assert await one() == ("127.0.0.2",)
    assert resolver.asked == 2


async def test_a_name_that_does_not_resolve(ask):
    one = ask(Resolver(AWAY))
    with pytest.raises(Unreachable, match=r"up\.example does not resolve: .*not known") as caught:
        await one()
    assert not caught.value.timed_out


async def test_old_addresses_outlive_a_lookup_that_fails(ask):
    one = ask(Resolver(["127.0.0.1"], AWAY))
    await one()
    assert await one(later=61) == ("127.0.0.1",)
    assert await one(later=500) == ("127.0.0.1",)
    with pytest.raises(Unreachable):
        await one(later=60)


async def test_a_lookup_that_hangs(ask):
    resolver = Resolver(None)
    one = ask(resolver)
    for _ in range(3):
        with pytest.raises(Unreachable, match="did not resolve in time") as caught:
            await one(patience=0.01)
        assert caught.value.timed_out
    assert resolver.asked == 1, "one lookup hangs, not one for each request"


async def test_old_addresses_outlive_a_lookup_that_hangs(ask):
    resolver = Resolver(["127.0.0.1"], None)
    one = ask(resolver)
    await one()
    assert await one(later=61, patience=0.01) == ("127.0.0.1",)
    assert await one(patience=0.01) == ("127.0.0.1",)
    assert resolver.asked == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1"])
def test_an_address_needs_no_lookup(host):
    assert module.is_address(host)


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1"])
def test_any_other_spelling_does(host):
    assert not module.is_address(host)
