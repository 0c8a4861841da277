"""What gateways on one Redis tell each other, and what they make of messages that are not from them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from aiogate.clock import SystemClock
from aiogate.stores.base import Node
from aiogate.stores.redis.peers import FLOOD
from aiogate.stores.redis.store import RedisStore
from tests.servers import RedisServer
from tests.stores.conftest import redis_store


@dataclass
class Heard:
    """A listener that remembers."""

    forgotten: list[str] = field(default_factory=list)
    distrusted: int = 0
    reloads: int = 0
    health: str = "serving"

    def describe(self, id: str) -> Node:
        return Node(id, "here", 1, "0", 3, time.time(), self.health, True, "127.0.0.1:1")

    def forget(self, name_hash: str) -> None:
        self.forgotten.append(name_hash)

    def distrust(self) -> None:
        self.distrusted += 1

    def reload(self) -> None:
        self.reloads += 1


Joined = Callable[[], Awaitable[tuple[RedisStore, Heard]]]


@pytest.fixture
def prefix() -> str:
    return f"{uuid4().hex}:"


@pytest.fixture
async def join(redis_server: RedisServer, prefix: str) -> AsyncIterator[Joined]:
    """Makes a gateway's store that listens already."""
    async with AsyncExitStack() as stack:

        async def joined() -> tuple[RedisStore, Heard]:
            store = redis_store(redis_server.url, SystemClock(), prefix)
            await store.open()
            stack.push_async_callback(store.close)
            heard = Heard()
            store.peers.begin(heard)
            await until(lambda: heard.distrusted == 1)
            await until(lambda: bool(store.peers._secret))
            return store, heard

        yield joined


async def until(done: Callable[[], bool], within: float = 5.0) -> float:
    began = time.monotonic()
    async with asyncio.timeout(within):
        while not done():
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def test_what_is_written_is_told_to_the_others_together(join: Joined) -> None:
    (one, own), (_, heard) = await join(), await join()
    for number in range(1200):
        one.peers.written(f"{number % 1100:064x}")
    assert await until(lambda: len(heard.forgotten) == 1100) < 1
    assert own.forgotten == []
    # 500 names in a message.
    assert one.peers._number == 3


async def test_a_call_to_reload_reaches_the_others(join: Joined) -> None:
    (one, own), (_, heard) = await join(), await join()
    await one.peers.reload()
    assert await until(lambda: heard.reloads == 1) < 1
    assert own.reloads == 0


async def test_forged_repeated_and_broken_messages_are_ignored(
    redis_server: RedisServer, prefix: str, join: Joined
) -> None:
    (one, _), (two, heard) = await join(), await join()
    signed = one.peers._signed({"reload": True})
    body = json.dumps({"from": "x", "number": 1, "reload": True}).encode()
    for text in (b"", b" ", b"x", body, b"0" * 64 + b" " + body, signed[:-1], signed.upper()):
        redis_server.say("PUBLISH", f"{prefix}messages", text)
    await until(lambda: two.peers.ignored == 7)
    for _ in range(3):
        redis_server.say("PUBLISH", f"{prefix}messages", signed)
    await until(lambda: two.peers.ignored == 9)
    assert heard.reloads == 1


@pytest.mark.slow
async def test_a_flood_is_not_listened_to_and_nothing_is_believed_after_it(
    redis_server: RedisServer, prefix: str, join: Joined
) -> None:
    one, heard = await join()
    sender = redis_store(redis_server.url, SystemClock(), prefix)
    await sender.open()
    for _ in range(10):
        await sender._side.ask_all([("PUBLISH", f"{prefix}messages", b"x" * 100)] * 500)
    await until(lambda: heard.distrusted == 2)
    assert one.peers.ignored <= 2 * FLOOD
    await sender.close()


@pytest.mark.slow
async def test_who_was_cut_off_believes_nothing_that_it_has_cached(redis_server: RedisServer, join: Joined) -> None:
    (one, _), (_, heard) = await join(), await join()
    redis_server.say("CLIENT", "KILL", "TYPE", "pubsub")
    assert await until(lambda: heard.distrusted == 2) < 3
    one.peers.written("a" * 64)
    await until(lambda: heard.forgotten == ["a" * 64])


async def test_a_redis_that_lost_its_data_has_another_key(redis_server: RedisServer, prefix: str, join: Joined) -> None:
    (one, _), (two, heard) = await join(), await join()
    redis_server.say("DEL", f"{prefix}secret")
    third, _ = await join()
    await third.peers.reload()
    await until(lambda: heard.reloads == 1)
    assert third.peers._secret == two.peers._secret
    await until(lambda: one.peers._secret == third.peers._secret)


@pytest.mark.slow
async def test_gateways_see_each_other_until_they_leave(redis_server: RedisServer, prefix: str, join: Joined) -> None:
    (one, _), (two, heard) = await join(), await join()
    nodes = await one.peers.nodes()
    assert [node.id for node in nodes] == [one.peers.id, two.peers.id]
    assert [node.own for node in nodes] == [True, False]
    assert {(node.health, node.generation) for node in nodes} == {("serving", 3)}
    heard.health = "draining"
    async with asyncio.timeout(5):
        while (await one.peers.nodes())[1].health != "draining":
            await asyncio.sleep(0.05)
    assert one.peers.live == two.peers.live == 2
    # One that does not say goodbye.
    redis_server.say("SET", f"{prefix}node:gone", json.dumps({**line(), "id": "gone"}))
    redis_server.say("ZADD", f"{prefix}nodes", int(time.time()) - 10, "gone")
    assert {node.id: node.health for node in await one.peers.nodes()}["gone"] == "lost"
    await two.close()
    await until(lambda: one.peers.live == 1)
    assert {node.id for node in await one.peers.nodes()} == {one.peers.id, "gone"}


def line() -> dict[str, object]:
    return {
        "host": "there", "pid": 2, "version": "0", "generation": 1, "started": 1.0, "health": "serving",
        "last_reload_ok": True, "control": "127.0.0.1:2", "seen_seconds_ago": 0.0, "own": False,
    }  # fmt: skip
