"""What a session may do: active, in time, granted this API, this version, this path. And what `why` says otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiogate.testing import FakeClock, GatewayFixture, RecordingUpstream, Reply, running_gateway

NOW = 1_800_000_000.0

INACTIVE = (403, "key_inactive", "Key is inactive, please renew")
EXPIRED = (401, "key_expired", "Key has expired, please renew")
DENIED = (403, "access_denied", "Access to this API has been disallowed")
PATH = (403, "path_denied", "Access to this resource has been disallowed")
NO_VERSION = (403, "version_missing", "Version information not found")
UNKNOWN_VERSION = (403, "version_unknown", "This API version does not seem to exist")
VERSION_EXPIRED = (
    403, "version_expired", "Api Version has expired, please check documentation or contact administrator",
)  # fmt: skip
API_EXPIRED = (403, "api_expired", "API has expired, please check documentation or contact administrator")
TWO_VERSIONS = (400, "version_ambiguous", "The API version was given more than once")


def refused(reply: Reply, status: int, code: str, error: str) -> None:
    assert (reply.status, reply.code, reply.error) == (status, code, error)


def grant(**access: Any) -> dict[str, Any]:
    return {"access_rights": {"api": {"api_id": "api", **access}}}


@asynccontextmanager
async def serving(clock: FakeClock | None = None, **keys: str) -> AsyncIterator[GatewayFixture]:
    definition = "\n".join(("listen: /api/", "auth: key", *(f"{name}: {value}" for name, value in keys.items())))
    files = {
        "apis.d/api.yaml": definition if "upstream" in keys else definition + "\nplugins: [mock: welcome]",
        "apis.d/other.yaml": "{listen: /other/, auth: key, plugins: [mock: other]}",
        "apis.d/foreign.yaml": "{listen: /foreign/, org: acme, auth: [key, basic], plugins: [mock: foreign]}",
        "policies.d/gold.yaml": "{access: {api: {}}, rate: 5/1m}",
    }
    async with running_gateway(files, clock=clock or FakeClock(NOW)) as gateway:
        yield gateway


async def made(gateway: GatewayFixture, session: Mapping[str, Any], name: str = "a-chosen-key") -> str:
    reply = await gateway.tyk("POST", f"/tyk/keys/{name}", session)
    assert reply.status == 200, reply.text
    return str(reply.json["key"])


async def test_an_inactive_key() -> None:
    async with serving() as gateway:
        key = await made(gateway, {**grant(), "is_inactive": True})
        reply = await gateway.get("/api/", key=key)
        refused(reply, *INACTIVE)
        why = await gateway.why(reply)
        assert (why["step"], why["stage"], why["label"]) == ("access", "AUTHORISE", "")
        assert len(why["session"]) == 64


async def test_a_key_expires_at_its_second() -> None:
    clock = FakeClock(NOW)
    async with serving(clock) as gateway:
        key = await made(gateway, {**grant(), "expires": int(NOW) + 60})
        assert (await gateway.get("/api/", key=key)).status == 200
        clock.advance(59)
        assert (await gateway.get("/api/", key=key)).status == 200
        clock.advance(1)
        reply = await gateway.get("/api/", key=key)
        refused(reply, *EXPIRED)
        assert (await gateway.why(reply))["reason"] == "the session expired 0 s ago, at 2027-01-15T08:01:00Z"


async def test_a_key_for_another_api() -> None:
    async with serving() as gateway:
        key = await gateway.create_key("other")
        assert (await gateway.get("/other/", key=key)).status == 200
        reply = await gateway.get("/api/", key=key)
        refused(reply, *DENIED)
        assert (await gateway.why(reply))["reason"] == "API api is not granted; the session grants other"


async def test_allowed_urls_by_method_and_whole_path() -> None:
    rules = [{"url": "/users/[0-9]+", "methods": ["GET"]}, {"url": "^/open/", "methods": []}]
    async with serving() as gateway:
        key = await made(gateway, grant(allowed_urls=rules))
        for method, path, allowed in (
            ("GET", "/api/users/1", True),
            ("GET", "/api/users/1?x=/y", True),
            ("POST", "/api/users/1", False),
            ("GET", "/api/users/1/more", False),
            ("GET", "/api/x/users/1", False),
            ("DELETE", "/api/open/anything/below", True),
            ("GET", "/api//users//1", True),
            ("GET", "/api/%75sers/1", True),
            ("GET", "/api/", False),
        ):
            reply = await gateway.request(method, path, key=key)
            assert reply.status == (200 if allowed else 403), (method, path)
            if not allowed:
                refused(reply, *PATH)
        assert (await gateway.why(reply))["reason"] == "none of the 2 allowed paths matches GET /"


VERSIONS = "{by: %s, %slist: {v1: {expires: 2027-01-31T00:00:00Z}, v2: {upstream: '%s'}}}"


async def test_versions_by_header(upstream: RecordingUpstream) -> None:
    versions = VERSIONS % ("header", "name: X-Version, ", upstream.url + "two/")
    async with serving(versions=versions, upstream=upstream.url) as gateway:
        key = await made(gateway, grant(versions=["v1", "v2"]))
        for value, target in (("v1", "/x"), (" v2 ", "/two/x")):
            headers = {"X-Version": value}
            assert (await gateway.get("/api/x", key=key, headers=headers)).json["target"] == target
        refused(await gateway.get("/api/x", key=key), *NO_VERSION)
        unknown = await gateway.get("/api/x", key=key, headers={"X-Version": "v3"})
        refused(unknown, *UNKNOWN_VERSION)
        why = await gateway.why(unknown)
        assert (why["step"], why["stage"], why["reason"]) == (
            "versions", "VERSION", "the request asks for version 'v3'",
        )  # fmt: skip
        assert why["rule"].endswith("apis.d/api.yaml:3:1")


async def test_versions_by_query_with_a_default_and_two_answers(upstream: RecordingUpstream) -> None:
    versions = VERSIONS % ("query", "name: v, default: v2, ", upstream.url + "two/")
    async with serving(versions=versions, upstream=upstream.url) as gateway:
        key = await made(gateway, grant())
        assert (await gateway.get("/api/x?v=v1", key=key)).json["target"] == "/x?v=v1"
        assert (await gateway.get("/api/x", key=key)).json["target"] == "/two/x"
        refused(await gateway.get("/api/x?v=v1&v=v2", key=key), *TWO_VERSIONS)
        assert (await gateway.get("/api/x?v=v1&v=v1", key=key)).status == 200


@pytest.mark.parametrize("strip", [True, False])
async def test_versions_by_path(upstream: RecordingUpstream, strip: bool) -> None:
    versions = VERSIONS % ("path", "strip: true, " if strip else "", upstream.url + "two/")
    async with serving(versions=versions, upstream=upstream.url) as gateway:
        rules = [{"url": "/x" if strip else "/v[12]/x", "methods": []}]
        key = await made(gateway, grant(allowed_urls=rules))
        assert (await gateway.get("/api/v1/x", key=key)).json["target"] == ("/x" if strip else "/v1/x")
        assert (await gateway.get("/api/v2/x", key=key)).json["target"] == ("/two/x" if strip else "/two/v2/x")
        refused(await gateway.get("/api/x", key=key), *UNKNOWN_VERSION)
        refused(await gateway.get("/api/", key=key), *NO_VERSION)


async def test_a_version_that_is_not_granted(upstream: RecordingUpstream) -> None:
    versions = VERSIONS % ("header", "", upstream.url)
    async with serving(versions=versions, upstream=upstream.url) as gateway:
        key = await made(gateway, grant(versions=["v1"]))
        assert (await gateway.get("/api/", key=key, headers={"X-Api-Version": "v1"})).status == 200
        reply = await gateway.get("/api/", key=key, headers={"X-Api-Version": "v2"})
        refused(reply, *DENIED)
        assert (await gateway.why(reply))["reason"] == "version v2 of API api is not granted; the session grants v1"


async def test_a_version_expires(upstream: RecordingUpstream) -> None:
    clock = FakeClock(1_801_353_599.0)
    versions = VERSIONS % ("header", "", upstream.url)
    async with serving(clock, versions=versions, upstream=upstream.url) as gateway:
        key = await made(gateway, grant())
        v1, v2 = {"X-Api-Version": "v1"}, {"X-Api-Version": "v2"}
        assert (await gateway.get("/api/", key=key, headers=v1)).status == 200
        clock.advance(1)
        refused(await gateway.get("/api/", key=key, headers=v1), *VERSION_EXPIRED)
        # The version is looked at before the credential, as in Tyk.
        refused(await gateway.get("/api/", headers=v1), *VERSION_EXPIRED)
        assert (await gateway.get("/api/", key=key, headers=v2)).status == 200


async def test_an_api_expires() -> None:
    clock = FakeClock(1_801_353_599.0)
    async with serving(clock, expires="2027-01-31T00:00:00Z") as gateway:
        key = await made(gateway, grant())
        assert (await gateway.get("/api/", key=key)).status == 200
        clock.advance(1)
        refused(await gateway.get("/api/", key=key), *API_EXPIRED)


async def test_inactive_goes_before_expired_and_that_before_rights() -> None:
    clock = FakeClock(NOW)
    async with serving(clock) as gateway:
        session = {"access_rights": {"other": {}}, "expires": int(NOW) + 10}
        inactive = await made(gateway, {**session, "is_inactive": True})
        expired = await made(gateway, session, "another-key")
        clock.advance(10)
        refused(await gateway.get("/api/", key=inactive), *INACTIVE)
        refused(await gateway.get("/api/", key=expired), *EXPIRED)


async def test_why_names_the_other_organisation() -> None:
    async with serving() as gateway:
        generated = (await gateway.tyk("POST", "/tyk/keys", {**grant(), "org_id": "default"})).json["key"]
        reply = await gateway.get("/foreign/", key=generated)
        assert (reply.status, reply.code) == (403, "key_unknown")
        assert (await gateway.why(reply))["reason"] == "the key belongs to organisation 'default', the API to 'acme'"
        await gateway.create_user("anna", "test123", "api")
        reply = await gateway.get("/foreign/", user=("anna", "test123"))
        assert (reply.status, reply.code) == (401, "auth_failed")
        assert (await gateway.why(reply))["reason"] == (
            "the name exists in organisation 'default', the API belongs to 'acme'"
        )


async def test_a_policy_that_disappeared_refuses_and_why_names_it() -> None:
    async with serving() as gateway:
        key = await made(gateway, {"apply_policies": ["gold"]})
        assert (await gateway.get("/api/", key=key)).status == 200
        gateway.remove("policies.d/gold.yaml")
        assert (await gateway.reload()).ok
        reply = await gateway.get("/api/", key=key)
        refused(reply, 403, "key_unknown", "Access to this API has been disallowed")
        assert "gold" in (await gateway.why(reply))["reason"]


async def test_a_changed_policy_holds_for_cached_sessions_at_once() -> None:
    async with serving() as gateway:
        key = await made(gateway, {"apply_policies": ["gold"]})
        other = await gateway.create_key("api")
        for _ in range(3):
            assert (await gateway.get("/api/", key=key)).status == 200
            assert (await gateway.get("/api/", key=other)).status == 200
        assert (await gateway.reload({"policies.d/gold.yaml": "{access: {other: {}}, quota: 7/1h}"})).ok
        refused(await gateway.get("/api/", key=key), *DENIED)
        granted = await gateway.get("/other/", key=key)
        assert (granted.status, granted.headers["X-RateLimit-Limit"]) == (200, "7")
        assert (await gateway.reload({"policies.d/gold.yaml": "{access: {api: {}}, inactive: true}"})).ok
        refused(await gateway.get("/api/", key=key), *INACTIVE)
        assert (await gateway.get("/api/", key=other)).status == 200


async def test_a_request_to_an_unknown_api_has_a_record() -> None:
    async with serving() as gateway:
        reply = await gateway.get("/nowhere/at/all")
        why = await gateway.why(reply)
        assert (why["code"], why["step"], why["path"]) == ("not_found", "router", "/nowhere/at/all")
        assert why["reason"]
