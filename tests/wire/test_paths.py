"""Attack rows 23 to 35: which API, and which bytes go upstream."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiogate.errors import Problem
from aiogate.proxy.paths import canonical


def request(target: str, method: str = "GET", host: str = "a", *lines: str) -> bytes:
    head = [f"{method} {target} HTTP/1.1", f"Host: {host}", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")


FORWARDED = {
    "23-double-slash": ("//api/secret", "/secret"),
    "23-inner-double-slash": ("/api//secret", "/secret"),
    "23-trailing-slash": ("/api/secret/", "/secret/"),
    "23-many-slashes": ("/api////a///b", "/a/b"),
    "23-no-slash-behind-the-listen-path": ("/api", "/"),
    "26-params": ("/api/secret;x=1", "/secret;x=1"),
    "28-case": ("/api/Secret", "/Secret"),
    "28-unreserved": ("/api/%61dmin", "/admin"),
    "28-unreserved-in-the-listen-path": ("/%61pi/x", "/x"),
    "28-escape-case": ("/api/%c3%a4", "/%C3%A4"),
    "28-fullwidth": ("/api/%EF%BD%81dmin", "/%EF%BD%81dmin"),
    "28-reserved-stay": ("/api/%3b%40%25", "/%3B%40%25"),
    "28-tolerated-characters": ('/api/{a}|"b"', "/%7Ba%7D%7C%22b%22"),
    "30-absolute": ("http://a/api/x?y=1", "/x?y=1"),
    "30-absolute-with-port": ("http://A:80/api/x", "/x"),
    "xx-query-as-it-is": ("/api/x?a=%zz&b=/../&c=%2f//", "/x?a=%zz&b=/../&c=%2f//"),
    "xx-empty-query": ("/api/x?", "/x"),
    "xx-well-known": ("/api/.well-known/x", "/.well-known/x"),
    "xx-dots-in-a-name": ("/api/a..b/...", "/a..b/..."),
}


@pytest.mark.parametrize("row", FORWARDED)
async def test_forwarded_in_one_spelling(gate, row):
    target, expected = FORWARDED[row]
    assert (await gate.ask(request(target))).status == 200
    assert [received.target for received in gate.upstream.received] == [expected]
    (exchange,) = gate.api.seen
    assert exchange.path.removeprefix("/api").partition("?")[0] in (expected.partition("?")[0], "")


REFUSED = {
    "23-dot": "/api/.",
    "24-dot-dot": "/api/public/../secret",
    "24-dot-segment": "/api/./secret",
    "24-escaped-dots": "/api/%2e%2e/secret",
    "24-half-escaped": "/api/.%2E/secret",
    "24-dots-with-params": "/api/..;/secret",
    "24-dots-with-long-params": "/api/..;a=b/secret",
    "24-dots-with-escaped-params": "/api/..%3Bx/secret",
    "24-last": "/api/..",
    "25-slash": "/api/a%2fb",
    "25-Slash": "/api/a%2Fb",
    "25-escaped-backslash": "/api/a%5cb",
    "25-backslash": "/api/a\\b",
    "26-climbing-behind-params": "/api/public;/../secret",
    "27-nul": "/api/%00",
    "27-lf": "/api/%0a",
    "27-del": "/api/%7f",
    "27-zz": "/api/%zz",
    "27-percent": "/api/%",
    "27-one-digit": "/api/%4",
    "27-overlong": "/api/%c0%ae%c0%ae/secret",
    "27-not-utf8": "/api/%ff",
    "27-surrogate": "/api/%ed%a0%80",
    "30-foreign-host": "http://evil/api/x",
    "30-foreign-port": "http://a:81/api/x",
    "30-userinfo": "http://a@evil/api/x",
    "30-own-userinfo": "http://x@a/api/x",
    "30-scheme": "ftp://a/api/x",
    "31-asterisk": "*",
    "32-fragment": "/api/x#y",
    "32-fragment-in-query": "/api/x?y#z",
    "32-raw-utf8": "/api/\xc3\xa4",
    "32-raw-latin1": "/api/\xe4",
    "32-relative": "api/x",
}


@pytest.mark.parametrize("row", REFUSED)
async def test_refused(gate, row):
    reply = await gate.ask(request(REFUSED[row]))
    assert reply.status == 400
    assert reply["Connection"] == "close"
    assert not gate.upstream.received
    assert [(decision.status, decision.step) for decision in gate.decisions] == [(400, "listener")]
    assert gate.decisions[0].request_id == reply["X-Request-Id"]


@pytest.mark.parametrize("target", ["/apixyz", "/ap", "/API/x", "/", "/api%20x"])
async def test_29_no_prefix_bleeds(gate, target):
    client = await gate.client()
    reply = await client.ask(request(target))
    assert (reply.status, reply.code) == (404, "not_found")
    assert gate.decisions[0].step == "router"
    assert await client.is_open()


@pytest.mark.parametrize(
    "host",
    ["a/b@c", "a/b", "a b", "u@a", "a:b", "a:99999", "a:1:2", "[::1", "[fe80::1%25eth0]", "[zz]", "", "a,b", "ä"],
)
async def test_30_bad_host(gate, host):
    reply = await gate.ask(request("/api/x", host=host))
    assert reply.status == 400
    assert not gate.upstream.received


@pytest.mark.parametrize("host", ["a", "A.example", "a:8080", "a:", "[::1]", "[::1]:80", "127.0.0.1:1", "a_b", "a."])
async def test_30_good_host(gate, host):
    assert (await gate.ask(request("/api/x", host=host))).status == 200
    (received,) = gate.upstream.received
    assert received.values("Host") == ["127.0.0.1"]
    assert received.values("X-Forwarded-Host") == [host]


async def test_31_options_asterisk_is_answered_here(gate):
    client = await gate.client()
    reply = await client.ask(request("*", "OPTIONS"))
    assert reply.status == 204
    assert "Content-Length" not in reply
    assert await client.is_open()
    assert not gate.upstream.received


async def test_31_connect(gate):
    reply = await gate.ask(request("a:80", "CONNECT"))
    assert (reply.status, reply["Connection"]) == (405, "close")
    assert "GET" in reply["Allow"]


async def test_32_raw_space_in_target(gate):
    reply = await gate.ask(request("/api/x y"))
    assert reply.status in (400, 505)
    assert not gate.upstream.received


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override", "X_HTTP_Method_Override"]
)
async def test_33_method_override_is_stripped(gate, name):
    await gate.ask(request("/api/x", "GET", "a", f"{name}: DELETE"))
    (received,) = gate.upstream.received
    assert received.method == "GET"
    assert "DELETE" not in [value for _, value in received.headers]
    assert gate.api.seen[0].method == "GET"


@pytest.mark.parametrize("method,status", [("TRACE", 405), ("TRACK", 400), ("get", 400), ("FOO", 400), ("G ET", 400)])
async def test_34_methods(gate, method, status):
    reply = await gate.ask(request("/api/x", method))
    assert (reply.status, reply["Connection"]) == (status, "close")
    assert not gate.upstream.received


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT"])
async def test_34_methods_that_pass(gate, method):
    assert (await gate.ask(request("/api/x", method))).status == 200
    assert gate.upstream.received[0].method == method


@pytest.mark.parametrize("name", ["X-Original-URL", "X-Rewrite-URL", "x-original-url", "X_Original_URL"])
async def test_35_url_overrides_are_stripped(gate, name):
    await gate.ask(request("/api/x", "GET", "a", f"{name}: /admin"))
    (received,) = gate.upstream.received
    assert "/admin" not in [value for _, value in received.headers]


PIECES = st.sampled_from(
    ["/", "//", ".", "..", "%2e", "%2E", "%2f", "%5c", "\\", ";", ";x=1", "a", "B", "%61", "%41", "%c3%a4", "%C3%A4"]  # noqa: RUF005
    + ["%25", "%3b", "%zz", "%", "{", "|", " ", "#", "?", "é", "%00", "%c0%ae", "~", "%7e", "[", "%5B", "@", ":", "*"]
)


@given(st.lists(PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces)))
@example("/%2561")
@example("/a%252fb")
def test_g6_canonical_is_idempotent_and_safe(target):
    once = canonical(target)
    if isinstance(once, Problem):
        assert once.status == 400
        return
    again = canonical(f"{once.path}?{once.query}" if once.query else once.path)
    assert not isinstance(again, Problem)
    assert (again.path, again.query) == (once.path, once.query)
    assert once.path.startswith("/")
    assert "//" not in once.path
    assert once.path.isascii()
    assert "%2F" not in once.path
    assert not {".", ".."} & {segment.partition(";")[0] for segment in once.path.split("/")}


@given(st.text(max_size=60))
def test_g6_any_text_has_an_answer(text):
    for target in (text, "/" + text, "http://a/" + text):
        found = canonical(target)
        assert isinstance(found, Problem) or found.path.startswith("/")
