"""Certificates in a vault that several gateways share."""

from __future__ import annotations

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from aiogate.credentials.certificates import CertificateStore
from aiogate.stores.base import StoreUnavailable
from aiogate.stores.certificates import SharedCertificates
from aiogate.stores.memory import MemoryStore
from aiogate.testing import FakeClock

PEM = trustme.CA().issue_cert("a.example.com").cert_chain_pems[0].bytes()


class Shaky:
    """A vault that can be away."""

    def __init__(self, vault):
        self._vault = vault
        self.away_from = None

    def __getattr__(self, name):
        if self.away_from is not None:
            if not self.away_from:
                raise StoreUnavailable("away")
            self.away_from -= 1
        return getattr(self._vault, name)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def vault(clock):
    return Shaky(MemoryStore(clock).vault)


def shared(vault, clock):
    return SharedCertificates(vault, clock, stale=300.0)


async def test_what_one_writes_the_other_knows_when_it_has_looked(vault, clock):
    mine, other = shared(vault, clock), shared(vault, clock)
    first, second = CertificateStore(mine), CertificateStore(other)
    await mine.look()
    await other.look()
    identifier = await first.add("acme", PEM)
    assert first.holds(identifier)
    assert not second.holds(identifier)
    await other.look()
    assert second.holds(identifier)
    assert (await second.show(identifier)).dns_names == ("a.example.com",)
    assert await second.remove(identifier)
    assert not second.holds(identifier)
    await mine.look()
    assert first.ids() == second.ids() == []


async def test_more_than_a_page_of_them_is_read(vault, clock):
    mine, other = shared(vault, clock), shared(vault, clock)
    wanted = {f"acme{number:064x}" for number in range(450)}
    for one in wanted:
        await mine.write(one, b"")
    await other.look()
    assert set(other.known()) == wanted


async def test_without_the_store_it_is_known_for_a_while_and_then_nothing_is(vault, clock):
    place = shared(vault, clock)
    store = CertificateStore(place)
    with pytest.raises(StoreUnavailable):
        store.holds("acme")
    await place.look()
    identifier = await store.add("acme", PEM)
    vault.away_from = 0
    clock.advance(299)
    with pytest.raises(StoreUnavailable):
        await place.look()
    assert store.holds(identifier)
    clock.advance(2)
    with pytest.raises(StoreUnavailable):
        store.holds(identifier)


@pytest.mark.parametrize("steps", [1, 2])
async def test_a_removal_that_was_cut_short_can_be_repeated(vault, clock, steps):
    mine, other = shared(vault, clock), shared(vault, clock)
    store = CertificateStore(mine)
    await mine.look()
    identifier = await store.add("acme", PEM)
    await other.look()
    vault.away_from = steps - 1
    with pytest.raises(StoreUnavailable):
        await store.remove(identifier)
    vault.away_from = None
    assert await store.remove(identifier)
    await other.look()
    assert identifier not in other.known()


async def test_what_left_no_mark_is_found_in_the_end(vault, clock):
    mine, other = shared(vault, clock), shared(vault, clock)
    await mine.write("acme", b"")
    await other.look()
    await vault.take("certificate:acme")
    await other.look()
    assert "acme" in other.known()
    clock.advance(30)
    await other.look()
    assert "acme" not in other.known()


async def test_a_private_key_is_kept_encrypted(vault, clock):
    leaf = trustme.CA().issue_cert("a.example.com")
    place = shared(vault, clock)
    store = CertificateStore(place, seal="the control secret")
    await place.look()
    text = leaf.private_key_pem.bytes()
    identifier = await store.add("acme", text + leaf.cert_chain_pems[0].bytes() + b"and a word")
    kept = await place.read(identifier)
    assert kept.count(b"-----BEGIN ") == 2
    assert kept.startswith(leaf.cert_chain_pems[0].bytes())
    assert b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in kept
    opened = load_pem_private_key(kept, b"the control secret")
    assert opened.private_numbers() == load_pem_private_key(text, None).private_numbers()
    assert (await store.show(identifier)).has_private
