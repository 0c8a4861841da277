"""The directory of sessions: what it remembers, and what it must forget."""

from __future__ import annotations

import asyncio

import pytest

from aiogate.domain.account import generate_key, stored_name
from aiogate.domain.policy import Policy, PolicySet
from aiogate.domain.session import AccessDefinition, Record, Session, parse_document
from aiogate.stores.base import StoreUnavailable
from aiogate.stores.memory import MemorySessions
from aiogate.stores.repositories import LookupFailure, SessionDirectory
from aiogate.testing.clock import FakeClock

NONE = PolicySet()


class Counted(MemorySessions):
    """Counts its reads, and can be made to wait or to fail."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.reads = 0
        self.gate: asyncio.Event | None = None
        self.broken = False

    async def get(self, name_hash: str) -> Record | None:
        self.reads += 1
        found = await super().get(name_hash)
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise StoreUnavailable("the disk failed")
        return found


@pytest.fixture
def sessions(clock: FakeClock) -> Counted:
    return Counted(clock)


@pytest.fixture
def directory(sessions: Counted, clock: FakeClock) -> SessionDirectory:
    return SessionDirectory(sessions, clock, capacity=3)


def record(name: str = "ada", org: str = "acme", *, delete_at: float = 0.0, **fields: object) -> Record:
    document = parse_document({"access_rights": {"login": {}}, **fields})
    return Record(stored_name(org, name), org, "key", name, document.stored(), delete_at=delete_at)


async def test_who_waits_for_the_same_read_gets_the_same_session(
    directory: SessionDirectory, sessions: Counted
) -> None:
    """A session of thousands of rights takes as long to make as thousands of requests: once, not for each of them."""
    await directory.put(record())
    sessions.gate = asyncio.Event()
    asking = [asyncio.ensure_future(directory.find("acme", "ada", NONE)) for _ in range(3)]
    others = asyncio.ensure_future(directory.find("acme", "ada", PolicySet()))
    await asyncio.sleep(0)
    sessions.gate.set()
    first, *rest = await asyncio.gather(*asking)
    assert isinstance(first, Session)
    assert all(found is first for found in rest)
    assert await others is not first
    assert sessions.reads == 1


async def test_a_session_is_read_once_and_then_shared(directory: SessionDirectory, sessions: Counted) -> None:
    await directory.put(record())
    assert directory.cached("acme", "ada", NONE) is None
    found = await directory.find("acme", "ada", NONE)
    assert isinstance(found, Session)
    assert directory.cached("acme", "ada", NONE) is found
    assert await directory.find("acme", "ada", NONE) is found
    assert sessions.reads == 1


async def test_many_who_ask_at_once_cause_one_read(directory: SessionDirectory, sessions: Counted) -> None:
    await directory.put(record())
    sessions.gate = asyncio.Event()
    asking = [asyncio.ensure_future(directory.find("acme", "ada", NONE)) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    sessions.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(answer, Session) for answer in answers[1:])
    assert sessions.reads == 1


async def test_a_write_is_seen_by_the_next_request(directory: SessionDirectory) -> None:
    await directory.put(record())
    await directory.find("acme", "ada", NONE)
    await directory.put(record(is_inactive=True))
    assert directory.cached("acme", "ada", NONE) is None
    found = await directory.find("acme", "ada", NONE)
    assert isinstance(found, Session)
    assert found.inactive


async def test_a_deleted_session_is_gone_at_once(directory: SessionDirectory) -> None:
    await directory.put(record())
    await directory.find("acme", "ada", NONE)
    assert await directory.delete(record().name_hash) is True
    assert isinstance(await directory.find("acme", "ada", NONE), LookupFailure)


async def test_a_read_that_a_write_overtook_is_not_kept(directory: SessionDirectory, sessions: Counted) -> None:
    await directory.put(record())
    sessions.gate = asyncio.Event()
    asking = asyncio.ensure_future(directory.find("acme", "ada", NONE))
    await asyncio.sleep(0.001)
    await directory.delete(record().name_hash)
    sessions.gate.set()
    found = await asking
    assert isinstance(found, LookupFailure)
    assert found.missing
    assert isinstance(directory.cached("acme", "ada", NONE), LookupFailure)


async def test_an_absent_name_is_remembered_for_five_seconds(
    directory: SessionDirectory, sessions: Counted, clock: FakeClock
) -> None:
    for _ in range(10):
        found = await directory.find("acme", "nobody", NONE)
        assert isinstance(found, LookupFailure)
        assert found.missing
    assert sessions.reads == 1
    clock.advance(5)
    await directory.find("acme", "nobody", NONE)
    assert sessions.reads == 2


async def test_an_absent_name_that_is_written_is_found_at_once(directory: SessionDirectory) -> None:
    await directory.find("acme", "ada", NONE)
    await directory.put(record())
    assert isinstance(await directory.find("acme", "ada", NONE), Session)


async def test_absent_names_are_bounded(directory: SessionDirectory, sessions: Counted) -> None:
    """Row 58."""
    for number in range(10_050):
        await directory.find("acme", f"nobody{number}", NONE)
    reads = sessions.reads
    await directory.find("acme", "nobody10049", NONE)
    assert sessions.reads == reads
    await directory.find("acme", "nobody0", NONE)
    assert sessions.reads == reads + 1


async def test_the_least_recently_used_session_goes_first(directory: SessionDirectory) -> None:
    for name in ("one", "two", "three"):
        await directory.put(record(name))
        await directory.find("acme", name, NONE)
    directory.cached("acme", "one", NONE)
    await directory.put(record("four"))
    await directory.find("acme", "four", NONE)
    assert len(directory) == 3
    assert directory.cached("acme", "two", NONE) is None
    assert directory.cached("acme", "one", NONE) is not None


async def test_a_session_past_its_end_is_gone(directory: SessionDirectory, clock: FakeClock) -> None:
    await directory.put(record(delete_at=clock.now() + 10))
    assert isinstance(await directory.find("acme", "ada", NONE), Session)
    assert isinstance(directory.cached("acme", "ada", NONE), Session)
    clock.advance(10)
    assert directory.cached("acme", "ada", NONE) is None
    assert isinstance(await directory.find("acme", "ada", NONE), LookupFailure)


def gold(**fields: float) -> Policy:
    return Policy("gold", org="acme", access={"login": AccessDefinition()}, **fields)  # type: ignore[arg-type]


async def test_a_new_set_of_policies_is_laid_over_anew(directory: SessionDirectory) -> None:
    await directory.put(record(apply_policies=["gold"]))
    slow, fast = PolicySet([gold(rate=1, per=1)]), PolicySet([gold(rate=9, per=1)])
    for policies, limit in ((slow, 1), (fast, 9)):
        found = await directory.find("acme", "ada", policies)
        assert isinstance(found, Session)
        assert found.grants["login"].buckets[0].limit == limit


async def test_a_new_set_that_changes_nothing_for_a_session_costs_no_read(
    directory: SessionDirectory, sessions: Counted
) -> None:
    await directory.put(record(apply_policies=["gold"]))
    found = await directory.find("acme", "ada", PolicySet([gold(rate=1, per=1)]))
    other = PolicySet([gold(rate=1, per=1), Policy("silver")])
    assert directory.cached("acme", "ada", other) is found
    assert sessions.reads == 1


async def test_a_policy_that_disappears_refuses_and_one_that_returns_admits(directory: SessionDirectory) -> None:
    await directory.put(record(apply_policies=["gold"]))
    failure = await directory.find("acme", "ada", NONE)
    assert isinstance(failure, LookupFailure)
    assert failure.reason == "policy not found: gold"
    assert not failure.missing
    assert directory.cached("acme", "ada", NONE) is failure
    assert isinstance(await directory.find("acme", "ada", PolicySet([gold()])), Session)


async def test_a_record_that_cannot_be_read_refuses(directory: SessionDirectory, sessions: Counted) -> None:
    broken = Record(stored_name("acme", "ada"), "acme", "key", "", b'{"rate": "many"}')
    await directory.put(broken)
    failure = await directory.find("acme", "ada", NONE)
    assert isinstance(failure, LookupFailure)
    assert "cannot be read: rate" in failure.reason


async def test_a_store_that_fails_is_told_and_not_remembered(directory: SessionDirectory, sessions: Counted) -> None:
    await directory.put(record())
    sessions.broken = True
    with pytest.raises(StoreUnavailable):
        await directory.find("acme", "ada", NONE)
    sessions.broken = False
    assert isinstance(await directory.find("acme", "ada", NONE), Session)


async def test_why_a_name_is_missing(directory: SessionDirectory, sessions: Counted) -> None:
    key = generate_key("other")
    await directory.put(record("ada"))
    await directory.put(record("bob", "other"))
    await directory.put(record(key, "other"))
    assert "exists in organisation 'other'" in await directory.explain_missing("acme", "bob")
    assert "belongs to organisation 'other'" in await directory.explain_missing("acme", key)
    assert "ends in a blank or a line break" in await directory.explain_missing("acme", "ada\n")
    await directory.find("acme", "nobody", NONE)
    assert "no record of that name" in await directory.explain_missing("acme", "nobody")
    failure = directory.cached("acme", "nobody", NONE)
    assert isinstance(failure, LookupFailure)
    assert failure.reason == "there is no record of that name in organisation 'acme'"


async def test_42_why_a_name_is_missing_is_found_out_once(
    directory: SessionDirectory, sessions: Counted, clock: FakeClock
) -> None:
    await directory.put(record("ada", "other"))
    await directory.find("acme", "nobody", NONE)
    sessions.reads = 0
    said = await asyncio.gather(*(directory.explain_missing("acme", "nobody") for _ in range(20)))
    assert set(said) == {"there is no record of that name in organisation 'acme'"}
    assert sessions.reads == 1
    first = asyncio.ensure_future(directory.explain_missing("acme", "somebody"))
    second = asyncio.ensure_future(directory.explain_missing("acme", "somebody"))
    await asyncio.sleep(0)
    first.cancel()
    assert "no record" in await second, "who goes away takes the answer from nobody"
    clock.advance(5)
    sessions.reads = 0
    await directory.explain_missing("acme", "nobody")
    assert sessions.reads == 1


async def test_names_of_two_organisations_are_two_names(directory: SessionDirectory) -> None:
    await directory.put(record("ada", "acme"))
    assert isinstance(await directory.find("other", "ada", NONE), LookupFailure)
    assert isinstance(await directory.find("acme", "ada", NONE), Session)


async def test_bytes_that_are_not_text_are_a_name_like_any_other(directory: SessionDirectory) -> None:
    assert isinstance(await directory.find("acme", "caf\udce9", NONE), LookupFailure)


async def test_pages_go_through(directory: SessionDirectory) -> None:
    await directory.put(record("ada"))
    assert [one.label for one in await directory.page(org="acme", api="login")] == ["ada"]
    assert await directory.count(prefix="a") == 1
    assert await directory.organisations() == ["acme"]
    found = await directory.get_record(record("ada").name_hash)
    assert found is not None


@pytest.fixture
def shared(sessions: Counted, clock: FakeClock) -> SessionDirectory:
    """A directory before a store that others write too."""
    return SessionDirectory(sessions, clock, fresh=10.0, stale=60.0)


async def test_a_record_that_others_may_write_is_read_again(
    shared: SessionDirectory, sessions: Counted, clock: FakeClock
) -> None:
    await sessions.put(record())
    await shared.find("acme", "ada", NONE)
    clock.advance(9.9)
    assert isinstance(shared.cached("acme", "ada", NONE), Session)
    await sessions.delete(record().name_hash)
    clock.advance(0.1)
    assert shared.cached("acme", "ada", NONE) is None
    assert isinstance(await shared.find("acme", "ada", NONE), LookupFailure)


async def test_a_record_is_used_on_for_a_while_when_the_store_is_away(
    shared: SessionDirectory, sessions: Counted, clock: FakeClock
) -> None:
    await sessions.put(record())
    found = await shared.find("acme", "ada", NONE)
    sessions.broken = True
    clock.advance(59)
    assert await shared.find("acme", "ada", NONE) is found
    # Not every request asks a store that does not answer.
    reads = sessions.reads
    clock.advance(0.9)
    assert shared.cached("acme", "ada", NONE) is found
    assert sessions.reads == reads
    clock.advance(0.2)
    with pytest.raises(StoreUnavailable):
        await shared.find("acme", "ada", NONE)
    with pytest.raises(StoreUnavailable):
        await shared.find("acme", "grace", NONE)
    sessions.broken = False
    assert isinstance(await shared.find("acme", "ada", NONE), Session)


async def test_a_record_with_an_end_is_not_used_on_past_it(
    shared: SessionDirectory, sessions: Counted, clock: FakeClock
) -> None:
    await sessions.put(record(delete_at=clock.now() + 20))
    await shared.find("acme", "ada", NONE)
    sessions.broken = True
    clock.advance(20)
    with pytest.raises(StoreUnavailable):
        await shared.find("acme", "ada", NONE)


async def test_after_a_gap_nothing_is_believed_but_used_on(
    shared: SessionDirectory, sessions: Counted, clock: FakeClock
) -> None:
    await sessions.put(record())
    found = await shared.find("acme", "ada", NONE)
    await shared.find("acme", "grace", NONE)
    clock.advance(1)
    shared.distrust()
    assert shared.cached("acme", "ada", NONE) is shared.cached("acme", "grace", NONE) is None
    sessions.broken = True
    assert await shared.find("acme", "ada", NONE) is found
    sessions.broken = False
    await sessions.delete(record().name_hash)
    assert isinstance(await shared.find("acme", "ada", NONE), LookupFailure)


async def test_a_read_that_began_before_a_gap_is_not_believed(shared: SessionDirectory, sessions: Counted) -> None:
    await sessions.put(record())
    sessions.gate = asyncio.Event()
    asking = asyncio.ensure_future(shared.find("acme", "ada", NONE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    shared.distrust()
    await sessions.delete(record().name_hash)
    sessions.gate.set()
    assert isinstance(await asking, LookupFailure)


async def test_every_write_is_announced(sessions: Counted, clock: FakeClock) -> None:
    announced: list[str] = []
    directory = SessionDirectory(sessions, clock, announce=announced.append)
    await directory.put(record())
    await directory.delete(record().name_hash)
    assert announced == [record().name_hash] * 2
