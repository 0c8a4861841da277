"""The vault of each engine: named documents with an end, of which some are good once."""

from __future__ import annotations

import asyncio

from aiogate.stores.base import Store
from aiogate.testing.clock import FakeClock


async def test_a_document_comes_back_until_it_ends(store: Store, clock: FakeClock) -> None:
    vault = store.vault
    assert await vault.get("one") is None
    await vault.put("one", b"\x00first\xff", until=clock.now() + 10, groups=("all",))
    await vault.put("ever", b"{}", groups=("all",))
    assert await vault.get("one") == b"\x00first\xff"
    clock.advance(10)
    assert await vault.get("one") is None
    assert await vault.swap("one", b"again") is None
    assert await vault.take("one") is None
    assert await vault.page("all") == [("ever", b"{}")]


async def test_a_later_document_replaces_the_earlier_with_its_groups(store: Store) -> None:
    vault = store.vault
    await vault.put("name", b"1", groups=("a", "b"))
    await vault.put("name", b"2", groups=("b", "c"))
    assert [await vault.page(group) for group in "abc"] == [[], [("name", b"2")], [("name", b"2")]]


async def test_one_of_many_gets_what_is_taken(store: Store) -> None:
    vault = store.vault
    await vault.put("code", b"grant", groups=("codes",))
    taken = await asyncio.gather(*(vault.take("code") for _ in range(20)))
    assert taken.count(b"grant") == 1
    assert taken.count(None) == 19
    assert await vault.page("codes") == []


async def test_one_of_many_finds_what_was_there_before_the_swap(store: Store, clock: FakeClock) -> None:
    vault = store.vault
    assert await vault.swap("nothing", b"new") is None
    assert await vault.get("nothing") is None
    await vault.put("token", b"fresh", until=clock.now() + 5, groups=("family",))
    found = await asyncio.gather(*(vault.swap("token", b"spent", until=clock.now() + 50) for _ in range(20)))
    assert sorted(found, key=str) == [b"fresh", *[b"spent"] * 19]
    clock.advance(20)
    assert await vault.page("family") == [("token", b"spent")]
    clock.advance(30)
    assert await vault.get("token") is None


async def test_groups_are_listed_in_pages(store: Store, clock: FakeClock) -> None:
    vault = store.vault
    for number in range(5):
        await vault.put(f"n{number}", b"%d" % number, until=clock.now() + 5 if number == 2 else 0, groups=("g",))
    clock.advance(6)
    first = await vault.page("g", limit=2)
    assert first == [("n0", b"0"), ("n1", b"1")]
    assert await vault.page("g", after=first[-1][0], limit=2) == [("n3", b"3"), ("n4", b"4")]
    assert await vault.page("other") == []
