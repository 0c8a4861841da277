"""WebSockets through the gateway, with aiohttp's server behind it and aiohttp's client before it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiogate.testing import FakeClock, running_gateway


@dataclass
class Chat:
    """An upstream: `/echo` sends back what it gets, and every socket says who the client is first."""

    url: str = ""
    requests: list[web.Request] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    codes: asyncio.Queue[int | None] = field(default_factory=asyncio.Queue)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        self.requests.append(request)
        socket = web.WebSocketResponse(protocols=("chat",), max_msg_size=64 * 1024 * 1024)
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        self.codes.put_nowait(socket.close_code)
        return socket


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    serving = Chat()
    application = web.Application()
    application.router.add_get("/{path:.*}", serving.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    serving.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield serving
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize("compress", [0, 15])
async def test_messages_go_both_ways(chat: Chat, http: aiohttp.ClientSession, compress: int) -> None:
    api = f"{{listen: /chat/, auth: none, upstream: '{chat.url}'}}"
    async with running_gateway({"apis.d/chat.yaml": api}) as gateway:
        async with http.ws_connect(
            f"{gateway.url}/chat/room?x=1", protocols=["chat"], compress=compress, max_msg_size=2**26
        ) as socket:
            assert socket.protocol == "chat"
            assert bool(socket.compress) == bool(compress)
            for message in ("hello", "grüße", "x" * 100_000):
                await socket.send_str(message)
                assert await socket.receive_str(timeout=5) == message
            large = os.urandom(8 * 1024 * 1024)
            await socket.send_bytes(large)
            assert await socket.receive_bytes(timeout=20) == large
            await socket.close(code=4001)
        assert await chat.codes.get() == 4001
    (request,) = chat.requests
    assert (request.path_qs, request.headers["X-Forwarded-For"]) == ("/room?x=1", "127.0.0.1")


async def test_the_chain_decides_first(chat: Chat, http: aiohttp.ClientSession) -> None:
    api = f"""
        listen: /chat/
        upstream: {chat.url}
        auth: key
        versions: {{by: header, default: v1, list: {{v1: {{}}, v2: {{}}}}}}
        plugins:
          - rate_limit: 1/1h
            mode: shadow
          - rate_limit: 2/1h
            match: {{versions: [v2]}}
        """
    async with running_gateway({"apis.d/chat.yaml": api}) as gateway:
        key = await gateway.create_key(access_rights={"chat": {"versions": ["v1", "v2"]}})

        async def connected(**headers: str) -> int:
            try:
                async with http.ws_connect(f"{gateway.url}/chat/", headers=headers) as socket:
                    await socket.send_str("hi")
                    assert await socket.receive_str(timeout=5) == "hi"
                    return 101
            except aiohttp.WSServerHandshakeError as refused:
                return refused.status

        assert await connected() == 401
        assert await connected(Authorization="no-such-key") == 403
        for _ in range(3):
            assert await connected(Authorization=key) == 101, "a rule in shadow mode refuses nobody"
        for expected in (101, 101, 429):
            assert await connected(Authorization=key, **{"X-Api-Version": "v2"}) == expected
        assert await connected(Authorization=key, **{"X-Api-Version": "v3"}) == 403
    assert len(chat.requests) == 5


async def test_counted_and_logged_at_its_end(chat: Chat, http: aiohttp.ClientSession, tmp_path: object) -> None:
    files = {
        "apis.d/chat.yaml": f"{{listen: /chat/, auth: none, upstream: '{chat.url}'}}",
        "aiogate.yaml": "access_log: {format: json, file: access.log}",
    }
    async with running_gateway(files) as gateway:
        log = gateway.folder / "access.log"
        async with http.ws_connect(f"{gateway.url}/chat/") as socket:
            await socket.send_str("x" * 100)
            await socket.receive_str(timeout=5)
            text = (await gateway.tyk("GET", "/metrics")).text
            assert 'aiogate_tunnels_open{api="chat"} 1' in text
            assert 'aiogate_tunnel_bytes_total{api="chat",direction="received"} 106' in text
            assert 'aiogate_tunnel_bytes_total{api="chat",direction="sent"} 102' in text
            assert log.read_text() == ""
        async with asyncio.timeout(10):
            while not (text := log.read_text()):
                await asyncio.sleep(0.05)
        assert '"status":101,"bytes":106' in text, "100 bytes of text and a Close frame, with their heads"
        text = (await gateway.tyk("GET", "/metrics")).text
        assert 'aiogate_tunnels_open{api="chat"} 0' in text
        assert 'aiogate_tunnels_total{api="chat"} 1' in text
        assert 'aiogate_requests_total{api="chat",status="1xx"} 1' in text
        assert 'aiogate_tunnel_ends_total{api="chat",reason="' in text


# Who is let out


def guarded(chat: Chat, more: str = "") -> dict[str, str]:
    return {
        "apis.d/chat.yaml": f"""
            listen: /chat/
            upstream: {chat.url}
            auth: [basic, key]
            {more}
            """,
        "apis.d/other.yaml": f"{{listen: /other/, upstream: '{chat.url}', auth: key}}",
        "policies.d/gold.yaml": "{id: gold, access: {chat: {}, other: {}}}",
        "policies.d/silver.yaml": "{id: silver, access: {other: {}}}",
    }


def rights(api: str) -> dict[str, object]:
    return {"access_rights": {api: {"api_id": api, "versions": ["Default"]}}}


async def closed(socket: aiohttp.ClientWebSocketResponse) -> tuple[int | None, str]:
    """The Close frame that comes within 2 s: code and reason."""
    message = await socket.receive(timeout=2)
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return message.data, str(message.extra)


async def alive(socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_str("still there?")
    assert await socket.receive_str(timeout=5) == "still there?"


@pytest.mark.parametrize(
    "how,code,message",
    [
        ("delete", "key_unknown", "Access to this API has been disallowed"),
        ("inactive", "key_inactive", "Key is inactive, please renew"),
        ("access", "access_denied", "Access to this API has been disallowed"),
        ("policy", "access_denied", "Access to this API has been disallowed"),
        ("policy file", "access_denied", "Access to this API has been disallowed"),
        ("policy gone", "key_unknown", "Access to this API has been disallowed"),
    ],
)
async def test_75_a_websocket_ends_with_the_right_to_open_it(
    chat: Chat, http: aiohttp.ClientSession, how: str, code: str, message: str
) -> None:
    async with running_gateway(guarded(chat)) as gateway:
        key = await gateway.create_key(apply_policies=["gold"])
        bystander = await gateway.create_key("chat", "other")
        url = f"{gateway.url}/chat/"
        async with (
            http.ws_connect(url, headers={"Authorization": key}) as socket,
            http.ws_connect(f"{gateway.url}/other/", headers={"Authorization": bystander}) as other,
            http.ws_connect(url, headers={"Authorization": bystander}) as third,
        ):
            for one in (socket, other, third):
                await alive(one)
            change = {
                "inactive": {"apply_policies": ["gold"], "is_inactive": True},
                "access": rights("other"),
                "policy": {"apply_policies": ["silver"]},
            }
            if how == "delete":
                await gateway.revoke(key)
            elif how == "policy file":
                assert (await gateway.reload({"policies.d/gold.yaml": "{id: gold, access: {other: {}}}"})).ok
            elif how == "policy gone":
                gateway.remove("policies.d/gold.yaml")
                assert (await gateway.reload()).ok
            else:
                assert (await gateway.tyk("PUT", f"/tyk/keys/{key}", change[how])).status == 200
            assert await closed(socket) == (1008, message)
            assert await chat.codes.get() == 1008
            for one in (other, third):
                await alive(one)
            decision = await gateway.why(str(socket._response.headers["X-Request-Id"]))
            assert (decision["code"], decision["step"]) == (code, "access")
            assert decision["reason"].startswith("the WebSocket was closed: ")
        text = (await gateway.tyk("GET", "/metrics")).text
        assert 'aiogate_tunnel_ends_total{api="chat",reason="revoked"} 1' in text


@pytest.mark.parametrize("brought_forward", [False, True])
async def test_75_a_key_that_expires_while_its_websocket_is_open(
    chat: Chat, http: aiohttp.ClientSession, brought_forward: bool
) -> None:
    clock = FakeClock()
    async with running_gateway(guarded(chat), clock=clock) as gateway:
        expires = int(clock.now()) + 100
        key = await gateway.create_key("chat", expires=expires + 900 * brought_forward)
        async with http.ws_connect(f"{gateway.url}/chat/", headers={"Authorization": key}) as socket:
            if brought_forward:
                change = {**rights("chat"), "expires": expires}
                assert (await gateway.tyk("PUT", f"/tyk/keys/{key}", change)).status == 200
            clock.advance(99)
            await alive(socket)
            await asyncio.sleep(0.6)
            await alive(socket)
            clock.advance(2)
            assert await closed(socket) == (1008, "Key has expired, please renew")


async def test_an_api_that_is_removed_and_one_that_is_changed(chat: Chat, http: aiohttp.ClientSession) -> None:
    async with running_gateway(guarded(chat)) as gateway:
        key = await gateway.create_key("chat", "other")
        headers = {"Authorization": key}
        async with (
            http.ws_connect(f"{gateway.url}/chat/", headers=headers) as changed,
            http.ws_connect(f"{gateway.url}/other/", headers=headers) as removed,
        ):
            gateway.remove("apis.d/other.yaml")
            files = guarded(chat, "websocket: {origins: ['https://a.example']}")
            del files["apis.d/other.yaml"]
            for name in ("gold", "silver"):
                files[f"policies.d/{name}.yaml"] = f"{{id: {name}, access: {{chat: {{}}}}}}"
            assert (await gateway.reload(files)).ok
            assert await closed(removed) == (1001, "the API was removed")
            await alive(changed)
            assert (await gateway.gateway.status()).tunnels == 1


async def test_origins(chat: Chat, http: aiohttp.ClientSession) -> None:
    more = "websocket: {origins: ['https://app.example', 'https://*.app.example']}"
    async with running_gateway(guarded(chat, more)) as gateway:
        key = await gateway.create_key("chat")
        url = f"{gateway.url}/chat/"
        for origin in ("https://app.example", "https://x.app.example", None):
            headers = {"Authorization": key} | ({"Origin": origin} if origin else {})
            async with http.ws_connect(url, headers=headers) as socket:
                await alive(socket)
        asked = len(chat.requests)
        handshake = {
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": "https://evil.example",
        }  # fmt: skip
        reply = await gateway.get("/chat/", headers=handshake)
        assert (reply.status, reply.code) == (403, "origin_denied")
        why = await gateway.why(reply)
        assert why["step"] == "websocket"
        assert why["rule"].endswith("apis.d/chat.yaml:4:1")
        assert "'https://evil.example'" in why["reason"]
        plain = await gateway.get("/chat/", headers={"Origin": "https://evil.example", "Authorization": key})
        assert plain.status == 400, "the upstream's word: a request that asks for no WebSocket is not ours to refuse"
        assert len(chat.requests) == asked + 1


async def test_switched_off(chat: Chat, http: aiohttp.ClientSession) -> None:
    async with running_gateway(guarded(chat, "websocket: false")) as gateway:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{gateway.url}/chat/")
        assert refused.value.status == 403
    assert not chat.requests


async def test_limits_of_size_between_real_ends(chat: Chat, http: aiohttp.ClientSession) -> None:
    async with running_gateway(guarded(chat, "websocket: {max_message: 1KiB}")) as gateway:
        headers = {"Authorization": await gateway.create_key("chat")}
        async with http.ws_connect(f"{gateway.url}/chat/", headers=headers, compress=15) as socket:
            assert not socket.compress
            await socket.send_bytes(bytes(1024))
            assert await socket.receive_bytes(timeout=5) == bytes(1024)
            await socket.send_bytes(bytes(1025))
            assert await closed(socket) == (1009, "a message is over 1024 bytes")
            assert await chat.codes.get() == 1001


async def test_a_token_ends_and_so_does_its_websocket(chat: Chat, http: aiohttp.ClientSession) -> None:
    clock = FakeClock()
    secret = "a secret of at least thirty-two bytes"
    files = guarded(chat)
    files["apis.d/chat.yaml"] = f"""
        listen: /chat/
        upstream: {chat.url}
        auth: {{jwt: {{algorithms: HS256, key: {secret}, policy_claim: plan}}}}
        """
    async with running_gateway(files, clock=clock) as gateway:
        url = f"{gateway.url}/chat/"

        def bearer(seconds: int) -> dict[str, str]:
            claims = {"sub": "anna", "plan": "gold", "exp": int(clock.now()) + seconds}
            return {"Authorization": f"Bearer {signed(claims, secret)}"}

        async with http.ws_connect(url, headers=bearer(60)) as short, http.ws_connect(url, headers=bearer(600)) as long:
            clock.advance(59)
            await alive(short)
            await asyncio.sleep(0.6)
            await alive(short)
            clock.advance(2)
            assert await closed(short) == (1008, "Key has expired, please renew")
            await alive(long)
            assert (await gateway.reload({"policies.d/other.yaml": "{id: other, access: {other: {}}}"})).ok
            await asyncio.sleep(0.6)
            await alive(long)
            assert (await gateway.reload({"policies.d/gold.yaml": "{id: gold, access: {other: {}}}"})).ok
            assert await closed(long) == (1008, "Access to this API has been disallowed")


def signed(claims: dict[str, object], secret: str) -> str:
    """A token, by hand."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = part(b'{"alg":"HS256"}') + "." + part(json.dumps(claims).encode())
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), 'sha256'))}"


