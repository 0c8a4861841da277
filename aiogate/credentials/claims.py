"""What a verified token says about its time, its issuer and its audience (RFC 7519 section 4.1), as rules without I/O.

The texts for the client are Tyk's (spec/middleware.md section 2); the private reason names the claim, its value and by
how much it is out of its time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from aiogate.credentials.jose import Token
from aiogate.errors import PROBLEMS, Problem

__all__ = ["ClaimRules", "check_claims"]


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """`issuers` and `audiences` empty: any. The skews are seconds by which the clocks may differ.

    `required` are claims that must be there; `exp`, `nbf` and `iat` are checked wherever they are.
    """

    issuers: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    expired_skew: float = 0.0
    not_before_skew: float = 0.0
    issued_skew: float = 0.0
    required: tuple[str, ...] = ("exp",)


def check_claims(token: Token, rules: ClaimRules, now: float) -> Problem | float:
    """Until when the token holds, in epoch seconds, its skew included (infinity: for ever), or why it does not."""
    if token.broken:
        return rejected("token is malformed", token.broken)
    for name in rules.required:
        if token.claim(name) is None:
            return rejected(f"the claim {name} is missing", f"the token has no claim `{name}`, which is required")
    times: dict[str, float] = {}
    for name in ("exp", "nbf", "iat"):
        value = token.claims.get(name)
        if value is None:
            continue
        # RFC 7519 section 2: a NumericDate is a JSON number, a fraction is allowed. Nothing else is guessed at.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return rejected(f"the claim {name} is not a number", f"the claim `{name}` is {shown(value)}, not a number")
        times[name] = value
    if "exp" in times and now >= times["exp"] + rules.expired_skew:
        late = now - times["exp"]
        return replace(
            PROBLEMS["token_expired"],
            detail=f"the claim `exp` passed {late:.0f} s ago, the skew is {rules.expired_skew:g} s",
        )
    if "nbf" in times and now + rules.not_before_skew < times["nbf"]:
        early = times["nbf"] - now
        return rejected(
            "token is not valid yet",
            f"the claim `nbf` is {early:.0f} s ahead, the skew is {rules.not_before_skew:g} s",
        )
    if "iat" in times and now + rules.issued_skew < times["iat"]:
        early = times["iat"] - now
        return rejected(
            "token used before issued", f"the claim `iat` is {early:.0f} s ahead, the skew is {rules.issued_skew:g} s"
        )
    return _parties(token, rules) or times.get("exp", math.inf) + rules.expired_skew


def _parties(token: Token, rules: ClaimRules) -> Problem | None:
    if rules.issuers:
        issuer = token.claims.get("iss")
        if not isinstance(issuer, str) or issuer not in rules.issuers:
            accepted = ", ".join(sorted(rules.issuers))
            return rejected("invalid issuer claim", f"the claim `iss` is {shown(issuer)}, accepted: {accepted}")
    if rules.audiences:
        audience = token.claims.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(one, str) and one in rules.audiences for one in named):
            accepted = ", ".join(sorted(rules.audiences))
            return rejected("invalid audience claim", f"the claim `aud` is {shown(audience)}, accepted: {accepted}")
    return None


def rejected(message: str, detail: str) -> Problem:
    problem = PROBLEMS["token_rejected"]
    return replace(problem, message=f"{problem.message}: {message}", detail=detail)


_LONGEST_SHOWN: Final = 200


def shown(value: object) -> str:
    """A claim's value for the private reason, cut to a bearable length."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
