"""Who gets in, by which credential, and what everybody else is told."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aiogate.testing import GatewayFixture, RecordingUpstream, Reply, running_gateway

CHALLENGE = 'Basic realm="Login", charset="UTF-8"'


def basic(text: str | bytes) -> dict[str, str]:
    data = text.encode() if isinstance(text, str) else text
    return {"Authorization": "Basic " + base64.b64encode(data).decode()}


@asynccontextmanager
async def api(auth: str, upstream: str = "", **keys: str) -> AsyncIterator[GatewayFixture]:
    """A gateway with the API `api` at `/api/`."""
    lines = ["listen: /api/", f"auth: {auth}", *(f"{key}: {value}" for key, value in keys.items())]
    lines.append(f"upstream: {upstream}" if upstream else "plugins: [mock: welcome]")
    async with running_gateway({"apis.d/api.yaml": "\n".join(lines)}) as gateway:
        yield gateway


def refused(reply: Reply, status: int, code: str, error: str) -> None:
    assert (reply.status, reply.code, reply.error) == (status, code, error)
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json["request_id"] == reply.request_id


DISALLOWED = (403, "key_unknown", "Access to this API has been disallowed")
MISSING = (401, "auth_missing", "Authorization field missing")
FAILED = (401, "auth_failed", "User not authorised")
AMBIGUOUS = (400, "auth_ambiguous", "Credential was presented more than once")


async def test_a_key_in_its_header_bare_or_as_a_bearer() -> None:
    async with api("key") as gateway:
        key = await gateway.create_key("api")
        for value in (key, f"Bearer {key}", f"bearer {key}"):
            assert (await gateway.get("/api/", key=value)).body == b"welcome"
        refused(await gateway.get("/api/"), *MISSING)
        assert "WWW-Authenticate" not in (await gateway.get("/api/")).headers
        for wrong in ("x", "unknown-key", key[:-1], key.swapcase(), "Bearer", "%00", "é" * 40, "k" * 7000):
            refused(await gateway.get("/api/", key=wrong), *DISALLOWED)


async def test_a_key_in_header_query_or_cookie() -> None:
    async with api("{key: {header: X-Key, query: api_key, cookie: key}}") as gateway:
        key = await gateway.create_key("api", name="plain-key-1")
        await gateway.create_key("api", name="plain-key-2")
        assert (await gateway.get("/api/", headers={"X-Key": key})).status == 200
        assert (await gateway.get(f"/api/?api_key={key}")).status == 200
        assert (await gateway.get("/api/", headers={"Cookie": f"a=b; key={key}"})).status == 200
        assert (await gateway.get(f"/api/?api_key={key}", headers={"X-Key": key})).status == 200
        for path, headers in (
            ("/api/?api_key=plain-key-2", {"X-Key": key}),
            ("/api/?api_key=plain-key-1&api_key=plain-key-2", {}),
            ("/api/?api_key=plain-key-1", {"Cookie": "key=plain-key-2"}),
        ):
            refused(await gateway.get(path, headers=headers), *AMBIGUOUS)
        refused(await gateway.get("/api/", key=key), *MISSING)


async def test_basic_by_its_rules() -> None:
    async with api("{basic: {realm: Login}}") as gateway:
        await gateway.create_user("anna", "pass:word:ü", "api")
        await gateway.create_user("ben@example.com", "x" * 72, "api")
        assert (await gateway.get("/api/", headers=basic("anna:pass:word:ü"))).status == 200
        assert (await gateway.get("/api/", headers=basic("ben@example.com:" + "x" * 72))).status == 200
        missing = await gateway.get("/api/")
        refused(missing, *MISSING)
        assert missing.headers["WWW-Authenticate"] == CHALLENGE
        for wrong in (
            "anna:pass:word:u", "anna:", "Anna:pass:word:ü", "nobody:pass:word:ü", ":", "anna:pass:word:ü\n",
            "ben@example.com:" + "x" * 73, "anna:\0", b"anna:\xff", "anna:" + "y" * 5000,
        ):  # fmt: skip
            reply = await gateway.get("/api/", headers=basic(wrong))
            refused(reply, *FAILED)
            assert reply.headers["WWW-Authenticate"] == CHALLENGE


@pytest.mark.parametrize(
    "value, words",
    [
        ("Basic", "header not in basic auth format"),
        ("Basic a b", "header not in basic auth format"),
        ("Basic !!!", "auth data not encoded correctly"),
        ("Basic " + base64.b64encode(b"anna").decode(), "values not in basic auth format"),
        ("one-word", "header not in basic auth format"),
    ],
)
async def test_what_is_not_basic_at_all(value: str, words: str) -> None:
    async with api("basic") as gateway:
        reply = await gateway.get("/api/", headers={"Authorization": value})
        refused(reply, 400, "auth_malformed", f"Attempted access with malformed header, {words}")


async def test_a_user_name_with_a_colon_cannot_be_made() -> None:
    async with api("basic") as gateway:
        session = {"access_rights": {"api": {}}, "basic_auth_data": {"password": "x"}}
        reply = await gateway.tyk("POST", "/tyk/keys/an%3Ana", session)
        assert (reply.status, ":" in reply.json["message"]) == (400, True)
        reply = await gateway.tyk("POST", "/tyk/keys/anna", {**session, "basic_auth_data": {"password": "x" * 73}})
        assert reply.status == 400


async def test_any_of_takes_the_first_kind_that_is_present() -> None:
    async with api("[basic: {realm: Login}, key: {header: Authorization, query: api_key}]") as gateway:
        key = await gateway.create_key("api")
        await gateway.create_user("anna", "test123", "api")
        assert (await gateway.get("/api/", key=key)).status == 200
        assert (await gateway.get("/api/", user=("anna", "test123"))).status == 200
        refused(await gateway.get("/api/", user=("anna", "wrong")), *FAILED)
        # No falling through: the wrong password decides, though the query holds a good key.
        refused(await gateway.get(f"/api/?api_key={key}", user=("anna", "wrong")), *FAILED)
        missing = await gateway.get("/api/")
        refused(missing, *MISSING)
        assert missing.headers["WWW-Authenticate"] == CHALLENGE


@pytest.mark.parametrize("auth", ["[basic, key]", "[key, basic]"])
async def test_a_stored_record_is_accepted_by_its_own_kind_only(auth: str) -> None:
    """Row 53a: a user's bare name is not a key, and a key is not a user."""
    async with api(auth) as gateway:
        await gateway.create_user("anna", "test123", "api")
        key = await gateway.create_key("api", name="a-chosen-key")
        for value in ("anna", "Bearer anna"):
            reply = await gateway.get("/api/", key=value)
            refused(reply, *DISALLOWED)
            assert "of kind basic (anna), which is not accepted as a key" in (await gateway.why(reply))["reason"]
        for password in ("", key, "test123"):
            reply = await gateway.get("/api/", user=(key, password))
            refused(reply, *FAILED)
            assert "kind key, not to a basic-auth user" in (await gateway.why(reply))["reason"]


