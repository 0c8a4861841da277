"""`/metrics` says what happened, in a format that a real parser reads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from aiogate.telemetry.metrics import Counts, Family, Metrics, Sample, exposition
from aiogate.testing import GatewayClient, recording_upstream, running_gateway

ROOT = Path(__file__).resolve().parents[2]


async def metrics(gateway, **headers):
    async with GatewayClient(gateway.control_url, gateway.control_url, "", "") as control:
        return await control.get("/metrics", headers=headers)


async def read(gateway, **headers):
    """Every value by name and labels."""
    reply = await metrics(gateway, **headers)
    assert reply.status == 200, reply.text
    parse = parse_openmetrics if "openmetrics" in reply.headers["Content-Type"] else parse_text
    families = list(parse(reply.text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def value(found, name, **labels):
    return found.get((name, *sorted(labels.items())), 0)


FILES = {
    "apis.d/open.yaml": "{listen: /open/, upstream: 'PLACE', auth: none}",
    "apis.d/closed.yaml": "{listen: /closed/, upstream: 'PLACE', auth: key}",
    "apis.d/dead.yaml": "{listen: /dead/, upstream: 'http://127.0.0.1:1/', auth: none}",
}


async def test_values_are_those_of_the_requests_made():
    async with recording_upstream() as upstream:
        files = {name: text.replace("PLACE", upstream.url) for name, text in FILES.items()}
        async with running_gateway(files) as gateway:
            for _ in range(3):
                assert (await gateway.get("/open/x")).status == 200
            answered = len((await gateway.request("POST", "/open/y", data=b"12345")).body)
            assert (await gateway.get("/closed/")).status == 401
            assert (await gateway.get("/dead/")).status == 502
            for path in ("/nobody", "/nobody/else"):
                assert (await gateway.get(path)).status == 404
            assert (await gateway.reload()).ok
            assert not (await gateway.reload({"apis.d/broken.yaml": "listen: 7"})).ok
            found = await read(gateway)
            assert await read(gateway, Accept="application/openmetrics-text; version=1.0.0") != {}
            health = (await gateway.tyk("GET", "/tyk/health?api_id=open")).json
    assert health["average_requests_per_second"] > 0
    assert health["average_upstream_latency"] > 0
    assert value(found, "aiogate_requests_total", api="open", status="2xx") == 4
    assert value(found, "aiogate_requests_total", api="closed", status="4xx") == 1
    assert value(found, "aiogate_requests_total", api="dead", status="5xx") == 1
    assert value(found, "aiogate_requests_total", api="(none)", status="4xx") == 2
    assert value(found, "aiogate_request_duration_seconds_count", api="open", status="2xx") == 4
    assert value(found, "aiogate_request_duration_seconds_bucket", api="open", status="2xx", le="+Inf") == 4
    assert value(found, "aiogate_request_duration_seconds_sum", api="open", status="2xx") > 0
    assert value(found, "aiogate_request_body_bytes_total", api="open") == 5
    assert value(found, "aiogate_response_body_bytes_total", api="open") > answered
    assert value(found, "aiogate_refusals_total", api="closed", code="auth_missing") == 1
    assert value(found, "aiogate_refusals_total", api="dead", code="upstream_unreachable") == 1
    assert value(found, "aiogate_refusals_total", api="(none)", code="not_found") == 2
    assert value(found, "aiogate_upstream_errors_total", api="dead", kind="unreachable") == 1
    assert value(found, "aiogate_upstream_duration_seconds_count", api="open") == 4
    assert value(found, "aiogate_reloads_total", verdict="accepted") == 1
    assert value(found, "aiogate_reloads_total", verdict="refused") == 1
    assert value(found, "aiogate_generation") == 2
    assert value(found, "aiogate_last_reload_ok") == 0
    origin = upstream.url.rstrip("/")
    assert value(found, "aiogate_upstream_connections", origin=origin, state="idle") == 1
    assert value(found, "aiogate_upstream_connections", origin=origin, state="active") == 0
    assert value(found, "process_cpu_seconds_total") > 0


async def test_no_series_goes_backwards_when_an_api_leaves_and_returns():
    mock = "{listen: /LISTEN/, auth: none, plugins: [mock: {json: {}}]}"
    other = mock.replace("LISTEN", "other")
    async with running_gateway({"apis.d/one.yaml": mock.replace("LISTEN", "one"), "apis.d/two.yaml": other}) as gateway:
        assert (await gateway.get("/one/")).status == 200
        assert (await gateway.reload({"apis.d/one.yaml": mock.replace("LISTEN", "one/more")})).ok
        assert (await gateway.get("/one/more/")).status == 200
        assert value(await read(gateway), "aiogate_requests_total", api="one", status="2xx") == 2
        gateway.remove("apis.d/one.yaml")
        assert (await gateway.reload()).ok
        assert not [key for key in await read(gateway) if ("api", "one") in key]
        assert (await gateway.reload({"apis.d/one.yaml": mock.replace("LISTEN", "one")})).ok
        assert (await gateway.get("/one/")).status == 200
        assert value(await read(gateway), "aiogate_requests_total", api="one", status="2xx") == 3


async def test_what_is_no_request_is_counted():
    async with running_gateway({}) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"NOT A REQUEST\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        found = await read(gateway)
    assert value(found, "aiogate_refusals_total", api="(none)", code="bad_request") == 1
    assert value(found, "aiogate_requests_total", api="(none)", status="4xx") == 1


@pytest.mark.parametrize("closed", [{"control__metrics": "secret"}, {"control__listen": "same"}])
async def test_metrics_can_be_closed(closed):
    async with running_gateway({}, **closed) as gateway:
        assert (await metrics(gateway)).status == 403
        assert await read(gateway, Authorization=f"Bearer {gateway.secret}") != {}


def test_codes_of_plugins_cannot_make_ever_more_series():
    counts = Counts()
    for number in range(1000):
        counts.refused(f"own_{number}")
    counts.refused("auth_missing")
    assert len(counts.refusals) == 34
    assert counts.refusals["other"] == 968


def test_a_status_that_no_class_has_is_counted():
    counts = Counts()
    for status in (0, 200, 599, 600, 999):
        counts.ended(status, 0.002, 1, 2)
    assert [sum(buckets) for buckets in counts.durations] == [1, 0, 1, 0, 0, 3]
    assert (counts.requests, counts.received, counts.sent) == (5, 5, 10)


def test_lag_is_how_late_a_tick_comes():
    kept = Metrics()
    for now in (10.0, 10.25, 10.75, 11.0):
        kept.tick(now, 0.25)
    assert sum(kept.lags) == 3
    assert kept.lag_seconds == 0.25


def test_labels_are_escaped():
    text = exposition([Family("a", "gauge", "A.", [Sample(1, (("b", 'x"\\\ny'),))])])
    (family,) = parse_text(text)
    assert family.samples[0].labels == {"b": 'x"\\\ny'}


async def test_every_metric_is_described():
    page = (ROOT / "docs" / "observability.md").read_text("utf-8")
    async with running_gateway({}) as gateway:
        text = (await metrics(gateway)).text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {name for name in names if f"`{name}`" not in page} == set()
