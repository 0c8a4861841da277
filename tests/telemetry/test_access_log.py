"""The access log says what happened, never a secret, and never holds up a request."""

from __future__ import annotations

import asyncio
import os
import re
import threading

import orjson
import pytest

from aiogate.errors import DiagnosticsFound
from aiogate.telemetry.access_log import AccessLog, Line, as_combined, as_json, redacted
from aiogate.testing import recording_upstream, running_gateway

LINE = Line(
    1.5,
    "id-1",
    "127.0.0.1",
    "GET",
    "/a",
    "",
    200,
    5,
    0.25,
    0.125,
    "a",
    "v1",
    "hash",
    "bob",
    "",
    3,
    "HTTP/1.1",
    "",
    "curl",
)
APIS = {
    "apis.d/open.yaml": "{listen: /open/, upstream: 'PLACE', auth: none}",
    "apis.d/keys.yaml": "{listen: /keys/, upstream: PLACE, auth: [key: {header: X-Key, query: who, cookie: k}, basic]}",
}


async def walk(tmp_path, **settings):
    """The log of a walk with planted secrets, read after the gateway has ended."""
    file = tmp_path / "access.log"
    async with recording_upstream() as upstream:
        files = {name: text.replace("PLACE", upstream.url) for name, text in APIS.items()}
        async with running_gateway(files, access_log__file=str(file), **settings) as gateway:
            await gateway.create_key("keys", name="canary-key", alias="partner")
            await gateway.create_user("alice", "canary-password", "keys")
            await gateway.get("/open/x?page=2&token=canary-token")
            for sent in (
                {"path": "/keys/?who=canary-key&n=1"},
                {"path": "/keys/", "headers": {"X-Key": "canary-key"}},
                {"path": "/keys/", "headers": {"Cookie": "k=canary-key"}},
                {"path": "/keys/", "user": ("alice", "canary-password")},
                {"path": "/keys/", "user": ("alice", "canary-wrong")},
                {"path": "/keys/?who=canary-unknown"},
                {"path": "/keys/", "headers": {"X-Key": "canary-key", "Referer": "http://a/?t=canary-referer"}},
            ):
                await gateway.request("POST", data=b"canary-body", **sent)
            await gateway.get("/nobody?who=canary-key")
            metrics = (await gateway.gateway.metrics())()
    text = file.read_text()
    assert "canary" not in text
    assert "canary" not in metrics
    assert gateway.secret not in text
    return text.splitlines()


async def test_json_says_what_happened(tmp_path):
    lines = [orjson.loads(line) for line in await walk(tmp_path, access_log__format="json")]
    assert [(line["path"], line["status"], line["api"], line["code"]) for line in lines] == [
        ("/open/x", 200, "open", ""),
        *[("/keys/", 200, "keys", "")] * 4,
        ("/keys/", 401, "keys", "auth_failed"),
        ("/keys/", 403, "keys", "key_unknown"),
        ("/keys/", 200, "keys", ""),
        ("/nobody", 404, "", "not_found"),
    ]
    assert [line["label"] for line in lines[1:5]] == ["partner", "partner", "partner", "alice"]
    assert all(line["upstream"] <= line["duration"] for line in lines if line["status"] == 200)
    assert all(line["bytes"] > 0 for line in lines)
    assert not any("query" in line for line in lines)


async def test_queries_are_logged_without_their_secrets(tmp_path):
    lines = [orjson.loads(line) for line in await walk(tmp_path, access_log__format="json", access_log__query=True)]
    assert [line["query"] for line in lines if "query" in line] == ["page=2&token=-", "who=-&n=1", "who=-"]


async def test_combined(tmp_path):
    shape = (
        r'127\.0\.0\.1 - \S+ \[\d\d/\w{3}/\d{4}(:\d\d){3} \+0000\] "[A-Z]+ /\S* HTTP/1\.1" \d{3} \d+ "[^"]*" "[^"]*"'
    )
    lines = await walk(tmp_path, access_log__format="combined")
    assert len(lines) == 9
    assert [line for line in lines if not re.fullmatch(shape, line)] == []


def test_nobody_writes_lines_of_their_own():
    evil = LINE._replace(path='/a\n"\x9b\udc80\\', label="b\r\nc", agent='"x"')
    assert as_json(evil).count(b"\n") == 1
    assert orjson.loads(as_json(evil))["label"] == "b\\x0d\\x0ac"
    combined = as_combined(evil)
    assert combined.count(b"\n") == 1
    assert combined.count(b'"') == 6


@pytest.mark.parametrize(
    "query,shown",
    [
        ("a=1&key=x", "a=1&key=-"),
        ("API%5FKEY=x", "API%5FKEY=-"),
        ("access_token=x&mine=y", "access_token=-&mine=-"),
        ("keys", "keys"),
    ],
)
def test_redaction(query, shown):
    assert redacted(query, frozenset({"mine"})) == shown


async def test_a_moved_file_is_left_at_a_reload_even_a_refused_one(tmp_path):
    file = tmp_path / "access.log"
    async with running_gateway({}, access_log__format="json", access_log__file=str(file)) as gateway:
        file.rename(tmp_path / "access.log.1")
        assert not (await gateway.reload({"apis.d/broken.yaml": "listen: 7"})).ok
        async with asyncio.timeout(5):
            while not file.exists():
                await asyncio.sleep(0.01)
        await gateway.get("/after")
    assert "/after" in file.read_text()


async def test_a_blocked_writer_costs_lines_and_no_request(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with running_gateway({}, access_log__format="json", access_log__file=str(pipe)) as gateway:
        assert gateway.gateway.access_log is not None
        gateway.gateway.access_log._capacity = 5
        # Nobody reads: the thread waits for a reader with what it took, five lines wait, and the others are dropped.
        async with asyncio.timeout(10):
            while gateway.gateway.access_log.dropped < 20:
                assert (await gateway.get("/hello")).status == 200
        assert "aiogate_access_log_dropped_total 0" not in (await gateway.gateway.metrics())()
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.close(reader)


def test_a_disk_that_refuses_loses_counted_lines():
    log = AccessLog("/dev/full")
    log.start()
    for _ in range(3):
        log.append(LINE)
    log.close()
    assert (log.lost, log.dropped) == (3, 0)
    assert not [thread for thread in threading.enumerate() if thread.name == "access-log"]


async def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path):
    with pytest.raises(DiagnosticsFound) as caught:
        async with running_gateway({}, access_log__format="json", access_log__file=str(tmp_path / "no" / "log")):
            pass
    assert [one.code for one in caught.value.diagnostics] == ["access_log_unwritable"]
