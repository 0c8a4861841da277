"""Attack rows 36 to 41: what crosses the gateway, and who the client is."""

from __future__ import annotations

import ipaddress

import pytest

from aiogate.proxy.listener import ListenerOptions

LOOPBACK = ListenerOptions(trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("10.0.0.0/8")))


def get(*lines: str, target: str = "/api/x") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a.example:8080", *lines, "", ""]).encode("utf-8")


async def seen(gate, *lines: str):
    reply = await gate.ask(get(*lines))
    assert reply.status == 200
    return gate.upstream.received[-1], gate.api.seen[-1], reply


async def test_36_two_authorization_headers(gate):
    reply = await gate.ask(get("Authorization: Basic YTpi", "Authorization: Basic YTpj"))
    assert (reply.status, reply.code) == (400, "auth_ambiguous")
    assert not gate.upstream.received


async def test_37_nominated_headers_go_ours_stay(gate):
    def name_the_user(exchange):
        exchange.upstream_headers.set("X-User", "alice")

    gate.api.before = name_the_user
    received, exchange, _ = await seen(
        gate,
        "Connection: close, Authorization, X-Api-Key, Host, X-Forwarded-For, X-User, X-Request-Id, Content-Length",
        "Authorization: Basic YTpi",
        "X-Api-Key: k",
        "X-Other: o",
    )
    assert not received.values("Authorization")
    assert not received.values("X-Api-Key")
    assert received.values("X-Other") == ["o"]
    assert received.values("X-User") == ["alice"]
    assert received.values("Host") == ["127.0.0.1"]
    assert received.values("X-Forwarded-For") == ["127.0.0.1"]
    assert len(received.values("X-Request-Id")) == 1
    assert exchange.headers["Authorization"] == "Basic YTpi", "the chain sees what the client sent"


HOP_BY_HOP = ["Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Proxy-Authorization", "HTTP2-Settings", "Upgrade"]


@pytest.mark.parametrize("name", HOP_BY_HOP)
async def test_37_hop_by_hop_headers_stay_here(gate, name):
    received, _, _ = await seen(gate, f"{name}: trailers")
    assert not received.values(name)


async def test_37_the_upstream_nominates_too(gate):
    gate.upstream.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Internal\r\nX-Internal: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Connection: x\r\nTrailer: x\r\nX-Public: 2\r\nX-Request-Id: theirs\r\n\r\n"
    )
    reply = await gate.ask(get())
    for name in ("X-Internal", "Keep-Alive", "Proxy-Connection", "Trailer", "Connection"):
        assert name not in reply
    assert reply["X-Public"] == "2"
    assert reply["X-Request-Id"] != "theirs"


SPOOFS = [
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Port: 443",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-User: root",
    "X-Real-IP: 10.0.0.1",
    "X_Forwarded_For: 10.0.0.1",
    "X_Real_Ip: 10.0.0.1",
    "X-Forwarded_For: 10.0.0.1",
    "X-Request-Id: theirs",
    "X_Request_Id: theirs",
    "Forwarded: for=10.0.0.1",
]


@pytest.mark.parametrize("line", SPOOFS)
async def test_38_an_untrusted_peer_is_not_believed(gate, line):
    received, exchange, _ = await seen(gate, line)
    assert received.values("X-Forwarded-For") == ["127.0.0.1"]
    assert received.values("X-Forwarded-Proto") == ["http"]
    assert received.values("X-Forwarded-Host") == ["a.example:8080"]
    assert received.values("X-Real-IP") == ["127.0.0.1"]
    value = line.partition(": ")[2]
    assert value not in [sent for _, sent in received.headers]
    assert (exchange.client_ip, exchange.scheme, exchange.trusted_peer) == ("127.0.0.1", "http", False)
    if line.startswith("Forwarded"):
        assert received.values("Forwarded") == ['for=127.0.0.1;host="a.example:8080";proto=http']


TRUSTED = {
    "one": ("1.2.3.4", "1.2.3.4"),
    "nearest-untrusted": ("6.6.6.6, 1.2.3.4, 10.0.0.9", "1.2.3.4"),
    "all-trusted": ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
    "with-port": ("1.2.3.4:567", "1.2.3.4"),
    "ipv6": ("2001:db8::1", "2001:db8::1"),
    "ipv6-in-brackets": ("[2001:DB8::1]:443", "2001:db8::1"),
    "39-mapped": ("::ffff:1.2.3.4", "1.2.3.4"),
    "39-mapped-is-trusted": ("1.2.3.4, ::ffff:10.0.0.1", "1.2.3.4"),
    "39-zone": ("fe80::1%eth0", "fe80::1"),
    "39-hex": ("0x7f.1", "127.0.0.1"),
    "39-octal": ("1.2.3.4, 0177.0.0.1", "127.0.0.1"),
    "garbage-ends-the-walk": ("1.2.3.4, unknown, 10.0.0.3", "10.0.0.3"),
    "empty": ("", "127.0.0.1"),
}


@pytest.mark.parametrize("row", TRUSTED)
async def test_38_behind_trusted_proxies(wire, row):
    sent, expected = TRUSTED[row]
    gate = await wire.gate(options=LOOPBACK)
    received, exchange, _ = await seen(gate, f"X-Forwarded-For: {sent}")
    assert exchange.client_ip == expected
    assert received.values("X-Real-IP") == [expected]
    assert received.values("X-Forwarded-For") == [f"{sent}, 127.0.0.1"]


