"""Rates and quotas, counted exactly, by one key and by many at once."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from aiogate.testing import FakeClock, GatewayFixture, Received, recording_upstream, running_gateway

NOW = 1_800_000_000.0


@asynccontextmanager
async def serving(
    plugins: str = "", clock: FakeClock | None = None, **settings: object
) -> AsyncIterator[GatewayFixture]:
    definition = f"listen: /api/\nauth: key\nplugins:\n  - mock: welcome\n{plugins}"
    files = {"apis.d/api.yaml": definition}
    async with running_gateway(files, clock=clock or FakeClock(NOW), **settings) as gateway:  # type: ignore[arg-type]
        yield gateway


def shown(headers: object) -> tuple[int, ...]:
    return tuple(int(headers[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset"))  # type: ignore[index]


async def test_a_rate_is_a_window_that_its_first_request_opens() -> None:
    clock = FakeClock(NOW)
    async with serving(clock=clock) as gateway:
        key = await gateway.create_key("api", rate=3, per=10)
        clock.advance(100)
        for _ in range(3):
            reply = await gateway.get("/api/", key=key)
            assert (reply.status, shown(reply.headers)) == (200, (-1, -1, 0))
            clock.advance(2)
        reply = await gateway.get("/api/", key=key)
        assert (reply.status, reply.error, reply.code) == (429, "Rate Limit Exceeded", "rate_limited")
        assert reply.headers["Retry-After"] == "4"
        assert "3 requests per 10 s are used up" in (await gateway.why(reply))["reason"]
        clock.advance(4)
        assert (await gateway.get("/api/", key=key)).status == 200


@pytest.mark.parametrize("status", [403, 429])
async def test_a_quota_is_shown_and_refuses_until_it_renews(status: int) -> None:
    clock = FakeClock(NOW)
    async with serving(clock=clock, quota_status=status) as gateway:
        key = await gateway.create_key("api", quota_max=2, quota_renewal_rate=60)
        for left in (1, 0):
            reply = await gateway.get("/api/", key=key)
            assert (reply.status, shown(reply.headers)) == (200, (2, left, NOW + 60))
        clock.advance(20)
        for _ in range(3):
            reply = await gateway.get("/api/", key=key)
            assert (reply.status, reply.error, reply.code) == (status, "Quota exceeded", "quota_exceeded")
            assert (shown(reply.headers), reply.headers["Retry-After"]) == ((2, 0, NOW + 60), "40")
        clock.advance(40)
        reply = await gateway.get("/api/", key=key)
        assert (reply.status, shown(reply.headers)) == (200, (2, 1, NOW + 120))


async def test_a_quota_that_never_renews_has_nothing_to_wait_for() -> None:
    async with serving() as gateway:
        key = await gateway.create_key("api", quota_max=1)
        assert (await gateway.get("/api/", key=key)).status == 200
        reply = await gateway.get("/api/", key=key)
        assert (reply.status, "Retry-After" in reply.headers) == (403, False)


@pytest.mark.parametrize("limits", [{}, {"rate": -1, "per": 1, "quota_max": -1}, {"quota_max": 0}])
async def test_nothing_said_or_below_zero_is_unlimited(limits: dict[str, int]) -> None:
    async with serving() as gateway:
        key = await gateway.create_key("api", **limits)
        replies = [await gateway.get("/api/", key=key) for _ in range(20)]
        assert [reply.status for reply in replies] == [200] * 20
        assert shown(replies[-1].headers) == (-1, -1, 0)


async def test_an_api_as_a_whole_has_a_rate() -> None:
    clock = FakeClock(NOW)
    async with serving("  - rate_limit: 3/1m", clock) as gateway:
        keys = [await gateway.create_key("api") for _ in range(2)]
        replies = [await gateway.get("/api/", key=keys[number % 2]) for number in range(4)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429]
        assert (replies[3].error, replies[3].code) == ("API Rate Limit Exceeded", "api_rate_limited")
        assert replies[3].headers["Retry-After"] == "60"
        why = await gateway.why(replies[3])
        assert (why["step"], why["rule"].rpartition("/")[2]) == ("limits", "api.yaml:5:5")


async def test_all_limits_are_taken_or_none() -> None:
    """Row 54a: whichever refuses, the others are not spent."""
    clock = FakeClock(NOW)
    async with serving("  - rate_limit: 2/1m", clock) as gateway:
        key = await gateway.create_key("api", quota_max=5, quota_renewal_rate=3600, rate=4, per=60)
        replies = [await gateway.get("/api/", key=key) for _ in range(6)]
        assert Counter(reply.code for reply in replies) == {"": 2, "api_rate_limited": 4}
        assert shown(replies[5].headers)[1] == 3, "a refusal by the API's limit spends no quota"

        clock.advance(60)
        spent = await gateway.create_key("api", quota_max=1)
        assert (await gateway.get("/api/", key=spent)).status == 200
        for _ in range(5):
            assert (await gateway.get("/api/", key=spent)).code == "quota_exceeded"
        assert (await gateway.get("/api/", key=key)).status == 200, "a refusal by a quota spends nothing of the API's"


async def test_a_limit_that_only_some_requests_meet() -> None:
    async with serving("  - rate_limit: 1/1m\n    match: {methods: [POST], paths: [/orders/*]}") as gateway:
        key = await gateway.create_key("api")
        statuses = [(await gateway.request("POST", "/api/orders/1", key=key)).status for _ in range(2)]
        assert statuses == [200, 429]
        for method, path in (("GET", "/api/orders/1"), ("POST", "/api/other")):
            assert (await gateway.request(method, path, key=key)).status == 200


async def test_an_api_may_ignore_the_sessions_limits() -> None:
    async with running_gateway(
        {"apis.d/api.yaml": "{listen: /api/, auth: key, plugins: [mock: x], session_limits: {rate: false}}"}
    ) as gateway:
        key = await gateway.create_key("api", rate=1, per=60, quota_max=2)
        assert [(await gateway.get("/api/", key=key)).status for _ in range(3)] == [200, 200, 403]


async def test_a_limit_per_api_counts_by_itself() -> None:
    files = {f"apis.d/{name}.yaml": f"{{listen: /{name}/, auth: key, plugins: [mock: x]}}" for name in "ab"}
    async with running_gateway(files) as gateway:
        session = {
            "access_rights": {
                "a": {"api_id": "a", "limit": {"quota_max": 1, "quota_renewal_rate": 60}},
                "b": {"api_id": "b"},
            },
            "quota_max": 3,
        }
        key = (await gateway.tyk("POST", "/tyk/keys", session)).json["key"]
        assert [(await gateway.get("/a/", key=key)).status for _ in range(2)] == [200, 403]
        assert [(await gateway.get("/b/", key=key)).status for _ in range(4)] == [200, 200, 200, 403]


async def test_a_write_keeps_the_counters_unless_it_changes_the_limit() -> None:
    async with serving() as gateway:
        key = await gateway.create_key("api", quota_max=2)
        await gateway.get("/api/", key=key)
        document = (await gateway.tyk("GET", f"/tyk/keys/{key}")).json
        assert document["quota_remaining"] == 1

        async def remaining() -> int:
            return shown((await gateway.get("/api/", key=key)).headers)[1]

        await gateway.tyk("PUT", f"/tyk/keys/{key}", {**document, "alias": "renamed"})
        assert await remaining() == 0
        await gateway.tyk("PUT", f"/tyk/keys/{key}?reset=1", document)
        assert await remaining() == 1
        await gateway.tyk("PUT", f"/tyk/keys/{key}", {**document, "quota_max": 9})
        assert await remaining() == 8
        await gateway.tyk("DELETE", f"/tyk/keys/{key}/counters")
        assert await remaining() == 8


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_55_a_request_that_its_client_leaves_is_counted_once_and_not_given_back(how: str) -> None:
    waiting, answer = asyncio.Queue[None](), asyncio.Event()

    async def answered(_: Received) -> web.StreamResponse:
        waiting.put_nowait(None)
        await answer.wait()
        return web.Response(text="late")

    async with recording_upstream(answered) as upstream:
        files = {"apis.d/api.yaml": f"{{listen: /api/, auth: key, upstream: '{upstream.url}'}}"}
        async with running_gateway(files) as gateway:
            key = await gateway.create_key("api", quota_max=10, quota_renewal_rate=3600, rate=10, per=3600)
            host, port = gateway.gateway.listen_addresses[0].split(":")
            for _ in range(3):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(f"GET /api/ HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode())
                async with asyncio.timeout(10):
                    await waiting.get()
                if how == "rst":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort() if how == "rst" else writer.close()
            assert (await gateway.tyk("GET", f"/tyk/keys/{key}")).json["quota_remaining"] == 7
            answer.set()
            assert shown((await gateway.get("/api/", key=key)).headers)[1] == 6
            statuses = [(await gateway.get("/api/", key=key)).status for _ in range(7)]
            assert statuses == [200] * 6 + [429], "the rate has counted the same"


async def test_56_at_the_edge_of_a_window_twice_the_rate_passes_and_no_more() -> None:
    """As docs/limits.md says of fixed windows."""
    clock = FakeClock(NOW)
    async with serving(clock=clock) as gateway:
        key = await gateway.create_key("api", rate=5, per=10)

        async def burst() -> list[int]:
            return [reply.status for reply in await asyncio.gather(*(gateway.get("/api/", key=key) for _ in range(12)))]

        assert (await gateway.get("/api/", key=key)).status == 200
        clock.advance(9.75)
        assert sorted(await burst()) == [200] * 4 + [429] * 8
        clock.advance(0.25)
        assert sorted(await burst()) == [200] * 5 + [429] * 7
        clock.advance(9.75)
        assert await burst() == [429] * 12, "those refused opened no window of their own"


@pytest.mark.parametrize("fields, error", [
    *(('"quota_max": ' + text, error) for text, error in (
        ("0", ""), ("-1", ""), (str(-(2**63)), ""), (str(2**63 - 1), ""), (str(2**63), "quota_max:"), ("NaN", "line 1"),
        ("true", "quota_max:"), ("1.5", "quota_max:"), ('"5"', "quota_max:"), ("1e400", "line 1"),
        ("1" + "0" * 400, "line 1"),
    )),
    *(('"per": ' + text, error) for text, error in (
        ("0", ""), ("-1", "per:"), ("NaN", "line 1"), ("1e400", "line 1"), ("1e308", "per:"), ('"1"', "per:"),
    )),
    *(('"rate": ' + text, error) for text, error in (
        ("0", ""), ("-1", ""), ("1", "per:"), ("1e308", "rate:"), ("-Infinity", "line 1"), ("[]", "rate:"),
        ('1, "per": 0', "per:"), ('1, "per": -1', "per:"), ('-1, "per": -1', "per:"), ('9, "per": 1.5', ""),
    )),
    ('"quota_renewal_rate": -1', ""), ('"quota_renewal_rate": 1.5', "quota_renewal_rate:"),
])  # fmt: skip
async def test_57_numbers_that_are_no_limit(fields: str, error: str) -> None:
    """Refused by name, or unlimited as the pages say; never a limit that somebody did not mean, never a 5xx."""
    async with serving() as gateway:
        body = f'{{"access_rights": {{"api": {{"api_id": "api"}}}}, {fields}}}'
        made = await gateway.tyk("POST", "/tyk/keys", data=body)
        if error:
            assert made.status == 400, made.text
            assert any(line.startswith(error) for line in made.json["details"]), made.text
            return
        key = made.json["key"]
        assert [(await gateway.get("/api/", key=key)).status for _ in range(3)] == [200] * 3
        shown_again = (await gateway.tyk("GET", f"/tyk/keys/{key}")).json
        assert (await gateway.tyk("PUT", f"/tyk/keys/{key}", shown_again)).status == 200


@pytest.mark.parametrize("limit", [
    "quota: -1/1d", "quota: 0/1d", "quota: 1.5/1d", "quota: .nan", "quota: 5", "quota: 9223372036854775808/1d",
    "rate: 1/0s", "rate: 1/-1s", "rate: 0/1s", "rate: .inf", "rate: 1e400/1s",
])  # fmt: skip
async def test_57_a_policy_says_what_it_means_or_is_refused(limit: str) -> None:
    async with serving() as gateway:
        verdict = await gateway.reload({"policies.d/gold.yaml": f"access: {{api: {{}}}}\n{limit}\n"})
        assert not verdict.ok
        ((file, line),) = [(Path(one.file).name, one.line) for one in verdict.diagnostics]
        assert (file, line) == ("gold.yaml", 2)


async def flood(gateway: GatewayFixture, key: str, requests: int, connections: int) -> Counter[int]:
    """So many requests at once, pipelined over so many raw connections; how often each status came."""
    host, port = gateway.gateway.listen_addresses[0].split(":")
    request = f"GET /api/ HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode()
    each = requests // connections

    async def one() -> Counter[int]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request * each)
        statuses: Counter[int] = Counter()
        for _ in range(each):
            head = await reader.readuntil(b"\r\n\r\n")
            statuses[int(head.split()[1])] += 1
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        writer.close()
        await writer.wait_closed()
        return statuses

    total: Counter[int] = Counter()
    for statuses in await asyncio.gather(*(one() for _ in range(connections))):
        total += statuses
    return total


@pytest.mark.slow
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_a_thousand_requests_at_once_against_a_quota_of_a_hundred(store: str, tmp_path: Path) -> None:
    """Row 54: twenty runs on each store: exactly a hundred pass, every time, and the count is what the store says."""
    async with serving(store=store, folder=tmp_path) as gateway:
        for _ in range(20):
            key = await gateway.create_key("api", quota_max=100, quota_renewal_rate=3600)
            assert await flood(gateway, key, requests=1000, connections=200) == {200: 100, 403: 900}
            assert (await gateway.tyk("GET", f"/tyk/keys/{key}")).json["quota_remaining"] == 0
