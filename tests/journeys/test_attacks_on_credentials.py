"""Searches for credentials, and credentials that end while they are remembered (rows 42, 53 and 58)."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from aiogate.testing import FakeClock, GatewayFixture, Reply, running_gateway
from tests.builtin.test_hmac import signed

NOW = 1_700_000_000
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FILES = {
    **{f"apis.d/{name}.yaml": f"{{listen: /{name}/, auth: {auth}, plugins: [mock: hi]}}" for name, auth in {
        "key": "key", "basic": "basic", "hmac": "{hmac: {refuse_replays: false}}", "oauth": "oauth",
        "jwt": "{jwt: {algorithms: HS256, from_session: true}}",
    }.items()},
    "policies.d/gold.yaml": "access: {key: {}, basic: {}, hmac: {}, oauth: {}, jwt: {}}",
}  # fmt: skip


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[GatewayFixture, FakeClock]]:
    clock = FakeClock(NOW)
    async with running_gateway(FILES, clock=clock, **settings) as gateway:
        yield gateway, clock


async def test_42_whoever_searches_for_keys_learns_nothing_and_asks_the_store_once_a_key() -> None:
    async with serving(failures__address="20/1m") as (gateway, clock):
        await gateway.create_user("ann", "secret", "key")
        revoked = await gateway.create_key("key")
        await gateway.revoke(revoked)
        other = await gateway.create_key("key", name="other-org", org_id="acme")
        store = gateway.gateway.store.sessions
        reads: list[str] = []
        found = store.get

        async def get(name_hash: str) -> Any:
            reads.append(name_hash)
            return await found(name_hash)

        store.get = get  # type: ignore[method-assign]
        bodies = set()
        for key in ("unknown-key", revoked, other, "ann", "x", "%00", "a" * 5000, "../../etc/passwd", "' OR 1=1 --"):
            reply = await gateway.get("/key/", key=key)
            assert (reply.status, reply.code) == (403, "key_unknown"), key
            bodies.add(reply.body.replace(reply.request_id.encode(), b""))
        assert len(bodies) == 1
        reads.clear()
        replies = await asyncio.gather(*(gateway.get("/key/", key="a-key-that-died") for _ in range(100)))
        assert {reply.status for reply in replies} == {403}
        assert len(reads) == 2, "the key, and for `why` the one other organisation"
        statuses = [(await gateway.get("/key/", key=f"guess-{number:04}")).status for number in range(100)]
        assert statuses.count(403) == 10, "nine and the dead key had come before"
        assert statuses.count(429) == 90
        assert len(reads) == 22, "who waits is not looked up"
        clock.advance(60)
        assert (await gateway.get("/key/", key="guess-again")).status == 403


@pytest.mark.slow
async def test_58_names_that_never_come_again_are_forgotten_as_they_come() -> None:
    """Names and addresses that never come again, with more of them than all memories hold together."""
    async with serving() as (gateway, _):
        services, policies = gateway.gateway.services, gateway.gateway.current.table.policies

        async def flood(first: int, count: int) -> None:
            for number in range(first, first + count):
                address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
                name = f"guess-{number:032}"
                await services.sessions.find("default", name, policies)
                services.failures.wait(address, name, secret=True)
                services.failures.failed(address, name, secret=True)

        await flood(0, 60_000)
        before = resident()
        await flood(60_000, 60_000)
        assert resident() - before < 20 * 1024 * 1024
        assert (await gateway.get("/key/", key="guess-of-mine")).status == 403


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


Ask = Callable[[], Awaitable[Reply]]


async def everybody(gateway: GatewayFixture, clock: FakeClock, **session: Any) -> dict[str, tuple[str, Ask]]:
    """The name under which each kind of credential is stored, and a request with it."""
    from tests.credentials.issuer import SECRET as JWT_SECRET
    from tests.credentials.issuer import sign

    gold: dict[str, Any] = {"apply_policies": ["gold"], **session}
    key = await gateway.create_key(name="some-key", **gold)
    await gateway.create_user("ann", "secret", **gold)
    await gateway.create_key(name="client-1", hmac_enabled=True, hmac_string="hmac-secret-of-some-length", **gold)
    await gateway.create_key(name="partner", jwt_data={"secret": JWT_SECRET}, **gold)
    headers = {
        "basic": {"Authorization": f"Basic {b64encode(b'ann:secret').decode()}"},
        "key": {"Authorization": key},
        "jwt": {"Authorization": f"Bearer {sign({'exp': NOW + 9999}, kid='partner')}"},
    }

    def asking(name: str) -> Ask:
        return lambda: gateway.get(f"/{name}/", headers=headers[name])

    async def by_signature() -> Reply:
        from email.utils import formatdate

        date = {"Date": formatdate(clock.now(), usegmt=True)}
        return await gateway.get("/hmac/", headers=signed(date, secret="hmac-secret-of-some-length", target="/hmac/"))

    names = {"key": key, "basic": "ann", "jwt": "partner"}
    return {name: (stored, asking(name)) for name, stored in names.items()} | {"hmac": ("client-1", by_signature)}


async def test_53_what_is_deleted_is_refused_by_every_method_while_it_is_remembered() -> None:
    async with serving() as (gateway, clock):
        for stored, ask in (await everybody(gateway, clock)).values():
            assert [(await ask()).status for _ in range(3)] == [200] * 3
            await gateway.revoke(stored)
            assert (await ask()).status in (400, 401, 403), stored


async def test_53_what_is_inactive_is_refused_by_every_method_while_it_is_remembered() -> None:
    async with serving() as (gateway, clock):
        for stored, ask in (await everybody(gateway, clock)).values():
            assert (await ask()).status == 200
            document = (await gateway.tyk("GET", f"/tyk/keys/{stored}")).json
            for resting, code in ((True, "key_inactive"), (False, "")):
                changed = await gateway.tyk("PUT", f"/tyk/keys/{stored}", {**document, "is_inactive": resting})
                assert changed.status == 200, changed.text
                reply = await ask()
                assert (reply.status, reply.code if resting else "") == (403 if resting else 200, code), stored


async def test_53_what_expires_is_refused_by_every_method_at_its_second() -> None:
    async with serving() as (gateway, clock):
        asked = await everybody(gateway, clock, expires=NOW + 60)
        clock.advance(59)
        assert [(await ask()).status for _, ask in asked.values()] == [200] * 4
        clock.advance(1)
        for stored, ask in asked.values():
            reply = await ask()
            assert (reply.status, reply.code) == (401, "key_expired"), stored


async def test_53_tokens_of_a_client_end_with_it_while_they_are_remembered() -> None:
    async with serving() as (gateway, _):
        made = {"client_id": "app", "api_id": "oauth", "policy_id": "gold"}
        secret = (await gateway.tyk("POST", "/tyk/oauth/clients/create", made)).json["secret"]
        form = urlencode({"client_id": "app", "client_secret": secret, "grant_type": "client_credentials"}).encode()
        token = (await gateway.request("POST", "/oauth/oauth/token", data=form, headers=FORM)).json["access_token"]

        async def ask() -> Reply:
            return await gateway.get("/oauth/", headers={"Authorization": f"Bearer {token}"})

        assert [(await ask()).status for _ in range(3)] == [200] * 3
        await gateway.tyk("DELETE", "/tyk/oauth/clients/oauth/app")
        assert (await ask()).code == "client_revoked"
