"""`cors` through the public door: preflights before authentication, headers on every response, no origin reflected."""

from __future__ import annotations

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aiogate import MiddlewareKind
from aiogate.builtin import cors
from aiogate.errors import DiagnosticsFound
from aiogate.testing import make_exchange, recording_upstream, run_middleware, running_gateway

APP = "https://app.example.com"
ALLOW = "Access-Control-Allow-Origin"
ORIGINS = f"origins: [{APP}, 'https://*.example.org:8443']"
FULL = f"{{{ORIGINS}, methods: [GET, DELETE], headers: [X-Tenant], expose: [X-More], credentials: true, max_age: 10m}}"


def site(config: str, more: str = "", upstream: str = "http://127.0.0.1:9/") -> dict[str, str]:
    return {"apis.d/x.yaml": f"{{listen: /x/, auth: key, upstream: '{upstream}', plugins: [{{cors: {config}{more}}}]}}"}


def asking(origin: str = APP, method: str = "DELETE", *headers: str) -> dict[str, str]:
    sent = {"Origin": origin, "Access-Control-Request-Method": method}
    return sent | ({"Access-Control-Request-Headers": ",".join(headers)} if headers else {})


def granted(reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("Access-Control-")}


async def test_a_preflight_is_answered_before_authentication():
    async with running_gateway(site(FULL)) as gateway:
        reply = await gateway.request("OPTIONS", "/x/a", headers=asking(APP, "DELETE", "x-tenant"))
        assert (reply.status, reply.body) == (204, b"")
        assert granted(reply) == {
            ALLOW: APP,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Methods": "GET, DELETE",
            "Access-Control-Allow-Headers": "X-Tenant",
            "Access-Control-Max-Age": "600",
        }
        assert reply.headers["Vary"] == "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


@pytest.mark.parametrize(
    "asked, reason",
    [
        (asking("https://evil.example"), "the origin 'https://evil.example' is not in the list"),
        (asking("null"), "the origin 'null' is not in the list"),
        (asking("https://example.org:8443"), "the origin 'https://example.org:8443' is not in the list"),
        (asking(APP + ".evil.example"), f"the origin '{APP}.evil.example' is not in the list"),
        (asking("http://app.example.com"), "the origin 'http://app.example.com' is not in the list"),
        (asking(APP, "PUT"), "the method 'PUT' is not in the list"),
        (asking(APP, "GET", "X-Tenant", "X-Other"), "the header 'x-other' is not in the list"),
    ],
)
async def test_a_preflight_that_is_not_allowed_is_refused_without_a_grant(asked, reason):
    async with running_gateway(site(FULL)) as gateway:
        reply = await gateway.request("OPTIONS", "/x/a", headers=asked)
        assert (reply.status, reply.code) == (403, "cors_denied")
        assert set(granted(reply)) <= {ALLOW, "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"}
        assert reply.headers.get(ALLOW, APP) == APP
        assert (ALLOW in reply.headers) == (asked["Origin"] == APP)
        assert (await gateway.why(reply))["reason"] == reason


@pytest.mark.parametrize("origin", [APP, "https://a.example.org:8443", "https://a.b-c.example.org:8443"])
async def test_every_response_to_an_allowed_origin_has_them_a_refusal_too(origin):
    async with running_gateway(site(FULL)) as gateway:
        reply = await gateway.get("/x/a", headers={"Origin": origin})
        assert reply.status == 401
        assert (reply.headers[ALLOW], reply.headers["Vary"]) == (origin, "Origin")
        assert reply.headers["Access-Control-Expose-Headers"] == "X-More"
        # An OPTIONS that is no preflight is a request like any other.
        assert (await gateway.request("OPTIONS", "/x/a", headers={"Origin": origin})).code == "auth_missing"


