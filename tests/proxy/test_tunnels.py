"""Whether open tunnels may stay: what is asked again, when, and what happens while there is no answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from aiogate.domain.policy import PolicySet
from aiogate.domain.session import Grant, Session
from aiogate.proxy.tunnels import INTERVAL, RETRY, Tunnels
from aiogate.stores.base import StoreUnavailable
from aiogate.stores.repositories import LookupFailure
from aiogate.testing import FakeClock


class Sessions:
    """A directory that says what the test wants, and counts how often it is asked."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.listeners = []

    def listen(self, listener):
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def write(self, name, answer):
        self.answers[name] = answer
        for listener in self.listeners:
            listener(name)

    def known(self, name, policies):
        return self.answers.get(name)

    async def current(self, name, policies):
        self.asked.append(name)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Tunnel:
    ended = ""
    told = None

    def end(self, ended, code, reason):
        self.ended = ended
        self.told = (code, reason)


def session(name, **fields):
    return Session(name, "default", "key", name, {"chat": Grant()}, **fields)


@pytest.fixture
async def watch():
    api = SimpleNamespace(
        id="chat",
        definition=SimpleNamespace(expires=None, versions=None),
        chains={},
        record=lambda decision: None,
    )
    clock, sessions = FakeClock(), Sessions()
    current = SimpleNamespace(table=SimpleNamespace(apis={"chat": api}, own=(), generation=1, policies=PolicySet(())))
    tunnels = Tunnels(current, clock, sessions)

    def opened(name, **fields):
        sessions.answers.setdefault(name, session(name, **fields))
        tunnel = Tunnel()
        exchange = SimpleNamespace(
            api=api, session=sessions.answers[name], policies=None, generation=1, version=None, problem=None, grant=None
        )
        tunnels.add(tunnel, exchange)
        return tunnel

    async def sweep(at):
        tunnels.sweep(at)
        for _ in range(5):
            await asyncio.sleep(0)

    yield SimpleNamespace(
        tunnels=tunnels, sessions=sessions, clock=clock, current=current, opened=opened, sweep=sweep, api=api
    )
    await tunnels.stop()
    assert sessions.listeners == []


async def test_only_those_are_asked_about_that_were_written(watch):
    now = asyncio.get_running_loop().time()
    first, second = watch.opened("a"), watch.opened("b")
    await watch.sweep(now)
    assert watch.sessions.asked == ["a", "b"]
    for _ in range(10):
        await watch.sweep(now + 1)
    watch.sessions.write("c", session("c"))
    await watch.sweep(now + 2)
    assert watch.sessions.asked == ["a", "b"]
    watch.sessions.write("b", LookupFailure("gone", missing=True))
    await watch.sweep(now + 2)
    assert watch.sessions.asked == ["a", "b", "b"]
    assert (first.ended, second.ended) == ("", "revoked")
    assert second.told == (1008, "Access to this API has been disallowed")


async def test_everybody_is_asked_about_now_and_then(watch):
    now = asyncio.get_running_loop().time()
    tunnel = watch.opened("a")
    await watch.sweep(now)
    watch.sessions.answers["a"] = LookupFailure("another node deleted it, and nobody said so", missing=True)
    await watch.sweep(now + INTERVAL - 1)
    assert not tunnel.ended
    await watch.sweep(now + INTERVAL + 1)
    assert tunnel.ended == "revoked"


async def test_who_is_in_stays_while_the_store_is_away(watch, caplog):
    now = asyncio.get_running_loop().time()
    tunnel = watch.opened("a")
    await watch.sweep(now)
    watch.sessions.write("a", StoreUnavailable("away"))
    for second in range(4):
        await watch.sweep(now + second / 4)
    assert not tunnel.ended
    assert caplog.text.count("could not be looked at again") == 1
    watch.sessions.answers["a"] = LookupFailure("deleted meanwhile", missing=True)
    await watch.sweep(asyncio.get_running_loop().time() + RETRY + 0.1)
    assert tunnel.ended == "revoked"


async def test_a_session_that_is_not_in_the_directory_any_more_when_the_tunnel_opens(watch):
    watch.sessions.answers["a"] = session("a")
    tunnel = watch.opened("a")
    watch.sessions.answers["a"] = None
    late = watch.opened("b")
    watch.sessions.answers = {"a": session("a"), "b": LookupFailure("deleted in between", missing=True)}
    await watch.sweep(asyncio.get_running_loop().time())
    assert (tunnel.ended, late.ended) == ("", "revoked")


async def test_an_expiry_is_met_on_time_and_asked_about_once(watch):
    now = asyncio.get_running_loop().time()
    tunnel = watch.opened("a", expires=watch.clock.now() + 10)
    await watch.sweep(now)
    watch.clock.advance(9)
    await watch.sweep(now + 1)
    assert not tunnel.ended
    watch.clock.advance(1)
    await watch.sweep(now + 1)
    assert tunnel.told == (1008, "Key has expired, please renew")
    watch.tunnels.remove(tunnel)
    asked = len(watch.sessions.asked)
    other = watch.opened("b")
    await watch.sweep(now + 1)
    await watch.sweep(now + 1)
    assert not other.ended
    assert len(watch.sessions.asked) <= asked + 1


@pytest.mark.parametrize("what", ["api", "version"])
async def test_the_end_of_an_api_and_of_a_version(watch, what):
    end = watch.clock.now() + 5
    versions = SimpleNamespace(list={"v1": SimpleNamespace(expires=end)})
    watch.api.definition = SimpleNamespace(
        expires=end if what == "api" else None, versions=versions if what == "version" else None
    )
    watch.api.chains = {"v1": SimpleNamespace(steps=(STEP,))}
    tunnel = Tunnel()
    exchange = SimpleNamespace(
        api=watch.api, session=None, policies=None, generation=1, version="v1", problem=None, method="GET", path="/",
        request_id="1", client_ip="",
    )  # fmt: skip
    watch.api.org, watch.api.clock = "default", watch.clock
    watch.tunnels.add(tunnel, exchange)
    now = asyncio.get_running_loop().time()
    await watch.sweep(now)
    assert not tunnel.ended
    watch.clock.advance(5)
    await watch.sweep(now)
    assert tunnel.ended == "revoked"
    assert exchange.problem.code == f"{what}_expired"


STEP = SimpleNamespace(name="versions", stage=SimpleNamespace(name="VERSION"), position="a.yaml:1:1")