async def test_all_of_needs_every_credential(upstream: RecordingUpstream) -> None:
    auth = "{all: [basic: {realm: Login}, key: {header: X-Key}], session_from: key}"
    async with api(auth, upstream.url) as gateway:
        await gateway.create_user("anna", "test123", "api", quota_max=5)
        key = await gateway.create_key("api", quota_max=9, quota_renewal_rate=60)
        both = {"X-Key": key}
        granted = await gateway.get("/api/", user=("anna", "test123"), headers=both)
        assert (granted.status, granted.headers["X-RateLimit-Limit"]) == (200, "9")
        only_key = await gateway.get("/api/", headers=both)
        refused(only_key, *MISSING)
        assert only_key.headers["WWW-Authenticate"] == CHALLENGE
        refused(await gateway.get("/api/", user=("anna", "test123")), *MISSING)
        refused(await gateway.get("/api/", user=("anna", "wrong"), headers=both), *FAILED)
        refused(await gateway.get("/api/", user=("anna", "test123"), headers={"X-Key": "nonsense"}), *DISALLOWED)
    assert len(upstream.received) == 1


async def test_all_of_without_a_choice_takes_the_first_session() -> None:
    async with api("{all: [basic, key: {header: X-Key}]}") as gateway:
        await gateway.create_user("anna", "test123", "api", quota_max=5)
        key = await gateway.create_key("api", quota_max=9)
        granted = await gateway.get("/api/", user=("anna", "test123"), headers={"X-Key": key})
        assert (granted.status, granted.headers["X-RateLimit-Limit"]) == (200, "5")


async def test_credentials_stay_here_when_they_should(upstream: RecordingUpstream) -> None:
    auth = "{key: {header: X-Key, query: api_key, cookie: key}}"
    for strip, seen in (("true", False), ("false", True)):
        async with api(auth, upstream.url, strip_credentials=strip) as gateway:
            key = await gateway.create_key("api", name="a-plain-key")
            headers = {"X-Key": key, "Cookie": f"a=1; key={key}; b=2"}
            assert (await gateway.get(f"/api/x?y=1&api_key={key}&z=2", headers=headers)).status == 200
            received = upstream.last
            assert (key in received.target, "X-Key" in received.headers) == (seen, seen)
            assert received.headers["Cookie"] == (headers["Cookie"] if seen else "a=1; b=2")
            assert received.target == ("/x?y=1&api_key=a-plain-key&z=2" if seen else "/x?y=1&z=2")


async def test_two_authorization_headers_are_refused() -> None:
    async with api("key") as gateway:
        key = await gateway.create_key("api")
        host, port = gateway.gateway.listen_addresses[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /api/ HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\nAuthorization: b\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()


async def test_a_revoked_key_is_refused_on_the_very_next_request() -> None:
    """Row 53."""
    async with api("[basic, key]") as gateway:
        key = await gateway.create_key("api")
        await gateway.create_user("anna", "test123", "api")
        for _ in range(5):
            assert (await gateway.get("/api/", key=key)).status == 200
            assert (await gateway.get("/api/", user=("anna", "test123"))).status == 200
        await gateway.revoke(key)
        refused(await gateway.get("/api/", key=key), *DISALLOWED)
        await gateway.revoke("anna")
        refused(await gateway.get("/api/", user=("anna", "test123")), *FAILED)
        await gateway.create_user("anna", "test123", "api")
        assert (await gateway.get("/api/", user=("anna", "test123"))).status == 200


async def test_a_refusal_speaks_xml_to_whoever_speaks_xml() -> None:
    async with api("key") as gateway:
        reply = await gateway.request("POST", "/api/", headers={"Content-Type": "text/xml"}, data="<a/>")
        assert reply.status == 401
        assert reply.headers["Content-Type"] == "application/xml"
        assert "<message>Authorization field missing</message><code>auth_missing</code>" in reply.text


async def test_an_open_api_sends_no_quota_headers_and_asks_for_nothing() -> None:
    async with api("none") as gateway:
        reply = await gateway.get("/api/", key="whatever")
        assert reply.body == b"welcome"
        assert not [name for name in reply.headers if name.lower().startswith("x-ratelimit")]