async def test_what_the_upstream_says_is_replaced():
    def answer(received):
        told = {ALLOW: "*", "Access-Control-Allow-Credentials": "true", "Vary": "Accept", "X-More": "1"}
        return web.Response(text="hi", headers=told)

    async with recording_upstream(answer) as upstream, running_gateway(site(FULL, upstream=upstream.url)) as gateway:
        key = await gateway.create_key("x")
        reply = await gateway.get("/x/a", key=key, headers={"Origin": "https://evil.example"})
        assert (reply.status, granted(reply), reply.headers["Vary"]) == (200, {}, "Accept, Origin")
        reply = await gateway.get("/x/a", key=key, headers={"Origin": APP})
        assert reply.headers.getall(ALLOW) == [APP]
        reply = await gateway.get("/x/a", key=key)
        assert (granted(reply), reply.headers["Vary"]) == ({}, "Accept, Origin")


async def test_any_origin_is_said_as_a_star():
    config = "{origins: ['*'], methods: ['*'], headers: ['*']}"
    async with running_gateway(site(config)) as gateway:
        reply = await gateway.request("OPTIONS", "/x/a", headers=asking("null", "PATCH", "X-A", "x-b"))
        assert granted(reply) == {
            ALLOW: "*", "Access-Control-Allow-Methods": "PATCH", "Access-Control-Allow-Headers": "x-a, x-b",
        }  # fmt: skip
        reply = await gateway.get("/x/a", headers={"Origin": APP})
        assert (granted(reply), "Vary" in reply.headers) == ({ALLOW: "*"}, False)


async def test_a_preflight_may_be_left_to_the_upstream_and_nothing_else_comes_through_with_it():
    def answer(received):
        return web.Response(headers={ALLOW: "https://upstream.example"})

    config = f"{{{ORIGINS}, passthrough: true}}"
    async with recording_upstream(answer) as upstream, running_gateway(site(config, upstream=upstream.url)) as gateway:
        reply = await gateway.request("OPTIONS", "/x/a", headers=asking())
        assert (reply.status, reply.headers[ALLOW]) == (200, "https://upstream.example")
        assert (await gateway.request("OPTIONS", "/x/a")).code == "auth_missing"
        assert (await gateway.request("DELETE", "/x/a", headers=asking())).code == "auth_missing"
        assert [one.method for one in upstream.received] == ["OPTIONS"]


async def test_a_match_limits_it():
    async with running_gateway(site(FULL, ", match: {paths: [/web/*]}")) as gateway:
        assert (await gateway.request("OPTIONS", "/x/web/a", headers=asking())).status == 204
        reply = await gateway.request("OPTIONS", "/x/a", headers=asking())
        assert (reply.code, granted(reply)) == ("auth_missing", {})


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        "{origins: []}",
        "{origins: [null]}",
        "{origins: ['null']}",
        "{origins: ['https://app.example.com/']}",
        "{origins: ['https://APP.example.com']}",
        "{origins: [app.example.com]}",
        "{origins: ['https://a*.example.com']}",
        "{origins: ['*'], credentials: true}",
        f"{{origins: ['*', '{APP}']}}",
        f"{{origins: ['{APP}'], methods: [get]}}",
        f"{{origins: ['{APP}'], headers: ['a b']}}",
        f"{{origins: ['{APP}'], max_age: 10}}",
        f"{{origins: ['{APP}'], credentials: true, expose: ['*']}}",
        f"{{origins: ['{APP}']}}, mode: shadow",
    ],
)
async def test_mistakes_are_told(config):
    with pytest.raises(DiagnosticsFound):
        async with running_gateway(site(config)):
            pass


KIND = cors.aiogate_middleware()


@given(st.text(alphabet="htps:/.aexmplcorg*@#?\0 -_0843%", max_size=40) | st.text(max_size=20))
async def test_no_other_origin_is_ever_repeated(origin):
    assert isinstance(KIND, MiddlewareKind)
    config = {"origins": (APP, "https://*.example.org:8443"), "credentials": True}
    exchange = make_exchange(headers={"Origin": origin})
    outcome = await run_middleware(KIND, config, exchange)
    if ALLOW in outcome.response.headers:
        assert (
            origin == APP
            or origin.removeprefix("https://")
            .removesuffix(".example.org:8443")
            .replace("-", "")
            .replace("_", "")
            .replace(".", "")
            .isalnum()
        )
