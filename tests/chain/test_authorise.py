"""Inactive, expired, API, version, path: in this order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aiogate import Grant, Session
from aiogate.chain.authorise import authorise
from aiogate.domain.session import PathRule, compile_path
from aiogate.errors import Problem
from aiogate.testing import FakeClock, make_exchange

NOW = 1000.0
FINE = Session(name_hash="n", org="default", kind="key", label="", grants={"test": Grant()})


def said(session: Session | None, *, versioned: bool = False, path: str = "/", version: str = "v1") -> str:
    exchange = make_exchange(path=path, version=version)
    exchange.session = session
    problem = authorise("test", versioned=versioned, clock=FakeClock(NOW))(exchange)
    assert problem is None or isinstance(problem, Problem)
    assert (exchange.grant is None) == (problem is not None)
    return problem.code if problem is not None else ""


def granting(**grant: object) -> Session:
    return replace(FINE, grants={"test": Grant(**grant)})  # type: ignore[arg-type]


PATHS = (PathRule(compile_path("/users/.*"), frozenset({"GET"})), PathRule(compile_path("^/open"), frozenset()))


@pytest.mark.parametrize(
    "session, code",
    [
        (FINE, ""),
        (None, "session_missing"),
        (replace(FINE, inactive=True), "key_inactive"),
        (replace(FINE, expires=NOW), "key_expired"),
        (replace(FINE, expires=NOW + 1), ""),
        (replace(FINE, expires=-1), ""),
        (replace(FINE, expires=0.5), ""),
        (replace(FINE, grants={"other": Grant()}), "access_denied"),
        (replace(FINE, inactive=True, expires=NOW, grants={}), "key_inactive"),
        (replace(FINE, expires=NOW, grants={}), "key_expired"),
    ],
)
def test_the_session_is_looked_at_first(session: Session | None, code: str) -> None:
    assert said(session) == code


@pytest.mark.parametrize(
    "versions, versioned, code",
    [
        (frozenset(), True, ""),
        (frozenset({"v1"}), True, ""),
        (frozenset({"v2"}), True, "access_denied"),
        (frozenset({"v2"}), False, ""),
    ],
)
def test_then_the_version_where_there_are_versions(versions: frozenset[str], versioned: bool, code: str) -> None:
    assert said(granting(versions=versions), versioned=versioned) == code


@pytest.mark.parametrize(
    "path, code",
    [("/users/1", ""), ("/users", "path_denied"), ("/x/users/1", "path_denied"), ("/open", ""), ("/opened", "")],
)
def test_then_the_path(path: str, code: str) -> None:
    assert said(granting(paths=PATHS), path=path) == code


def test_a_denied_version_goes_before_a_denied_path() -> None:
    assert said(granting(versions=frozenset({"v2"}), paths=PATHS), versioned=True) == "access_denied"