@pytest.mark.slow
async def test_a_stop_lets_websockets_run_until_the_limit(
    start: Callable[..., Any], chat: Chat, http: aiohttp.ClientSession
) -> None:
    files = {
        "apis.d/chat.yaml": f"{{listen: /chat/, auth: none, upstream: '{chat.url}'}}",
        "aiogate.yaml": "timeouts: {drain: 1s}",
    }
    async with start(files) as gateway, http.ws_connect(f"{gateway.url}/chat/") as socket:
        await alive(socket)
        gateway.terminate()
        await asyncio.sleep(0.5)
        await alive(socket)
        assert await closed(socket) == (1001, "the gateway stops")
        assert await gateway.ended(3) == 0
        assert "cut" not in gateway.log.read_text()
    assert await chat.codes.get() == 1001


async def test_75_a_new_password_ends_what_the_old_one_opened(chat: Chat, http: aiohttp.ClientSession) -> None:
    async with running_gateway(guarded(chat)) as gateway:
        await gateway.create_user("anna", "first password", "chat")
        headers = {"Authorization": "Basic " + base64.b64encode(b"anna:first password").decode()}
        async with http.ws_connect(f"{gateway.url}/chat/", headers=headers) as socket:
            await alive(socket)
            change = {**rights("chat"), "tags": ["vip"]}
            assert (await gateway.tyk("PUT", "/tyk/keys/anna", change)).status == 200
            await asyncio.sleep(0.6)
            await alive(socket)
            change["basic_auth_data"] = {"password": "second password"}
            assert (await gateway.tyk("PUT", "/tyk/keys/anna", change)).status == 200
            assert await closed(socket) == (1008, "User not authorised")
