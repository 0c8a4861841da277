"""The example plugin `maintenance_window`, tested as a plugin author would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aiogate.errors import DiagnosticsFound
from aiogate.testing import FakeClock, make_exchange, make_services, run_middleware, running_gateway
from plugins import maintenance_window

FROM, UNTIL = 1_700_000_000.0, 1_700_003_600.0
CONFIG = {"from": "2023-11-14T22:13:20Z", "until": "2023-11-14T23:13:20Z"}
KIND = maintenance_window.aiogate_middleware()
SOURCE = Path(maintenance_window.__file__).read_text()


@pytest.mark.parametrize(
    "now, passed",
    [(FROM - 1, True), (FROM, False), (UNTIL - 1, False), (UNTIL, True)],
    ids=["before", "first second", "last second", "after"],
)
async def test_only_the_window_is_closed(now: float, passed: bool) -> None:
    services = make_services(FakeClock(now))
    assert (await run_middleware(KIND, CONFIG, make_exchange(), services=services)).passed is passed


async def test_the_refusal_says_when_to_come_back() -> None:
    services = make_services(FakeClock(UNTIL - 90.5))
    outcome = await run_middleware(KIND, {**CONFIG, "message": "Back at two"}, make_exchange(), services=services)
    assert outcome.response.status == 503
    assert outcome.response.headers["Retry-After"] == "91"
    assert b'"error":"Back at two","code":"maintenance"' in outcome.response.body  # type: ignore[operator]


@pytest.mark.parametrize(
    "change",
    [{"until": CONFIG["from"]}, {"until": "2023-11-14T22:00:00"}, {"message": ""}, {"form": CONFIG["from"]}],
    ids=["empty window", "no zone", "no message", "misspelt"],
)
def test_a_window_that_makes_no_sense_is_refused(change: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KIND.config.model_validate({**CONFIG, **change})


def files(mode: str) -> dict[str, str]:
    return {
        "plugins/maintenance_window.py": SOURCE,
        "apis.d/shop.yaml": f"""
            listen: /shop/
            auth: none
            plugins:
              - mock: open
              - maintenance_window: {{from: {CONFIG["from"]}, until: {CONFIG["until"]}}}
                match: {{methods: [POST]}}
                mode: {mode}
            """,
    }


async def test_it_works_as_a_file_in_the_plugins_folder() -> None:
    clock = FakeClock(FROM + 10)
    async with running_gateway(files("enforce"), clock=clock) as gateway:
        refused = await gateway.request("POST", "/shop/")
        assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "maintenance", "3590")
        why = await gateway.why(refused)
        assert (why["step"], why["stage"]) == ("maintenance_window", "ENTRY")
        assert why["rule"].endswith("apis.d/shop.yaml:5:5")
        assert (await gateway.get("/shop/")).body == b"open"
        clock.advance(3600)
        assert (await gateway.request("POST", "/shop/")).body == b"open"


async def test_in_shadow_mode_nobody_is_refused_and_it_is_counted() -> None:
    async with running_gateway(files("shadow"), clock=FakeClock(FROM + 10)) as gateway:
        assert (await gateway.request("POST", "/shop/")).body == b"open"
        [rule] = (await gateway.tyk("GET", "/tyk/shadow")).json["rules"]
        assert (rule["step"], rule["code"], rule["count"]) == ("maintenance_window", "maintenance", 1)


async def test_a_mistake_is_told_at_its_place() -> None:
    broken = files("enforce")
    broken["apis.d/shop.yaml"] = broken["apis.d/shop.yaml"].replace("until: 2023", "until: 2013")
    with pytest.raises(DiagnosticsFound, match=r"shop\.yaml:5:\d+: .*the window ends before it begins"):
        async with running_gateway(broken):
            pass
