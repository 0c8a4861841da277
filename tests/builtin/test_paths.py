"""`paths` through the public door: allowed, blocked and open paths, in every spelling (attack rows 23 to 28, G6)."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate import PathEntry, PathTable
from aiogate.errors import DiagnosticsFound, Problem
from aiogate.proxy.paths import canonical
from aiogate.testing import recording_upstream, running_gateway


def site(lists: str, more: str = "", auth: str = "none", upstream: str = "http://127.0.0.1:9/") -> dict[str, str]:
    plugins = f"[{{paths: {lists}{more}}}]"
    return {"apis.d/x.yaml": f"{{listen: /x/, auth: {auth}, upstream: '{upstream}', plugins: {plugins}}}"}


@pytest.mark.parametrize(
    "lists, method, path, status",
    [
        ("{block: [/a/*]}", "GET", "/a/1", 403),
        ("{block: [/a/*]}", "GET", "/b", 200),
        ("{block: [{path: /a, methods: [POST]}]}", "POST", "/a", 403),
        ("{block: [{path: /a, methods: [POST]}]}", "GET", "/a", 200),
        ("{block: ['^/v[0-9]+/admin']}", "GET", "/v12/administrators", 403),
        ("{block: ['^/v[0-9]+/admin$']}", "GET", "/v12/administrators", 200),
        ("{allow: [/a/*, /b]}", "GET", "/a/1", 200),
        ("{allow: [/a/*, /b]}", "GET", "/c", 403),
        ("{allow: [/a/*], block: [/a/secret]}", "GET", "/a/secret", 403),
        ("{allow: [/a/*], open: [/health]}", "GET", "/health", 200),
        ("{block: [/a/*], open: [/a/public]}", "GET", "/a/public", 200),
        ("{block: [/secret]}", "GET", "/secret/", 403),
        ("{block: [/secret]}", "GET", "/secret;x=1", 403),
        ("{block: [/secret]}", "GET", "/;y/secret%3bx", 403),
        ("{block: [/secret/x]}", "GET", "/secret;jsessionid=1/x", 403),
        ("{allow: [/*.png]}", "GET", "/a.png", 200),
        ("{allow: [/*.png]}", "GET", "/secret;.png", 403),
        ("{allow: [/a;v=1]}", "GET", "/a;v=1", 200),
    ],
)
async def test_who_gets_through(lists, method, path, status):
    async with recording_upstream() as upstream, running_gateway(site(lists, upstream=upstream.url)) as gateway:
        reply = await gateway.request(method, f"/x{path}")
        assert reply.status == status
        assert len(upstream.received) == (status == 200)
        if status == 403:
            assert (reply.code, reply.error) == ("path_denied", "Requested endpoint is forbidden")


async def test_a_block_comes_before_authentication_and_why_names_the_entry():
    async with running_gateway(site("{block: [{path: /a/*, methods: [GET]}]}", auth="[key]")) as gateway:
        reply = await gateway.get("/x/a/1")
        assert reply.status == 403
        why = await gateway.why(reply)
        assert (why["step"], why["stage"], why["reason"]) == (
            "paths", "VERSION", "GET /a/1 is blocked by `GET /a/*`",
        )  # fmt: skip
        assert (await gateway.get("/x/b")).code == "auth_missing"


async def test_an_open_path_needs_no_credential_and_spends_no_quota():
    files = site("{open: [/public/*, '^/v[0-9]/health$']}", auth="[key, basic]")
    async with recording_upstream() as upstream:
        files = {name: text.replace("http://127.0.0.1:9/", upstream.url) for name, text in files.items()}
        async with running_gateway(files) as gateway:
            key = await gateway.create_key("x", quota_max=1, quota_renewal_rate=3600)
            for path in ("/x/public/a", "/x/v1/health", "/x/public/a;b"):
                reply = await gateway.get(path, key=key)
                assert (reply.status, "X-RateLimit-Limit" in reply.headers) == (200, False)
            assert (await gateway.get("/x/public/a", key="not-a-key")).status == 200
            for path in ("/x/public", "/x/v1/health/", "/x/secret;/public/a", "/x/PUBLIC/a"):
                assert (await gateway.get(path)).code == "auth_missing"
            assert (await gateway.get("/x/a", key=key)).status == 200
            assert (await gateway.get("/x/a", key=key)).code == "quota_exceeded"


async def test_an_open_path_never_opens_by_what_a_server_behind_would_cut_off():
    async with running_gateway(site("{open: [/*.png]}", auth="[key]")) as gateway:
        assert (await gateway.get("/x/secret;.png")).code == "auth_missing"
        assert (await gateway.get("/x/secret%3B.png")).code == "auth_missing"


async def test_open_wins_over_a_block_of_another_entry_and_a_match_limits_it():
    plugins = (
        "[{paths: {block: [/a/*]}}, {paths: {open: [/a/*]}, match: {methods: [GET]}}, {rate_limit: 2/1h}, mock: hi]"
    )
    async with running_gateway({"apis.d/x.yaml": f"{{listen: /x/, auth: key, plugins: {plugins}}}"}) as gateway:
        assert (await gateway.request("POST", "/x/a/1")).code == "path_denied"
        assert (await gateway.get("/x/a/1")).status == 200
        assert (await gateway.get("/x/a/1")).status == 200
        assert (await gateway.get("/x/a/1")).code == "api_rate_limited", "limits of the API as a whole count"


async def test_shadow_decides_and_lets_through():
    lists, more = "{block: [/a]}", ", mode: shadow"
    async with recording_upstream() as upstream, running_gateway(site(lists, more, upstream=upstream.url)) as gateway:
        reply = await gateway.get("/x/a")
        assert reply.status == 200
        why = await gateway.why(reply)
        assert (why["code"], why["shadow"]) == ("path_denied", True)


@pytest.mark.parametrize(
    "lists, place",
    [
        ("{}", "7:12"),
        ("{allow: []}", "7:12"),
        ("{block: [secret]}", "7:21"),
        ("{block: ['/a/.*']}", "7:21"),
        ("{block: ['/a/[0-9]+']}", "7:21"),
        ("{block: ['^/a(?=b)']}", "7:21"),
        ("{block: ['^/(a']}", "7:21"),
        ("{block: [{path: /a, methods: [get]}]}", "7:42"),
        ("{block: [{pattern: /a}]}", "7:21"),
        ("{block: [{path: /a}, {methods: [GET]}]}", "7:33"),
        ("{open: [/a]}\n    mode: shadow", "7:5"),
    ],
)
async def test_mistakes_are_told_at_their_place(lists, place):
    text = f"id: x\nlisten: /x/\nauth: none\n\nplugins:\n  - mock: hi\n  - paths: {lists}\n"
    with pytest.raises(DiagnosticsFound) as caught:
        async with running_gateway({"apis.d/x.yaml": text}):
            pass
    assert place in {f"{one.line}:{one.column}" for one in caught.value.diagnostics}


SEED = 20_26


def spellings(path: str, count: int) -> list[str]:
    """What servers of many kinds take for one path: escapes, doubled slashes, dots, parameters, a slash at the end."""
    chance = random.Random(SEED)

    def letter(char: str) -> str:
        forms = [char] * 4 + [f"%{ord(char):02x}", f"%{ord(char):02X}"]
        return chance.choice(forms)

    def slash() -> str:
        between = ["/"] * 6 + ["//", "///", "/./", "/%2e/", "/a/../", "/;/", "/;x=1/", "/%2E/", "/b/%2e%2e/", "/.;a/"]
        return chance.choice([*between, "/c/..;/", "/%3b/"])

    def end() -> str:
        return chance.choice(
            ["", "", "/", "//", "/.", ";", ";a=b", "%3Ba", "/;", "/%2e", ";.css", "/;x/", "?q", "/?q=%2e"]
        )

    made: set[str] = set()
    while len(made) < count:
        segments = path.strip("/").split("/")
        text = "".join(slash() + "".join(letter(char) for char in segment) for segment in segments)
        made.add(text + end())
    return sorted(made)


@pytest.mark.slow
async def test_g6_no_spelling_of_a_blocked_path_reaches_the_upstream():
    files = "{{listen: /api/, auth: none, upstream: '{}', plugins: [{{paths: {{block: {}}}}}]}}"
    for block in ("[/admin/secret]", "['^/admin/secret$']", "[/admin/*]"):
        async with recording_upstream() as upstream:
            text = files.format(upstream.url, block)
            async with running_gateway({"apis.d/x.yaml": text}) as gateway:
                host, _, port = gateway.url.removeprefix("http://").partition(":")
                statuses: dict[int, int] = {}
                targets = spellings("/admin/secret", 700)
                reader, writer = await asyncio.open_connection(host, int(port))
                for target in targets:
                    if writer.is_closing() or reader.at_eof():
                        writer.close()
                        reader, writer = await asyncio.open_connection(host, int(port))
                    writer.write(f"GET /api{target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
                    status = int(head.split()[1])
                    statuses[status] = statuses.get(status, 0) + 1
                    if b"\nConnection: close" in head:
                        writer.close()
                        reader, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                assert set(statuses) == {400, 403}, statuses
                assert min(statuses.values()) > 50, statuses
                assert upstream.received == []
                # The control: without the rule the canonical ones do arrive.
                await gateway.reload({"apis.d/x.yaml": files.format(upstream.url, "[/other]")})
                assert (await gateway.get("/api/admin//secret;x")).status == 200


def lenient(path: str) -> set[str]:
    """The resources that lenient servers may take a forwarded path for."""
    readings = {path}
    for cut in (False, True):
        for decode in (False, True):
            text = path
            if cut:
                text = re.sub(r"(?:;|%3B)[^/]*", "", text)
            if decode:
                text = unquote(text)
            kept: list[str] = []
            for segment in text.split("/"):
                if segment == "..":
                    kept = kept[:-1]
                elif segment not in ("", "."):
                    kept.append(segment)
            readings.add("/" + "/".join(kept))
    return readings


PIECES = st.sampled_from(
    [
        "/",
        "//",
        "secret",
        "%73ecret",
        "se",
        "cret",
        "public",
        ".",
        "..",
        "%2e",
        ";",
        ";x",
        "%3b",
        "%2f",
        "%25",
        "a",
        "?",
    ]
)


@given(st.lists(PIECES, max_size=10).map(lambda pieces: "/" + "".join(pieces)))
def test_g6_what_passes_a_block_is_the_resource_to_nobody(target):
    found = canonical(target)
    if isinstance(found, Problem):
        return
    again = canonical(found.path)
    assert not isinstance(again, Problem)
    assert again.path == found.path, "the rule sees the bytes that are forwarded"
    table = PathTable([PathEntry(path="/secret"), PathEntry(path="/secret/*")])
    if table.keeps_out("GET", found.path) is None:
        assert not any(reading == "/secret" or reading.startswith("/secret/") for reading in lenient(found.path))


@given(st.lists(PIECES, max_size=10).map(lambda pieces: "/" + "".join(pieces)))
def test_g6_what_is_let_in_is_in_the_list_for_everybody(target):
    found = canonical(target)
    if isinstance(found, Problem):
        return
    table = PathTable([PathEntry(path="/public/*")])
    if table.lets_in("GET", found.path) is not None:
        readings = {reading + "/" for reading in lenient(found.path)}
        assert all(reading.startswith("/public/") for reading in readings)


def test_methods_are_part_of_an_entry():
    table = PathTable(
        [PathEntry(path="/a", methods=("GET",)), PathEntry(path="/a", methods=("PUT",)), PathEntry(path="/b")]
    )
    hits = {(m, p) for m, p in itertools.product(("GET", "PUT", "POST"), ("/a", "/b")) if table.keeps_out(m, p)}
    assert hits == {("GET", "/a"), ("PUT", "/a"), ("GET", "/b"), ("PUT", "/b"), ("POST", "/b")}
