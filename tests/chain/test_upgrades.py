"""Which origins may open a WebSocket."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from aiogate.chain.upgrades import websocket_step
from aiogate.config.websocket import Protocol, WebSocket


class Asked:
    def __init__(self, *origins, protocol="websocket"):
        self.upgrade = self if protocol else None
        self.protocol = protocol
        self.headers = self
        self.origins = origins

    def getall(self, name, default):
        assert name == "Origin"
        return self.origins or default


@pytest.mark.parametrize(
    "allowed,origin,passes",
    [
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "HTTPS://A.Example", True),
        ("https://a.example", "https://a.example:443", True),
        ("https://a.example:443", "https://a.example", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "https://b.example", False),
        ("https://a.example", "https://a.example.evil", False),
        ("https://a.example", "null", False),
        ("https://*.example", "https://a.example", True),
        ("https://*.example", "https://b.a.example", True),
        ("https://*.example", "https://example", False),
        ("https://*.example", "https://.example", False),
        ("https://*.example", "https://evil.test/.example", False),
        ("https://*.example", "https://evil.test:1.example", False),
        ("https://*.example", "https://evilexample", False),
        ("https://*.example:8443", "https://a.example:8443", True),
        ("https://*.example:8443", "https://a.example", False),
        ("http://localhost:*", "http://localhost:3000", True),
        ("http://localhost:*", "http://localhost", False),
        ("http://localhost:*", "http://localhost:30a", False),
        ("http://localhost:*", "http://localhost.evil:3000", False),
        ("https://*.example:*", "https://a.example:1", True),
        ("https://*.example:*", "https://a.evil:1", False),
        ("http://[::1]:8080", "http://[::1]:8080", True),
    ],
)
def test_origins(allowed, origin, passes):
    check = websocket_step(WebSocket.model_validate({"origins": [allowed]}))
    refused = check(Asked(origin))
    assert (refused is None) == passes
    if refused is not None:
        assert refused.code == "origin_denied"
        assert allowed.removesuffix(":443") in refused.detail
        assert origin in refused.detail


def test_who_sends_none_is_no_browser_and_who_sends_two_is_nobody():
    check = websocket_step(WebSocket.model_validate({"origins": ["https://a.example"]}))
    assert check(Asked()) is None
    assert check(Asked("https://a.example", "https://a.example")).code == "origin_denied"
    assert check(Asked("https://evil.example", protocol="")) is None


def test_no_step_where_nobody_is_refused():
    assert websocket_step(WebSocket()) is None
    assert websocket_step(WebSocket.model_validate({"origins": ["https://a.example", "*"]})) is None


def test_switched_off():
    check = websocket_step(WebSocket.model_validate(False))
    assert check(Asked()).code == "websocket_denied"
    assert check(Asked(protocol="")) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"origins": []},
        {"origins": "https://a.example"},
        {"origins": ["a.example"]},
        {"origins": ["https://a.example/"]},
        {"origins": ["https://a.*.example"]},
        {"origins": ["https://*"]},
        {"origins": [7]},
        {"connections": 0},
        {"idle": "0s"},
        {"ping": 30},
        {"max_frame": "0B"},
        {"max_mesage": "1MiB"},
        "perhaps",
    ],
)
def test_mistakes(wrong):
    with pytest.raises(ValidationError):
        WebSocket.model_validate(wrong)


@pytest.mark.parametrize("protocol", ["h2c", "HTTP/2.0", "TLS/1.2", "websocket", "a b", "", 7])
def test_protocols_that_cannot_be_let_through(protocol):
    with pytest.raises(ValidationError):
        TypeAdapter(Protocol).validate_python(protocol)


def test_a_protocol_is_one_in_any_case():
    assert TypeAdapter(Protocol).validate_python("Foo/1.0") == "foo/1.0"
