"""An organisation's own session: active or not, a rate and a quota over all its keys and APIs, all buckets or none."""

from __future__ import annotations

import asyncio

import pytest

from aiogate.testing import FakeClock, running_gateway

FILES = {
    "apis.d/a.yaml": "{listen: /a/, auth: key, plugins: [mock: a]}",
    "apis.d/b.yaml": "{listen: /b/, auth: none, plugins: [mock: b]}",
    "apis.d/v.yaml": "{listen: /v/, auth: none, versions: {by: path, list: {v1: {}}}, plugins: [mock: v]}",
    "apis.d/foreign.yaml": "{org: acme, listen: /f/, auth: none, plugins: [mock: f]}",
}
ORG = "/tyk/org/keys/default"


@pytest.fixture
async def gateway():
    async with running_gateway(FILES, clock=FakeClock()) as running:
        yield running


async def steps(gateway, api="b"):
    chains = (await gateway.tyk("GET", f"/tyk/chains/{api}")).json
    return [step["name"] for step in chains[0]["steps"]]


async def test_an_inactive_organisation_is_closed_at_once(gateway):
    key = await gateway.create_key("a")
    assert (await gateway.tyk("PUT", ORG, {"is_inactive": True})).json["action"] == "added"
    for path in ("/a/", "/b/", "/v/v1/"):
        answer = await gateway.get(path, key=key)
        assert (answer.status, answer.code) == (403, "organisation_inactive")
        assert answer.error == "this organisation access has been disabled, please contact your API administrator"
    # Before authentication, as in Tyk, and after the version.
    assert (await gateway.get("/a/")).code == "organisation_inactive"
    assert (await gateway.get("/v/v9/")).code == "version_unknown"
    assert (await gateway.get("/f/")).status == 200
    assert (await gateway.why(await gateway.get("/b/")))["step"] == "organisation"
    assert (await gateway.tyk("PUT", ORG, {"is_inactive": False})).json["action"] == "modified"
    assert (await gateway.get("/a/", key=key)).status == 200


async def test_the_quota_is_over_all_keys_and_apis_and_taken_with_all_other_limits(gateway):
    keys = [await gateway.create_key("a", quota_max=2, quota_renewal_rate=60) for _ in range(2)]
    await gateway.tyk("POST", ORG, {"quota_max": 4, "quota_renewal_rate": 60})
    assert [(await gateway.get("/a/", key=keys[0])).status for _ in range(2)] == [200, 200]
    # The key's own quota refuses: nothing of the organisation's is spent.
    assert [(await gateway.get("/a/", key=keys[0])).code for _ in range(3)] == ["quota_exceeded"] * 3
    assert (await gateway.tyk("GET", ORG)).json["quota_remaining"] == 2
    assert [(await gateway.get("/b/")).status for _ in range(2)] == [200, 200]
    refused = await gateway.get("/a/", key=keys[1])
    assert (refused.status, refused.code) == (403, "organisation_quota_exceeded")
    assert refused.error == "This organisation quota has been exceeded, please contact your API administrator"
    assert refused.headers["Retry-After"] == "60"
    # And the other way round: the key's quota was not spent.
    assert refused.headers["X-RateLimit-Remaining"] == "2"
    assert (await gateway.get("/f/")).status == 200


async def test_the_rate_and_its_message(gateway):
    await gateway.tyk("POST", ORG, {"rate": 2, "per": 10})
    assert [(await gateway.get("/b/")).status for _ in range(2)] == [200, 200]
    refused = await gateway.get("/b/")
    assert (refused.status, refused.code) == (403, "organisation_rate_limited")
    assert refused.error == "This organisation rate limit has been exceeded, please contact your API administrator"
    assert "X-RateLimit-Limit" not in refused.headers
    gateway.gateway.clock.advance(10)
    assert (await gateway.get("/b/")).status == 200


async def test_many_at_once_are_counted_exactly(gateway):
    await gateway.tyk("POST", ORG, {"quota_max": 10, "quota_renewal_rate": 60})
    answers = await asyncio.gather(*(gateway.get("/b/") for _ in range(40)))
    assert sorted(answer.status for answer in answers) == [200] * 10 + [403] * 30


