"""What a token says about its time, issuer and audience: each claim at its edges (row 48)."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.credentials.claims import ClaimRules, check_claims
from aiogate.credentials.jose import Token, read_token
from aiogate.errors import Problem
from tests.credentials.issuer import sign

NOW = 1_700_000_000.0
ANY = ClaimRules()
SKEWED = ClaimRules(expired_skew=10, not_before_skew=20, issued_skew=30)


def said(claims: dict[str, Any], rules: ClaimRules = ANY) -> Problem | float:
    return check_claims(Token({}, claims, b"", b""), rules, NOW)


@pytest.mark.parametrize(
    "claims, rules, until",
    [
        ({"exp": NOW + 1}, ANY, NOW + 1),
        ({"exp": NOW + 0.5}, ANY, NOW + 0.5),
        ({"exp": NOW - 9}, SKEWED, NOW + 1),
        ({"exp": NOW + 5, "nbf": NOW, "iat": NOW}, ANY, NOW + 5),
        ({"exp": NOW + 5, "nbf": NOW + 20, "iat": NOW + 30}, SKEWED, NOW + 15),
        ({}, ClaimRules(required=()), math.inf),
        ({"exp": NOW + 5, "iss": "b"}, ClaimRules(issuers=frozenset("ab")), NOW + 5),
        ({"exp": NOW + 5, "aud": "a"}, ClaimRules(audiences=frozenset("ab")), NOW + 5),
        ({"exp": NOW + 5, "aud": ["x", "b"]}, ClaimRules(audiences=frozenset("ab")), NOW + 5),
        ({"exp": NOW + 5, "a": {"b": 0}}, ClaimRules(required=("exp", "a.b")), NOW + 5),
    ],
)
def test_a_token_holds_until(claims: dict[str, Any], rules: ClaimRules, until: float) -> None:
    assert said(claims, rules) == until


@pytest.mark.parametrize(
    "claims, rules, code, message, reason",
    [
        ({"exp": NOW}, ANY, "token_expired", "token has expired", "passed 0 s ago, the skew is 0 s"),
        ({"exp": NOW - 10}, SKEWED, "token_expired", "token has expired", "passed 10 s ago, the skew is 10 s"),
        ({"exp": -1}, ANY, "token_expired", "token has expired", "passed 1700000001 s ago"),
        ({"exp": 0}, ANY, "token_expired", "token has expired", ""),
        ({"exp": str(NOW + 5)}, ANY, "token_rejected", "the claim exp is not a number", "'1700000005.0'"),
        ({"exp": True}, ANY, "token_rejected", "the claim exp is not a number", "True"),
        ({"exp": math.inf}, ANY, "token_rejected", "the claim exp is not a number", "inf"),
        ({"exp": [1]}, ANY, "token_rejected", "the claim exp is not a number", "[1]"),
        ({}, ANY, "token_rejected", "the claim exp is missing", "required"),
        ({"exp": None}, ANY, "token_rejected", "the claim exp is missing", ""),
        ({"exp": NOW + 5, "nbf": NOW + 1}, ANY, "token_rejected", "token is not valid yet", "`nbf` is 1 s ahead"),
        ({"exp": NOW + 50, "nbf": NOW + 21}, SKEWED, "token_rejected", "token is not valid yet", "the skew is 20 s"),
        ({"exp": NOW + 5, "iat": NOW + 1}, ANY, "token_rejected", "token used before issued", "`iat` is 1 s ahead"),
        ({"exp": NOW + 5, "iat": "x"}, ANY, "token_rejected", "the claim iat is not a number", "'x'"),
        ({"exp": NOW + 5}, ClaimRules(issuers=frozenset("a")), "token_rejected", "invalid issuer claim", "missing"),
        (
            {"exp": NOW + 5, "iss": "A"},
            ClaimRules(issuers=frozenset("a")),
            "token_rejected",
            "invalid issuer claim",
            "`iss` is 'A', accepted: a",
        ),
        (
            {"exp": NOW + 5, "aud": ["b", 7]},
            ClaimRules(audiences=frozenset("a")),
            "token_rejected",
            "invalid audience claim",
            "['b', 7]",
        ),
        ({"exp": NOW + 5}, ClaimRules(required=("exp", "jti")), "token_rejected", "the claim jti is missing", "`jti`"),
    ],
)
def test_a_token_is_refused(claims: dict[str, Any], rules: ClaimRules, code: str, message: str, reason: str) -> None:
    problem = said(claims, rules)
    assert isinstance(problem, Problem)
    assert (problem.code, problem.status) == (code, 401)
    assert problem.message == f"Key not authorized: {message}"
    assert reason in problem.detail


@pytest.mark.parametrize("payload", [b'{"exp": 1e400}', b"[]", b"", b'{"exp": NaN}', b"\xff"])
def test_claims_that_are_no_json_object_are_refused(payload: bytes) -> None:
    token = read_token(sign(payload))
    assert isinstance(token, Token)
    problem = check_claims(token, ANY, NOW)
    assert isinstance(problem, Problem)
    assert problem.status == 401


values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(("", "a", "1")) | st.lists(st.integers())
)


@given(st.dictionaries(st.sampled_from(("exp", "nbf", "iat", "iss", "aud")), values), st.floats(0, 300))
def test_what_is_accepted_holds_now_and_ends_with_its_skew(claims: dict[str, Any], skew: float) -> None:
    rules = ClaimRules(expired_skew=skew, not_before_skew=skew, issued_skew=skew)
    outcome = said(claims, rules)
    if isinstance(outcome, Problem):
        assert outcome.status == 401
    else:
        assert NOW < outcome == claims["exp"] + skew
        assert all(NOW + skew >= claims.get(name, 0) for name in ("nbf", "iat") if claims.get(name) is not None)


def test_numbers_of_any_length_are_read() -> None:
    token = read_token(sign(orjson.dumps({"exp": 2**63 - 1})))
    assert isinstance(token, Token)
    assert check_claims(token, ANY, NOW) == float(2**63 - 1)
