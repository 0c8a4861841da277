"""Who may come in, and how a refusal looks on each surface."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from aiohttp.test_utils import TestClient, TestServer

from aiogate.control.access import HostCheck
from aiogate.control.application import application

SECRET = "control-secret-0123456789abcdef"
ACCESS_KEY = "dashboard-key-0123456789abcdef"
REFUSED = {"status": "error", "message": "Attempted administrative access with invalid or missing key!"}
NOT_AUTHORISED = {"Status": "Error", "Message": "Not authorised", "Meta": None}


@pytest.mark.parametrize("name", ["X_Tyk_Authorization", "x_tyk_authorization"])
async def test_the_secret_opens_the_gateway_api(control, name):
    answer = await control.call("GET", "/tyk/keys", **{name: SECRET})
    assert (answer.status, answer.json) == (200, {"keys": []})


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_secret_may_be_a_bearer_token(control, scheme):
    answer = await control.call("GET", "/tyk/keys", Authorization=f"{scheme} {SECRET}")
    assert (answer.status, answer.json) == (200, {"keys": []})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_Tyk_Authorization": ""},
        {"X_Tyk_Authorization": SECRET + "x"},
        {"X_Tyk_Authorization": SECRET[:-1]},
        {"X_Tyk_Authorization": "schlüssel-\udcff"},
        {"Authorization": SECRET},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": f"Bearer {ACCESS_KEY}"},
    ],
)
async def test_a_wrong_secret_is_refused(control, headers):
    raw = [
        f"{name.replace('_', '-')}: ".encode() + value.encode("utf-8", "surrogateescape")
        for name, value in headers.items()
    ]
    answer = await raw_call(control, b"GET /tyk/keys HTTP/1.1", *raw)
    assert answer == (403, REFUSED)


async def raw_call(control, *lines: bytes):
    reader, writer = await asyncio.open_connection(control.client.host, control.client.port)
    writer.write(b"\r\n".join((*lines, b"Host: localhost", b"Connection: close", b"", b"")))
    reply = await reader.read()
    writer.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), json.loads(body)


@pytest.mark.parametrize("path", ["/tyk/nothing", "/tyk", "/tyk/", "//tyk/keys", "/tyk/keys/some-key-name"])
async def test_without_the_secret_nothing_is_told_about_what_exists(control, path):
    answer = await raw_call(control, b"GET " + path.encode() + b" HTTP/1.1")
    assert answer == (403, REFUSED)


@pytest.mark.parametrize("value", [ACCESS_KEY, f"Bearer {ACCESS_KEY}"])
async def test_an_access_key_opens_the_dashboard_api(control, value):
    answer = await control.call("GET", "/api/keys", Authorization=value)
    assert (answer.status, answer.json) == (200, {"data": {"keys": []}, "pages": 0})


@pytest.mark.parametrize("value", ["", "Bearer ", SECRET, f"Bearer {SECRET}", ACCESS_KEY[:-1]])
async def test_a_wrong_access_key_is_refused(control, value):
    answer = await control.call("GET", "/api/keys", Authorization=value)
    assert (answer.status, answer.json) == (401, NOT_AUTHORISED)


async def test_the_status_takes_either_credential_and_nothing_else(control):
    for headers in ({"X_Tyk_Authorization": SECRET}, {"Authorization": ACCESS_KEY}):
        answer = await control.call("GET", "/api/system/status", **headers)
        assert (answer.status, answer.json["generation"], answer.json["store"]) == (200, 1, "memory")
    answer = await control.call("GET", "/api/system/status")
    assert (answer.status, answer.json) == (401, NOT_AUTHORISED)


@pytest.mark.parametrize("path", ["/nothing", "/oauth/nothing", "/org", "/cache/login", "/debug"])
async def test_an_unknown_gateway_path(control, path):
    answer = await control.tyk("GET", path)
    assert (answer.status, answer.json) == (404, {"status": "error", "message": "Not found"})


@pytest.mark.parametrize("path", ["/api/nothing", "/api/oauth", "/admin/nothing", "/admin"])
async def test_an_unknown_dashboard_path(control, path):
    answer = await control.call("GET", path, Authorization=ACCESS_KEY, admin_auth=SECRET)
    assert (answer.status, answer.json) == (404, {"Status": "Error", "Message": "Not found", "Meta": None})


@pytest.mark.parametrize("path", ["/", "/dashboard/", "/login-api/"])
async def test_an_unknown_path_elsewhere(control, path):
    answer = await control.call("GET", path)
    assert (answer.status, answer.json) == (404, {"error": "Not Found", "code": "not_found"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/keys"),
        ("HEAD", "/reload"),
        ("POST", "/reload"),
        ("PATCH", "/keys/alice"),
        ("PUT", "/apis"),
        ("POST", "/apis/login"),
        ("PATCH", "/policies/gold"),
    ],
)
async def test_a_wrong_method_on_the_gateway_api(control, method, path):
    answer = await control.call(method, f"/tyk{path}", X_Tyk_Authorization=SECRET)
    assert answer.status == 405
    assert "GET" in answer.headers["Allow"]
    if method != "HEAD":
        assert answer.json == {"status": "error", "message": "Method not supported"}
    assert control.site.reloads == ["start"]


async def test_a_wrong_method_elsewhere(control):
    answer = await control.call("PUT", "/api/apis", Authorization=ACCESS_KEY)
    assert (answer.status, answer.json) == (
        405,
        {"Status": "Error", "Message": "Method not supported", "Meta": None},
    )
    answer = await control.call("POST", "/hello")
    assert (answer.status, answer.json) == (405, {"error": "Method Not Allowed", "code": "method_not_allowed"})


@pytest.mark.parametrize("path", ["/tyk/keys/", "/tyk/apis/", "/tyk/reload/", "/tyk/policies/", "/tyk/apis/login/"])
async def test_a_trailing_slash_changes_nothing(control, path):
    with_slash = await control.call("GET", path, X_Tyk_Authorization=SECRET)
    without = await control.call("GET", path.rstrip("/"), X_Tyk_Authorization=SECRET)
    assert (with_slash.status, with_slash.json) == (200, without.json)


async def test_every_reply_has_an_id_and_is_not_kept(control):
    for path in ("/hello", "/tyk/keys", "/nothing"):
        answer = await control.call("GET", path)
        assert len(answer.headers["X-Request-Id"]) == 32
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Server"] == "aiogate"


@pytest.mark.parametrize(("path", "said"), [("/tyk/keys/create", "message"), ("/api/keys", "Message")])
async def test_a_body_over_a_mebibyte_is_refused(control, path, said):
    body = io.BytesIO(b'{"alias": "' + b"a" * 1024 * 1024 + b'"}')
    answer = await control.call("POST", path, body, X_Tyk_Authorization=SECRET, Authorization=ACCESS_KEY)
    assert (answer.status, answer.json[said]) == (413, "Request is too large")


async def test_a_body_that_never_comes_is_given_up(make_site):
    site = make_site(**{"timeouts.client_body": "50ms"})
    async with TestClient(TestServer(application(site))) as client:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        head = ("POST /tyk/keys HTTP/1.1", "Host: localhost", f"X-Tyk-Authorization: {SECRET}", "Content-Length: 9")
        writer.write("\r\n".join((*head, "", "{")).encode())
        reply = await asyncio.wait_for(reader.readuntil(b"}"), 5)
        writer.close()
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b'{"status":"error","message":"The request did not arrive in time"}' in reply


async def test_a_body_in_a_broken_encoding_is_the_callers_mistake(control):
    answer = await control.call(
        "POST", "/tyk/keys/create", b"not gzip", X_Tyk_Authorization=SECRET, Content_Encoding="gzip"
    )
    assert (answer.status, answer.json["message"]) == (400, "Unmarshalling failed")
    assert answer.json["details"] == ["the body is not what Content-Encoding or its framing says"]


async def test_a_foreign_host_is_refused_on_loopback(control):
    answer = await control.call("GET", "/hello", Host="evil.example")
    assert (answer.status, answer.json["error"]) == (421, "This host name is not served here")
    for host in ("localhost:8081", "127.0.0.1", "[::1]:8081", "gateway.localhost", "LOCALHOST"):
        assert (await control.call("GET", "/hello", Host=host)).status == 200


@pytest.mark.parametrize(
    ("listen", "accepts", "refuses"),
    [
        (("127.0.0.1",), ["127.0.0.1:1", "localhost", "[::1]"], ["a.example", "127.0.0.1.example", ""]),
        (("::1",), ["[::1]:1", "localhost:1"], ["a.example"]),
        (("0.0.0.0",), ["a.example", "localhost", ""], []),
        (("gateway.internal",), ["gateway.internal", "a.example"], []),
        ((), ["a.example"], []),
    ],
)
def test_which_hosts_are_accepted(listen, accepts, refuses):
    check = HostCheck(listen)
    assert [host for host in accepts if not check.accepts(host)] == []
    assert [host for host in refuses if check.accepts(host)] == []


async def test_the_store_being_away_is_told_as_such(control, monkeypatch):
    from aiogate.stores.base import StoreUnavailable

    async def away(*_, **__):
        raise StoreUnavailable("disk I/O error")

    monkeypatch.setattr(type(control.site.store.sessions), "page", away)
    answer = await control.tyk("GET", "/keys?org_id=default")
    assert (answer.status, answer.json["details"]) == (503, ["disk I/O error"])
    assert answer.headers["Retry-After"] == "1"


async def test_a_bug_answers_in_the_envelope_and_keeps_its_words_out_of_the_log(control, monkeypatch, caplog):
    words = "password " + "hunter" + "2"

    def broken(*_):
        raise LookupError(words)

    monkeypatch.setattr(type(control.site), "plugins_view", broken)
    answer = await control.tyk("GET", "/plugins")
    assert (answer.status, answer.json["message"]) == (500, "Internal error, the gateway's log has more")
    assert answer.json["details"] == [f"request id {answer.headers['X-Request-Id']}"]
    assert answer.headers["X-Request-Id"] in caplog.text
    assert "builtins.LookupError" in caplog.text
    assert "hunter2" not in caplog.text


async def test_the_log_names_routes_and_not_paths(control, caplog):
    await control.tyk("GET", "/keys/some-secret-token")
    assert "GET /tyk/keys/{name} 404" in caplog.text
    assert "some-secret-token" not in caplog.text
