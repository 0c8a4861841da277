"""Any plugin may open a request: authentication and rights then let it pass, and nothing else does."""

from __future__ import annotations

import pytest

from aiogate import Exchange, Middleware, MiddlewareKind, Model, Stage

AUTH = "auth: key\nplugins: [{opener: {}%s}, {mock: hi}]"


class NoConfig(Model):
    pass


def opener(opens):
    return MiddlewareKind("opener", Stage.REQUEST, NoConfig, lambda config, context: Middleware(opens=opens))


def by_header(exchange: Exchange) -> bool:
    return "X-Open" in exchange.headers


async def test_an_open_request_needs_no_credential(bench, names):
    bench.offer(opener(by_header))
    api = bench.compile(AUTH % "")
    assert names(api)[:3] == ["open", "auth", "access"]
    response, exchange = await bench.ask(api, headers={"X-Open": "1"})
    assert (response.status, exchange.open, exchange.session) == (200, True, None)
    response, exchange = await bench.ask(api)
    assert (response.status, exchange.open) == (401, False)


async def test_a_chain_without_one_has_no_such_step(bench, names):
    assert "open" not in names(bench.compile("auth: key\nplugins: [mock: hi]"))


async def test_match_and_shadow(bench, names):
    bench.offer(opener(by_header))
    api = bench.compile(AUTH % ", match: {paths: [/a], methods: [GET]}")
    assert (await bench.ask(api, "/a", headers={"X-Open": "1"}))[0].status == 200
    assert (await bench.ask(api, "/b", headers={"X-Open": "1"}))[0].status == 401
    assert (await bench.ask(api, "/a", method="PUT", headers={"X-Open": "1"}))[0].status == 401
    api = bench.compile(AUTH % ", mode: shadow")
    assert "open" not in names(api)
    assert (await bench.ask(api, headers={"X-Open": "1"}))[0].status == 401


@pytest.mark.parametrize("answer", [1, "yes", None, object()])
async def test_anything_but_true_stays_closed(bench, answer):
    bench.offer(opener(lambda exchange: answer))
    assert (await bench.ask(bench.compile(AUTH % "")))[0].status == 401


async def test_one_that_fails_refuses(bench, caplog):
    bench.offer(opener(lambda exchange: 1 / 0))
    assert (await bench.ask(bench.compile(AUTH % "")))[0].status == 500
    assert "ZeroDivisionError" in caplog.text


async def test_a_wrong_credential_does_not_close_it(bench):
    bench.offer(opener(by_header))
    response, exchange = await bench.ask(
        bench.compile(AUTH % ""), headers={"X-Open": "1", "Authorization": "no-such-key"}
    )
    assert (response.status, exchange.grant) == (200, None)
