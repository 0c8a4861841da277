"""Planted secrets, taken through every way in and every way to fail at log level DEBUG: none of them comes out again.

A secret may be in the reply that made it. What a caller put into a session or a definition as data is shown to whoever
may read that very thing, and is nowhere else. A store holds what is compared as it is (HMAC and JWT secrets) and
hashes of everything else.
"""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiogate.testing import GatewayFixture, RecordingUpstream, Reply, running_gateway

FILES = {
    "apis.d/every.yaml": """
        id: every
        listen: /every/
        upstream: UPSTREAM
        auth:
          - key: {header: X-Key, query: api_key, cookie: key}
          - basic
          - jwt: {key: "${CANARY_JWT}", algorithms: HS256, default_policies: [gold]}
        strip_credentials: true
        plugins:
          - request_headers: {set: {X-Upstream-Token: "${CANARY_UPSTREAM}", X-File: "${file:SECRET_FILE}"}}
          - size_limit: 1KiB
          - paths: {block: [/blocked]}
    """,
    "apis.d/both.yaml": "{listen: /both/, auth: {all: [basic, key: {header: X-Key}]}, plugins: [mock: both]}",
    "apis.d/own.yaml": "{listen: /own/, auth: {jwt: {from_session: true, algorithms: HS256}}, plugins: [mock: own]}",
    "apis.d/down.yaml": "{listen: /down/, auth: key, upstream: 'http://127.0.0.1:9/${CANARY_PATH}/'}",
    "policies.d/gold.yaml": """
        id: gold
        access: {every: {}, both: {}, own: {}, down: {}}
        rate: 1000/1s
        meta: {partner: "${CANARY_POLICY}"}
    """,
}
PLAIN_IN_STORE = ("hmac", "jwt of a key", "session meta", "first user's key")


class Walk:
    """Calls with the canaries in all places, and everything that came back."""

    def __init__(self, gateway: GatewayFixture, canaries: dict[str, str]) -> None:
        self.gateway = gateway
        self.canaries = canaries
        self.replies: list[Reply] = []
        self.about_data: list[Reply] = []

    async def ask(self, method: str, path: str, **options: Any) -> Reply:
        reply = await self.gateway.request(method, path, **options)
        self.replies.append(reply)
        if reply.status >= 400:
            self.replies.append(await self.gateway.tyk("GET", f"/tyk/decisions/{reply.request_id}"))
        return reply

    async def tyk(self, method: str, path: str, body: Any = None, *, data: str | None = None) -> Reply:
        reply = await self.gateway.tyk(method, f"/tyk{path}", body, data=data)
        self.replies.append(reply)
        return reply

    async def api(self, method: str, path: str, body: Any = None) -> Reply:
        reply = await self.gateway.dashboard(method, f"/api{path}", body)
        self.replies.append(reply)
        return reply

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.gateway.control_url + path, json=body, headers=headers) as answer,
        ):
            reply = Reply(answer.status, answer.headers, await answer.read())
        self.replies.append(reply)
        return reply

    def told(self, reply: Reply, field: str, name: str) -> None:
        """A reply that may hold one secret: the one that made it."""
        assert reply.status == 200, reply.text
        self.replies.remove(reply)
        found = reply.json.get(field) or reply.json["Meta"][field]
        self.canaries[name] = found

    def data(self, reply: Reply) -> None:
        """A reply that shows somebody's own data to whoever may read it."""
        self.replies.remove(reply)
        self.about_data.append(reply)


async def sessions(walk: Walk) -> None:
    planted = walk.canaries
    user = {
        "apply_policies": ["gold"],
        "basic_auth_data": {"password": planted["password"]},
        "hmac_string": planted["hmac"],
        "jwt_data": {"secret": planted["jwt of a key"]},
        "oauth_keys": {"client": planted["oauth"]},
        "meta_data": {"note": planted["session meta"]},
    }
    for surface in (walk.tyk, walk.api):
        for method, path, body in (
            ("POST", "/keys/ann", user),
            ("GET", "/keys/ann", None),
            ("GET", "/keys/ann?raw=1", None),
            ("PUT", "/keys/ann", {**user, "basic_auth_data": {"password": planted["changed password"]}}),
            ("POST", "/keys/preview", user),
        ):
            reply = await surface(method, path, body)
            if planted["session meta"] in reply.text:
                walk.data(reply)
        for body in ({**user, "rate": planted["password"]}, {**user, "apply_policies": ["none"]}, {**user, "per": []}):
            await surface("POST", "/keys/ann", body)
        await surface("GET", "/keys")
    await walk.api("GET", "/keys/detailed?q=zz")
    await walk.tyk("POST", "/keys/ann", data=json.dumps(user)[:-1])
    walk.told(await walk.tyk("POST", "/keys", {"apply_policies": ["gold"]}), "key", "generated key")
    made = await walk.tyk("POST", f"/keys/{planted['custom key']}", {"apply_policies": ["gold"]})
    walk.told(made, "key", "custom key")
    for key in (planted["generated key"], planted["custom key"]):
        await walk.tyk("GET", f"/keys/{key}")
        await walk.tyk("PUT", f"/keys/{key}", {"apply_policies": ["gold"]})
        await walk.tyk("DELETE", f"/keys/{key}/counters")
    await walk.tyk("GET", f"/keys/{planted['unknown key']}")