async def test_quota_status_holds_for_organisations_too():
    async with running_gateway(FILES, quota_status=429) as gateway:
        await gateway.tyk("POST", ORG, {"quota_max": 1})
        assert [(await gateway.get("/b/")).status for _ in range(2)] == [200, 429]


async def test_counters_start_anew_when_asked_to_and_when_the_limit_changes(gateway):
    async def spend():
        return [(await gateway.get("/b/")).status for _ in range(2)]

    one = {"quota_max": 1, "quota_renewal_rate": 60}
    await gateway.tyk("POST", ORG, one)
    assert await spend() == [200, 403]
    await gateway.tyk("PUT", ORG, one)
    assert await spend() == [403, 403]
    await gateway.tyk("PUT", f"{ORG}?reset_quota=1", one)
    assert await spend() == [200, 403]
    await gateway.tyk("PUT", f"{ORG}?suppress_reset=1", {**one, "quota_max": 2})
    assert await spend() == [200, 403]
    await gateway.tyk("PUT", ORG, one)
    assert await spend() == [200, 403]


async def test_an_api_pays_only_while_its_organisation_has_a_session(gateway):
    assert await steps(gateway) == ["mock", "no_upstream"]
    await gateway.tyk("POST", ORG, {"rate": 5, "per": 1})
    assert await steps(gateway) == ["organisation", "limits", "mock", "no_upstream"]
    assert await steps(gateway, "foreign") == ["mock", "no_upstream"]
    await gateway.reload({"apis.d/b.yaml": "{listen: /b/, auth: none, plugins: [mock: new]}"})
    assert await steps(gateway) == ["organisation", "limits", "mock", "no_upstream"]
    assert (await gateway.tyk("DELETE", ORG)).json == {"key": "default", "status": "ok", "action": "deleted"}
    assert await steps(gateway) == ["mock", "no_upstream"]


async def test_the_calls_of_org_keys(gateway):
    assert (await gateway.tyk("GET", ORG)).json == {"status": "error", "message": "Org not found"}
    assert (await gateway.tyk("DELETE", ORG)).status == 404
    for org in ("default", "acme", "acme2"):
        await gateway.tyk("POST", f"/tyk/org/keys/{org}", {"rate": 5, "per": 1, "data_expires": 60})
    assert (await gateway.tyk("GET", "/tyk/org/keys")).json == {"keys": ["acme", "acme2", "default"]}
    assert (await gateway.tyk("GET", "/tyk/org/keys?filter=acme")).json == {"keys": ["acme", "acme2"]}
    shown = (await gateway.tyk("GET", "/tyk/org/keys/acme")).json
    assert (shown["org_id"], shown["rate"], shown["data_expires"]) == ("acme", 5, 60)
    for body in ({"rate": "x"}, {"rate": 5}, []):
        assert (await gateway.tyk("POST", ORG, body)).json["message"] == "Request malformed"
    assert (await gateway.tyk("POST", "/tyk/org/keys/a%20b", {})).status == 400


async def test_no_key_call_reaches_an_organisations_session(gateway):
    await gateway.tyk("POST", ORG, {"rate": 5, "per": 1})
    records = await gateway.gateway.organisations.records()
    for path in (f"/tyk/keys/{records[0].name_hash}", "/tyk/keys/default?org_id=%20organisation%20sessions"):
        for method in ("GET", "DELETE"):
            assert (await gateway.tyk(method, path)).status in (400, 404)
    assert (await gateway.tyk("GET", "/tyk/keys")).json == {"keys": []}
    assert (await gateway.dashboard("GET", "/api/keys")).json["data"] == {"keys": []}


async def test_a_session_of_an_organisation_outlives_the_process(tmp_path):
    for expected in (200, 403):
        async with running_gateway(FILES, folder=tmp_path, store="sqlite") as gateway:
            if expected == 200:
                await gateway.tyk("POST", ORG, {"quota_max": 1})
            assert (await gateway.get("/b/")).status == expected
