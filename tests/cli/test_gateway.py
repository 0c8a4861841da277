"""What the running gateway is asked: status, routes, chains, plugins, reloads, refusals, shadow."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from uuid import uuid4

import pytest

from tests.cli.conftest import Serve
from tests.cli.site import FILES, Site
from tests.servers import RedisServer


def asked(url: str, **headers: str) -> tuple[int, dict[str, str]]:
    """The status and the JSON of one request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            response.read()
            return response.status, {}
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.loads(refused.read())


def test_status(site: Site) -> None:
    shown = site.json("status")
    assert (shown["pid"], shown["apis"], shown["policies"], shown["workers"]) == (site.process.pid, 3, 1, 1)
    lines = dict(line.split("  ", 1) for line in site.run("status").stdout.splitlines())
    assert lines["generation"].strip().startswith(f"{shown['generation']}, since 20")
    assert lines["gateway"].strip() == site.gateway
    assert lines["control"].strip() == site.control
    assert lines["APIs"].strip() == "3"
    assert lines["store"].strip() == "sqlite"
    assert lines["last reload"].strip()


def test_status_names_targets_that_are_left_alone(serve: Serve) -> None:
    targets = ", ".join(f"http://127.0.0.1:{port}/" for port in (9, 10, 11))
    text = f"listen: /shop/\nauth: none\nupstream: {{targets: [{targets}], ejection: {{failures: 1, for: 1h}}}}\n"
    site = serve({"apis.d/shop.yaml": text})
    assert asked(f"{site.gateway}/shop/")[0] == 502
    lines = [line for line in site.run("status").stdout.splitlines() if line.startswith("ejected")]
    assert [line.split()[1:5] for line in lines] == [
        [f"http://127.0.0.1:{port}", "of", "API", "shop,"] for port in (10, 9)
    ]
    assert {line.endswith(" s more") for line in lines} == {True}
    assert site.json("routes")["routes"][0]["upstream"] == targets.replace(",", "")


def test_routes(site: Site) -> None:
    lines = site.run("routes").stdout.splitlines()
    assert lines[0].split() == ["HOST", "PATH", "API", "AUTH", "VERSIONS", "UPSTREAM", "FILE"]
    login = next(line for line in lines if " login " in line)
    assert login.split()[:3] == ["api.example.com", "/login-api/", "login"]
    assert "basic or key" in login
    assert "v1, v2" in login
    assert login.endswith("apis.d/login.yaml")
    assert {route["api"] for route in site.json("routes")["routes"]} == {"hello", "login", "watched"}


def test_which_api_takes_a_request(site: Site) -> None:
    out = site.run("routes", "--match", "GET /hello-world/x").stdout
    assert out.splitlines()[0].split() == ["API", "hello"]
    assert "longest listen path" in out
    assert site.json("routes", "--match", "post /login-api/a", "--host", "api.example.com")["api"] == "login"
    assert site.json("routes", "--match", "/hello-world/")["tail"] == "/"


@pytest.mark.parametrize("arguments", [["GET /nowhere"], ["GET /login-api/"], ["GET /a/%2e%2e/b"]])
def test_a_request_that_no_api_takes_ends_with_1(site: Site, arguments: list[str]) -> None:
    out = site.run("routes", "--match", *arguments, code=1).stdout
    assert out.splitlines()[0].split() == ["API", "none"]
    assert site.json("routes", "--match", *arguments, code=1)["api"] == ""


def test_a_chain_in_its_order(site: Site) -> None:
    out = site.run("chain", "login").stdout
    first, second = out.split("\n\n")
    assert (first.splitlines()[0], second.splitlines()[0]) == ("login, version v1", "login, version v2")
    steps = [line.split()[:2] for line in first.splitlines()[2:]]
    assert steps[0] == ["AUTHENTICATE", "auth"]
    assert steps[-1] == ["UPSTREAM", "reverse_proxy"]
    assert "apis.d/login.yaml:" in first
    assert [shown["version"] for shown in site.json("chain", "login")] == ["v1", "v2"]
    assert "shadow" in site.run("chain", "watched").stdout


def test_a_chain_of_no_api(site: Site) -> None:
    assert site.run("chain", "nothing/../x", code=1).stderr == "Error: API not found\n"


def test_plugins(site: Site) -> None:
    lines = site.run("plugins", "list").stdout.splitlines()
    assert lines[0].split() == ["PLUGIN", "PROVIDES", "FROM", "SUMMARY"]
    assert {"basic", "key", "mock", "rate_limit"} <= {line.split()[0] for line in lines[1:]}
    assert len(site.json("plugins", "list")) == len(lines) - 1


def test_why(site: Site) -> None:
    status, body = asked(f"{site.gateway}/login-api/x", Host="api.example.com", Authorization="no-such-key")
    assert status == 403
    request_id = body["request_id"]
    shown = dict(line.split("  ", 1) for line in site.run("why", request_id).stdout.splitlines())
    shown = {name: value.strip() for name, value in shown.items()}
    assert shown["request"] == request_id
    assert shown["what"] == "GET /login-api/x was refused"
    assert shown["API"] == "login, version v1"
    assert shown["step"].endswith("(AUTHENTICATE)")
    assert shown["rule"].startswith("apis.d/login.yaml:5:")
    assert shown["client got"] == "403 key_unknown: Access to this API has been disallowed"
    assert shown["reason"]
    assert shown["client"] == "127.0.0.1"
    assert "generation" in shown["time"]
    assert site.json("why", request_id)["code"] == "key_unknown"


