"""`request_headers` and `response_headers` through the public door."""

from __future__ import annotations

import pytest

from aiogate.errors import DiagnosticsFound
from aiogate.testing import recording_upstream, running_gateway

EDITS = "{remove: [X-Gone], set: {X-From: aiogate}, add: {X-More: two}}"


async def test_requests():
    async with recording_upstream() as upstream:
        plugin = f"{{request_headers: {EDITS}, match: {{paths: [/a]}}}}"
        text = f"{{listen: /x/, auth: none, upstream: '{upstream.url}', plugins: [{plugin}]}}"
        async with running_gateway({"apis.d/x.yaml": text}) as gateway:
            sent = {"X-Gone": "1", "x-from": "client", "X-More": "one"}
            await gateway.get("/x/a", headers=sent)
            headers = upstream.last.headers
            assert "X-Gone" not in headers
            assert (headers.getall("X-From"), headers.getall("X-More")) == (["aiogate"], ["one", "two"])
            await gateway.get("/x/b", headers=sent)
            assert upstream.last.headers.getall("X-From") == ["client"]


async def test_responses():
    mock = "{mock: {body: hi, headers: {X-Gone: '1', X-From: upstream, X-More: one}}}"
    text = f"{{listen: /x/, auth: none, plugins: [{{response_headers: {EDITS}, match: {{paths: [/a]}}}}, {mock}]}}"
    async with running_gateway({"apis.d/x.yaml": text}) as gateway:
        headers = (await gateway.get("/x/a")).headers
        assert "X-Gone" not in headers
        assert (headers.getall("X-From"), headers.getall("X-More")) == (["aiogate"], ["one", "two"])
        assert (await gateway.get("/x/b")).headers.getall("X-From") == ["upstream"]


@pytest.mark.parametrize("name", ["request_headers", "response_headers"])
@pytest.mark.parametrize(
    "edits",
    [
        r'{set: {X-A: "a\r\nX-B: b"}}',
        r'{add: {X-A: "a\0"}}',
        '{set: {"a b": c}}',
        "{set: {Content-Length: '3'}}",
        "{remove: [transfer_encoding]}",
        "{sett: {X-A: b}}",
        "{}, mode: shadow",
    ],
)
async def test_40_what_cannot_be_sent_is_told_before_it_is_served(name, edits):
    text = f"{{listen: /x/, auth: none, plugins: [{{{name}: {edits}}}, {{mock: hi}}]}}"
    with pytest.raises(DiagnosticsFound):
        async with running_gateway({"apis.d/x.yaml": text}):
            pass
