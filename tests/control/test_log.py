"""`/tyk/log`: the level of the log, changed while the gateway runs."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _as_before():
    before = {name: logging.getLogger(name).level for name in ("aiogate", "aiogate.chain")}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


async def test_a_level_is_changed_and_shown(control):
    answer = await control.tyk("PUT", "/log", {"level": "debug", "logger": "aiogate.chain"})
    assert (answer.status, answer.json["levels"]["aiogate.chain"]) == (200, "debug")
    assert logging.getLogger("aiogate.chain").isEnabledFor(logging.DEBUG)
    await control.tyk("PUT", "/log", {"level": "error"})
    levels = (await control.tyk("GET", "/log")).json["levels"]
    assert (levels["aiogate"], levels["aiogate.listener"], levels["aiogate.chain"]) == ("error", "error", "debug")


@pytest.mark.parametrize("body", [{}, {"level": "loud"}, {"level": "debug", "logger": "asyncio"}, {"level": 7}])
async def test_what_is_refused(control, body):
    before = (await control.tyk("GET", "/log")).json
    assert (await control.tyk("PUT", "/log", body)).status == 400
    assert (await control.tyk("GET", "/log")).json == before
