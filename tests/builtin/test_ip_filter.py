"""`ip_filter` through the public door."""

from __future__ import annotations

import re

import pytest

from aiogate.errors import DiagnosticsFound
from aiogate.testing import running_gateway

SITE = "{{listen: /x/, auth: {auth}, plugins: [{{ip_filter: {lists}{more}}}, {{mock: hi}}]}}"


def site(lists: str, more: str = "", auth: str = "none") -> dict[str, str]:
    return {"apis.d/x.yaml": SITE.format(lists=lists, more=more, auth=auth)}


@pytest.mark.parametrize(
    "lists, client, status",
    [
        ("{allow: [10.0.0.0/8]}", "10.1.2.3", 200),
        ("{allow: [10.0.0.0/8]}", "::ffff:10.1.2.3", 200),
        ("{allow: ['::ffff:10.0.0.0/104']}", "10.1.2.3", 200),
        ("{allow: [10.0.0.0/8]}", "192.0.2.1", 403),
        ("{allow: [10.0.0.0/8], deny: [10.0.0.13]}", "10.0.0.13", 403),
        ("{deny: [10.0.0.13]}", "::ffff:10.0.0.13", 403),
        ("{deny: [10.0.0.13]}", "2001:db8::1", 200),
    ],
)
async def test_who_comes_in(lists, client, status):
    async with running_gateway(site(lists), trusted_proxies=["127.0.0.1"]) as gateway:
        assert (await gateway.get("/x/", headers={"X-Forwarded-For": client})).status == status


async def test_38_an_untrusted_client_cannot_say_who_it_is_and_why_says_so():
    async with running_gateway(site("{allow: [10.0.0.0/8]}", auth="[key]")) as gateway:
        reply = await gateway.get("/x/", headers={"X-Forwarded-For": "10.0.0.1", "X-Real-IP": "10.0.0.1"})
        assert (reply.status, reply.code, reply.error) == (
            403, "ip_denied", "access from this IP has been disallowed",
        )  # fmt: skip
        why = await gateway.why(reply)
        assert (why["step"], why["stage"]) == ("ip_filter", "VERSION")
        assert why["reason"] == "127.0.0.1 is in none of the 1 allowed networks"


async def test_match_and_shadow():
    lists = "{deny: [127.0.0.1]}"
    async with running_gateway(site(lists, ", match: {paths: [/a/*]}")) as gateway:
        assert (await gateway.get("/x/a/1")).status == 403
        assert (await gateway.get("/x/b")).status == 200
    async with running_gateway(site(lists, ", mode: shadow")) as gateway:
        reply = await gateway.get("/x/")
        assert reply.status == 200
        why = await gateway.why(reply)
        assert (why["code"], why["shadow"]) == ("ip_denied", True)


@pytest.mark.parametrize("lists, told", [
    ("{}", "needs an address"),
    ("{allow: [], deny: ['::1']}", "`allow` is empty"),
    ("{allow: [0x7f.1]}", "`0x7f.1` is not a network (such as `10.0.0.0/8` or `::1`)"),
    ("{deny: [10.0.0.1/8]}", "`10.0.0.1/8` is not a network (did you mean `10.0.0.0/8`?)"),
    ("{deny: ['2001:db8::1/32']}", "`2001:db8::1/32` is not a network (did you mean `2001:db8::/32`?)"),
    ("{alow: ['::1']}", "`alow` is not a known key (did you mean `allow`?)"),
])  # fmt: skip
async def test_mistakes_are_told(lists, told):
    with pytest.raises(DiagnosticsFound, match=re.escape(told)):
        async with running_gateway(site(lists)):
            pass
