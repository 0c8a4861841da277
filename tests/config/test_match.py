from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.config.addresses import canonical_path, parse_listen_path
from aiogate.config.match import Match


@pytest.mark.parametrize(
    "glob, matched, not_matched",
    [
        ("/catalogue", ["/catalogue"], ["/catalogue/", "/Catalogue", "/catalogue/a"]),
        ("/catalogue/*", ["/catalogue/", "/catalogue/a", "/catalogue/a/b"], ["/catalogue", "/catalogues/a"]),
        ("/*", ["/", "/a", "/a/b"], []),
        ("/**", ["/", "/a", "/a/b"], []),
        ("/users/*/orders", ["/users/7/orders", "/users//orders"], ["/users/7/8/orders", "/users/7/orders/1"]),
        ("/users/*.json", ["/users/7.json"], ["/users/7/8.json", "/users/7xjson"]),
        ("/a/**/z", ["/a/z", "/a/b/z", "/a/b/c/z"], ["/az", "/a/bz"]),
        ("/a**z", ["/az", "/a/b/z"], ["/b/z"]),
        ("/a*/*", ["/abc/d/e", "/a/"], ["/abc"]),
        ("/a.b/*/c", ["/a.b/x/c"], ["/aXb/x/c"]),
        ("/a+(b)/*/c", ["/a+(b)/x/c"], ["/aa(b)/x/c"]),
    ],
)
def test_globs(glob: str, matched: list[str], not_matched: list[str]) -> None:
    match = Match(paths=[canonical_path(glob)])
    for path in matched:
        assert match.applies("GET", path, ""), path
    for path in not_matched:
        assert not match.applies("GET", path, ""), path


def test_every_part_must_match_and_one_of_its_values() -> None:
    match = Match(["/a/*", "/b", "/c*d"], ["GET", "HEAD"], ["v1"])
    assert match.applies("GET", "/a/x", "v1")
    assert match.applies("HEAD", "/b", "v1")
    assert match.applies("GET", "/cxd", "v1")
    assert not match.applies("POST", "/b", "v1")
    assert not match.applies("GET", "/b", "v2")
    assert not match.applies("GET", "/c", "v1")


def test_an_empty_part_matches_everything() -> None:
    assert Match().applies("GET", "/", "")


def test_equal_matches_are_equal() -> None:
    assert Match(["/a"], ["GET"]) == Match(["/a"], ["GET"])
    assert Match(["/a"]) != Match(["/b"])
    assert len({Match(["/a"]), Match(["/a"])}) == 1


@given(st.text("/ab*", max_size=8), st.text("/ab", max_size=10))
def test_a_glob_agrees_with_a_plain_reading_of_its_rule(glob: str, tail: str) -> None:
    glob, tail = f"/{glob}", f"/{tail}"
    assert Match([glob]).applies("GET", tail, "") == plainly(glob + "*" if glob.endswith("/*") else glob, tail)


def plainly(glob: str, path: str) -> bool:
    """The rule of the docstring, tried out character by character."""
    if not glob:
        return not path
    if glob.startswith("/**/"):
        return path.startswith("/") and any(
            plainly(glob[4:], path[end:]) for end in range(1, len(path) + 1) if path[end - 1] == "/"
        )
    if glob.startswith("**"):
        return any(plainly(glob[2:], path[end:]) for end in range(len(path) + 1))
    if glob.startswith("*"):
        segment = len(path.partition("/")[0])
        return any(plainly(glob[1:], path[end:]) for end in range(segment + 1))
    return path.startswith(glob[0]) and plainly(glob[1:], path[1:])


@pytest.mark.parametrize(
    "written, canonical",
    [
        ("/", "/"),
        ("/login", "/login/"),
        ("/login/", "/login/"),
        ("/hello", "/hello/"),
        ("/%6Cogin", "/login/"),
        ("/a%c3%a4", "/a%C3%A4/"),
        ("/ä", "/%C3%A4/"),
        ("/a@b:c;d=1/", "/a@b:c;d=1/"),
    ],
)
def test_listen_paths_have_one_form(written: str, canonical: str) -> None:
    assert parse_listen_path(written) == canonical
    assert parse_listen_path(canonical) == canonical


@pytest.mark.parametrize(
    "path",
    ["", "login", "/a b", "/a//b", "/a/../b", "/./", "/%2e%2E/", "/a/..;x/", "/a%2fb", "/a%5cb", "/a%00", "/a%0a",
     "/a%", "/a%zz", "/a?b", "/a#b", "/a\\b", "/a\x00", "/{id}", "/a/*", "/%ff", "/\ud800", None, 7, ["/a"]],
)  # fmt: skip
def test_what_is_no_listen_path(path: object) -> None:
    with pytest.raises(ValueError):
        parse_listen_path(path)