async def test_38_what_a_trusted_proxy_says_stands(wire):
    gate = await wire.gate(options=LOOPBACK)
    received, exchange, _ = await seen(
        gate,
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: public.example",
        "X-Forwarded-Prefix: /v1",
        "Forwarded: for=1.2.3.4",
        "X-Real-IP: 6.6.6.6",
        "X-Request-Id: theirs",
    )
    assert received.values("X-Forwarded-Proto") == ["https"]
    assert received.values("X-Forwarded-Host") == ["public.example"]
    assert received.values("X-Forwarded-Prefix") == ["/v1"]
    assert received.values("Forwarded")[0].startswith("for=1.2.3.4, for=127.0.0.1;")
    assert received.values("X-Real-IP") == ["127.0.0.1"]
    assert received.values("X-Request-Id") != ["theirs"]
    assert exchange.scheme == "https"


@pytest.mark.parametrize("trusted", [True, False])
async def test_38_a_list_of_more_than_fifty(wire, trusted):
    gate = await wire.gate(options=LOOPBACK if trusted else None)
    assert (await gate.ask(get("X-Forwarded-For: " + ", ".join(["1.2.3.4"] * 50)))).status == 200
    assert (await gate.ask(get("X-Forwarded-For: " + ", ".join(["1.2.3.4"] * 51)))).status == 400


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rb", "a\0b"])
async def test_40_a_step_cannot_split_the_response(gate, wire, value, caplog):
    gate.api.before = lambda exchange: wire.Response(200, b"", raw_headers=[(b"Location", value.encode())])
    client = await gate.client()
    reply = await client.ask(get())
    assert reply.status == 500
    assert "X-Evil" not in reply
    assert await client.rest() == b""
    assert "cannot be sent" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("value", ["/a\r\nX-Evil: 1", "/a b", "/a\n", "a", "/ä"])
async def test_40_a_step_cannot_split_the_request(gate, value):
    def rewrite(exchange):
        exchange.upstream_path = value

    gate.api.before = rewrite
    reply = await gate.ask(get())
    assert (reply.status, reply.code) == (502, "upstream_invalid")
    assert not gate.upstream.received


async def test_40_a_value_with_a_line_break_is_no_header(gate):
    def edit(exchange):
        with pytest.raises(ValueError, match="control character"):
            exchange.upstream_headers.set("X-A", "b\r\nc: d")

    gate.api.before = edit
    assert (await gate.ask(get())).status == 200


async def test_41_many_cookies_arrive_as_they_are(gate):
    cookie = "; ".join(f"c{number}={'v' * 90}" for number in range(60))
    received, _, _ = await seen(gate, f"Cookie: {cookie}")
    assert received.values("Cookie") == [cookie]


async def test_41_a_cookie_over_the_size_rule(gate):
    assert (await gate.ask(get(f"Cookie: c={'v' * 8200}"))).status == 431


async def test_edits_remove_set_and_add(gate):
    def edit(exchange):
        exchange.upstream_headers.remove("COOKIE")
        exchange.upstream_headers.set("x-tag", "new")
        exchange.upstream_headers.add("X-More", "m")
        exchange.upstream_query = "k=v"

    gate.api.before = edit
    received, _, _ = await seen(gate, "Cookie: a=b", "X-Tag: old", "X-More: l")
    assert received.values("Cookie") == []
    assert received.values("X-Tag") == ["new"]
    assert received.values("X-More") == ["l", "m"]
    assert received.target == "/x?k=v"


async def test_raw_bytes_in_a_value_survive(gate):
    client = await gate.client()
    await client.ask(b"GET /api/x HTTP/1.1\r\nHost: a\r\nX-Raw: caf\xe9\xff\r\n\r\n")
    assert gate.upstream.received[0].values("X-Raw") == ["caf\xe9\xff"]


async def test_request_ids_differ_and_match_the_upstreams(gate):
    client = await gate.client()
    ids = [(await client.ask(get()))["X-Request-Id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert [received.values("X-Request-Id")[0] for received in gate.upstream.received] == ids


async def test_date_is_ours_only_when_absent(gate):
    reply = await gate.ask(get())
    assert reply["Date"].endswith("GMT")
    for name in (b"Date", b"date", b"dATe"):
        gate.upstream.answer = b"HTTP/1.1 200 OK\r\n%b: x\r\nContent-Length: 0\r\n\r\n" % name
        assert (await gate.ask(get()))["Date"] == "x"


@pytest.mark.parametrize(
    "base,strip,target,expected",
    [
        ("", True, "/api/x", "/x"),
        ("/", True, "/api/x", "/x"),
        ("/v1", True, "/api/x", "/v1/x"),
        ("/v1/", True, "/api/x", "/v1/x"),
        ("/v1/", True, "/api", "/v1/"),
        ("", False, "/api/x", "/api/x"),
        ("/v1", False, "/api/x", "/v1/api/x"),
    ],
)
async def test_upstream_path(wire, base, strip, target, expected):
    gate = await wire.gate(base_path=base, strip=strip)
    await gate.ask(get(target=target))
    assert gate.upstream.received[0].target == expected


async def test_base_query_comes_first(wire):
    gate = await wire.gate(base_query="a=1")
    await gate.ask(get())
    await gate.ask(get(target="/api/x?b=2"))
    assert [received.target for received in gate.upstream.received] == ["/x?a=1", "/x?a=1&b=2"]


async def test_preserve_host(wire):
    gate = await wire.gate(preserve_host=True)
    await gate.ask(get())
    assert gate.upstream.received[0].values("Host") == ["a.example:8080"]
