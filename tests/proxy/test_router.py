"""The route table decides by host, then by the longest listen path, on whole segments."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from aiogate.domain.policy import PolicySet
from aiogate.proxy.router import RouteTable


@dataclass
class Api:
    id: str
    listen_path: str
    host: str | None = None


def table(*apis: Api) -> RouteTable:
    return RouteTable(7, apis, PolicySet(()), 1.0)  # type: ignore[arg-type]


APIS = (
    Api("root", "/"),
    Api("a", "/a/"),
    Api("ab", "/a/b/"),
    Api("abc", "/a/b/c/"),
    Api("hosted", "/a/", "api.example"),
    Api("hosted-deep", "/x/y/", "API.example"),
)


@pytest.mark.parametrize(
    "host,path,expected",
    [
        ("", "/", "root"),
        ("", "/z", "root"),
        ("", "/ab", "root"),
        ("", "/a", "a"),
        ("", "/a/", "a"),
        ("", "/a/bc", "a"),
        ("", "/a/b", "ab"),
        ("", "/a/b/x/c", "ab"),
        ("", "/a/b/c/d/e", "abc"),
        ("api.example", "/a/b/c", "hosted"),
        ("api.example", "/x/y/z", "hosted-deep"),
        ("api.example", "/x", "root"),
        ("other.example", "/a/b", "ab"),
    ],
)
def test_match(host, path, expected):
    found = table(*APIS).match(host, path)
    assert found is not None
    assert found.id == expected


def test_nothing_matches():
    assert table(Api("a", "/a/")).match("", "/b") is None
    assert table().match("", "/") is None
    assert table(Api("a", "/a/", "h")).match("other", "/a/") is None


def test_two_apis_on_one_path_are_a_bug():
    with pytest.raises(ValueError, match="same path"):
        table(Api("a", "/a/"), Api("b", "/a/"))


def test_a_path_of_thousands_of_segments_is_cheap():
    routes = table(*APIS)
    path = "/a/b" + "/x" * 4000
    began = time.perf_counter()
    for _ in range(1000):
        routes.match("", path)
    assert time.perf_counter() - began < 0.5


def test_a_table_names_its_apis():
    routes = table(*APIS)
    assert routes.generation == 7
    assert set(routes.apis) == {api.id for api in APIS}
    assert repr(routes) == "<RouteTable generation 7, 6 APIs>"