async def people(walk: Walk) -> None:
    planted, secret = walk.canaries, {"admin-auth": walk.gateway.secret}
    ann = {"org_id": "default", "email_address": "ann@example.com", "password": planted["login password"]}
    made = await walk.call("POST", "/admin/users", ann, **secret)
    walk.told(made, "access_key", "access key")
    one = f"/api/users/{made.json['Meta']['id']}"
    hers = {"Authorization": planted["access key"]}
    await walk.call("GET", one, **hers)
    await walk.call("POST", f"{one}/actions/reset", {"new_password": planted["new login password"]}, **hers)
    walk.told(await walk.call("PUT", f"{one}/actions/key/reset", **hers), "access_key", "renewed access key")
    await walk.call("GET", one, **hers)
    await walk.call("GET", "/api/users", Authorization=f"Bearer {planted['renewed access key']}")
    await walk.call("GET", "/admin/users", **secret)
    await walk.call("GET", "/admin/organisations", **{"admin-auth": planted["wrong secret"]})
    await walk.call("GET", "/tyk/keys", **{"X-Tyk-Authorization": planted["wrong secret"]})
    await walk.call("GET", "/api/keys", Authorization=planted["wrong secret"])


async def requests(walk: Walk) -> None:
    planted = walk.canaries
    right, wrong = ("ann", planted["changed password"]), ("ann", planted["wrong password"])
    served = [
        await walk.ask("GET", "/every/", user=right),
        await walk.ask("GET", "/every/", headers={"X-Key": planted["generated key"]}),
        await walk.ask("GET", f"/every/?api_key={planted['custom key']}"),
        await walk.ask("GET", "/every/", headers={"Cookie": f"key={planted['custom key']}"}),
        await walk.ask("GET", "/both/", user=right, headers={"X-Key": planted["generated key"]}),
    ]
    assert [reply.status for reply in served] == [200] * 5
    header, key = {"X-Key": planted["unknown key"]}, planted["generated key"]
    await walk.ask("GET", "/every/", user=wrong)
    await walk.ask("GET", "/every/", user=(planted["unknown key"], planted["wrong password"]))
    await walk.ask("GET", "/every/", headers=header)
    await walk.ask("GET", f"/every/?api_key={planted['unknown key']}", headers=header | {"Cookie": "key=x"})
    malformed = planted["malformed"]
    encoded = b64encode(malformed.encode()).decode()
    for value in (
        f"Basic {malformed}",
        f"Basic {encoded}",
        f"Bearer {malformed}",
        f"Bearer a.{malformed}.c",
        malformed,
    ):
        await walk.ask("GET", "/every/", headers={"Authorization": value})
        await walk.ask("GET", "/own/", headers={"Authorization": value})
        await walk.ask("GET", "/both/", headers={"Authorization": value})
    await walk.ask("GET", "/every/blocked", headers={"X-Key": key})
    await walk.ask("POST", "/every/", headers={"X-Key": key}, data="x" * 2000)
    await walk.ask("GET", "/down/", key=key)
    await walk.ask("GET", f"/nothing/?api_key={key}", headers={"X-Key": key})
    await walk.ask("GET", f"/every/%2f?api_key={key}", headers={"X-Key": key})
    await walk.tyk("PUT", f"/keys/{planted['custom key']}", {"apply_policies": ["gold"], "is_inactive": True})
    await walk.ask("GET", f"/every/?api_key={planted['custom key']}")
    await walk.tyk("PUT", "/org/keys/default", {"quota_max": 1})
    await walk.ask("GET", "/every/", headers={"X-Key": key})
    await walk.ask("GET", "/every/", headers={"X-Key": key})
    await walk.tyk("DELETE", "/org/keys/default")