def test_why_of_a_request_that_no_api_took(site: Site) -> None:
    status, body = asked(f"{site.gateway}/nowhere")
    assert status == 404
    out = site.run("why", body["request_id"]).stdout
    assert "404 not_found" in out
    assert "\nAPI " not in out


def test_why_of_an_unknown_request_says_how_long_records_are_kept(site: Site) -> None:
    said = site.run("why", "nothing", code=1).stderr
    assert "there is no record of nothing" in said
    assert "the last 10000" in said


def test_shadow(site: Site) -> None:
    assert "would have refused" in site.run("shadow", "hello").stdout
    for _ in range(3):
        assert asked(f"{site.gateway}/watched/")[0] == 200
    lines = site.run("shadow", "watched").stdout.splitlines()
    assert lines[0].split() == ["COUNT", "LAST", "API", "STEP", "CODE", "RULE"]
    assert lines[1].split()[0] == "2"
    assert lines[1].split()[-1].startswith("apis.d/watched.yaml:")
    shown = site.json("shadow")
    assert [(rule["api"], rule["count"]) for rule in shown["rules"]] == [("watched", 2)]
    out = site.run("why", shown["decisions"][0]["request_id"]).stdout
    assert "shadow mode" in out
    assert "would get" in out


# reloads


@pytest.fixture(scope="module")
def changing(serve: Serve) -> Site:
    """A gateway whose files the tests change."""
    return serve(FILES)


def test_a_reload_that_changes_nothing(changing: Site) -> None:
    before = changing.json("status")["generation"]
    assert changing.run("reload").stdout == f"generation {before + 1} serves: nothing changed\n"


def test_a_reload_says_what_changed(changing: Site) -> None:
    apis = changing.folder / "apis.d"
    (apis / "new.yaml").write_text("listen: /new/\nauth: none\nplugins: [{mock: {body: hi}}]\n")
    hello = (apis / "hello.yaml").read_text()
    (apis / "hello.yaml").write_text(hello.replace("body: hi", "body: ho"))
    (apis / "watched.yaml").unlink()
    out = changing.run("reload").stdout
    assert out.endswith(" serves: added new; changed hello; removed watched\n")
    assert asked(f"{changing.gateway}/new/")[0] == 200


@pytest.mark.slow
def test_gateways_on_one_redis_are_shown_and_reload_together(serve: Serve, redis_server: RedisServer) -> None:
    files = FILES | {"aiogate.yaml": f"store: {redis_server.url}\nredis: {{prefix: '{uuid4().hex}:', timeout: 2s}}\n"}
    one, two = serve(files), serve(files)
    deadline = time.monotonic() + 10
    while len(one.json("status")["nodes"]) != 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (two.folder / "apis.d" / "new.yaml").write_text("listen: /new/\nauth: none\nplugins: [{mock: {body: hi}}]\n")
    (one.folder / "apis.d" / "hello.yaml").write_text("listen: /broken\n")
    refused = one.run("reload", "--group", code=1).stdout
    assert "generation 1 keeps serving" in refused
    while [node["generation"] for node in one.json("status")["nodes"]] != [1, 2]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert asked(f"{two.gateway}/new/")[0] == 200
    head, mine, other = one.run("status").stdout.splitlines()[-3:]
    assert head.split()[:2] == ["NODE", "HOST"]
    assert "(this one)" in mine
    assert [line.split()[-5] for line in (mine, other)] == ["refused", "ok"]
    assert " serving " in other


def test_a_reload_says_which_settings_wait(changing: Site) -> None:
    settings = changing.folder / "aiogate.yaml"
    settings.write_text("timeouts: {keepalive: 5s}\n")
    assert "waiting for the next start of the gateway: timeouts\n" in changing.run("reload").stdout
    settings.unlink()


def test_a_refused_reload_tells_all_and_ends_with_1(changing: Site) -> None:
    before = changing.json("status")["generation"]
    apis = changing.folder / "apis.d"
    (apis / "oops.yaml").write_text("listen: /oops/\nauth: none\nupsteam: x\n")
    (apis / "more.yaml").write_text("listen: more\nauth: none\nplugins: [{mock: {body: hi}}]\n")
    lines = changing.run("reload", code=1).stdout.splitlines()
    assert any(line.startswith("apis.d/oops.yaml:3:1: `upsteam` is not a known key") for line in lines)
    assert any(line.startswith("apis.d/more.yaml:1:") for line in lines)
    assert lines[-1] == f"reload refused: {len(lines) - 1} problems; generation {before} keeps serving"

    verdict = changing.json("reload", code=1)
    assert (verdict["ok"], verdict["generation"], len(verdict["diagnostics"])) == (False, before, len(lines) - 1)

    status = changing.run("status").stdout
    assert f"generation {before} keeps serving" in status
    assert "apis.d/oops.yaml:3:1: " in status
    (apis / "oops.yaml").unlink()
    (apis / "more.yaml").unlink()
    changing.run("reload")
    assert "accepted" in changing.run("status").stdout
