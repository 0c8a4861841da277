"""The URL of a Redis store."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.config.redis_url import RedisUrl, is_redis_url, parse_redis_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("redis://localhost", RedisUrl("single", (("localhost", 6379),))),
        ("redis://[::1]:7000/2", RedisUrl("single", (("::1", 7000),), db=2)),
        ("REDISS://h:1/", RedisUrl("single", (("h", 1),), tls=True)),
        ("valkey://h", RedisUrl("single", (("h", 6379),))),
        ("redis://:p%40ss@h", RedisUrl("single", (("h", 6379),), password="p@ss")),
        ("redis://me:a:b@h", RedisUrl("single", (("h", 6379),), username="me", password="a:b")),
        (
            "redis+sentinel://a,b:1/mymaster/3",
            RedisUrl("sentinel", (("a", 26379), ("b", 1)), db=3, service="mymaster"),
        ),
        ("rediss+cluster://u:p@a:1,b:2", RedisUrl("cluster", (("a", 1), ("b", 2)), True, 0, "", "u", "p")),
    ],
)
def test_what_a_url_says(text: str, url: RedisUrl) -> None:
    assert is_redis_url(text)
    assert parse_redis_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "redis://", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://h/a", "redis://h/1/2", "redis://a,b",
        "redis://user@h", "redis://h?db=1", "redis://[::1", "redis+sentinel://h", "redis+cluster://h/1", "http://h",
    ],
)  # fmt: skip
def test_what_no_url_may_say(text: str) -> None:
    with pytest.raises(ValueError):
        parse_redis_url(text)


def test_a_url_is_shown_without_its_credentials() -> None:
    url = parse_redis_url("rediss+sentinel://me:canary@a,b:1/master/2")
    assert str(url) == "rediss+sentinel://a:26379,b:1/master/2"
    assert "canary" not in repr(url)


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_a_mistake(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_redis_url(f"redis://{text}").addresses