async def declarations(walk: Walk) -> None:
    planted = walk.canaries
    native = {"id": "posted", "listen": "/posted/", "auth": "none", "upstream": "http://127.0.0.1:9/",
              "plugins": [{"request_headers": {"set": {"Authorization": planted["posted"]}}}]}  # fmt: skip
    assert (await walk.tyk("POST", "/apis?format=native", native)).status == 200
    posted = planted["posted"]
    for wrong in (
        {"plugins": [{"request_headers": {"set": {"Authorization": [posted]}}}]},
        {"plugins": posted},
        {"upstream": f"http://{posted}@x/"},
        {"labels": [posted]},
    ):
        assert (await walk.tyk("POST", "/apis?format=native", {**native, **wrong})).status == 400
    gateway = walk.gateway
    for text in ("{listen: /b/, auth: none, upstream: '${CANARY_UPSTREAM}'}",
                 "{listen: '${CANARY_UPSTREAM}', auth: none, plugins: [rate_limit: '${CANARY_UPSTREAM}']}",
                 "{id: '${CANARY_POLICY}', org: '${CANARY_JWT}', expires: '${CANARY_PATH}', auth: none}"):  # fmt: skip
        gateway.write({"apis.d/broken.yaml": text})
        assert (await walk.tyk("GET", "/reload?block=true")).status == 422
        await walk.tyk("POST", "/policies/p?format=native", {"access": {"every": {}}})
        await walk.call("GET", "/ready")
        await walk.api("GET", "/system/status")
    gateway.remove("apis.d/broken.yaml")
    assert (await walk.tyk("GET", "/reload?block=true")).status == 200
    walk.data(await walk.tyk("GET", "/apis"))
    walk.data(await walk.tyk("GET", "/apis/posted?format=native"))


async def views(walk: Walk) -> None:
    for path in ("/keys", "/keys?detail=1", "/policies", "/policies/gold", "/policies?format=native", "/apis/every",
                 "/apis/every?format=native", "/routes?path=/every/", "/chains/every", "/chains/down", "/plugins",
                 "/decisions", "/shadow", "/log", "/health?api_id=every", "/org/keys"):  # fmt: skip
        assert (await walk.tyk("GET", path)).status == 200, path
    for path in ("/system/status", "/users", "/portal/policies", "/keys"):
        await walk.api("GET", path)
    for path in ("/metrics", "/hello", "/ready", "/openapi.json"):
        await walk.call("GET", path)


async def test_no_planted_secret_comes_out(
    upstream: RecordingUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("aiogate", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    names = ["password", "changed password", "wrong password", "custom key", "unknown key", "hmac", "jwt of a key",
             "oauth", "session meta", "login password", "new login password", "wrong secret", "malformed", "posted",
             "upstream", "file", "policy", "jwt", "path"]  # fmt: skip
    canaries = {
        name: f"canary-{number:02}-{name.replace(' ', '')}-5f0e3b1c9a7d42e65f0e" for number, name in enumerate(names)
    }
    for name in ("upstream", "policy", "jwt", "path"):
        monkeypatch.setenv(f"CANARY_{name.upper()}", canaries[name])
    (tmp_path / "secret").write_text(canaries["file"])
    every = FILES["apis.d/every.yaml"].replace("UPSTREAM\n", f"{upstream.url}\n", 1)
    files = {**FILES, "apis.d/every.yaml": every.replace("SECRET_FILE", str(tmp_path / "secret"))}
    canaries["control secret"] = "canary-control-secret-5f0e3b1c"
    log = tmp_path / "access.log"
    async with running_gateway(
        files, folder=tmp_path, store="sqlite", control__secret=canaries["control secret"],
        access_log__format="json", access_log__file=str(log), access_log__query=True,
    ) as gateway:  # fmt: skip
        canaries["first user's key"] = gateway.access_key
        walk = Walk(gateway, canaries)
        for part in (sessions, people, requests, declarations, views):
            await part(walk)
    assert len(canaries) >= 20
    assert {200, 400, 401, 403, 404, 413, 422, 502} <= {reply.status for reply in walk.replies}
    assert not [reply for reply in walk.replies if reply.status == 500]
    seen = {
        "a reply": "\n".join(f"{reply.headers}{reply.text}" for reply in walk.replies),
        "the log": caplog.text,
        "the access log": log.read_text(),
    }
    assert "GET /tyk/keys/{name}" in seen["the log"]
    assert '"path":"/every/"' in seen["the access log"].replace(" ", "")
    found = [(place, name) for place, text in seen.items() for name, canary in canaries.items() if canary in text]
    assert found == []
    data = "\n".join(f"{reply.headers}{reply.text}" for reply in walk.about_data)
    assert [name for name, canary in canaries.items() if canary in data] == ["session meta", "posted"]
    kept = b"".join(path.read_bytes() for path in stored(tmp_path / "var"))
    assert b"ann" in kept
    assert [name for name in canaries if canaries[name].encode() in kept and name not in PLAIN_IN_STORE] == []


def stored(folder: Path) -> list[Path]:
    """Everything in the state folder but the file that exists to hold a secret, and copies of declared files."""
    assert (folder / "dashboard.key").stat().st_mode & 0o077 == 0
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "dashboard.key"]
    return [path for path in files if "last-good" not in path.parts]
