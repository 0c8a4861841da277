"""From what a token says to what it opens: who it is about, and which policies it names.

The order is Tyk's (spec/api-definition.md section 5): the token's own claim of a policy, or its client's first one, and
the policies of its scopes; default policies count where it names none of these. Methods that read tokens derive their
configuration from `TokenRights`, so that the same keys mean the same in each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from aiogate.config.model import Model
from aiogate.credentials.jose import Token
from aiogate.domain.session import Session
from aiogate.errors import PROBLEMS, Problem

if TYPE_CHECKING:
    from aiogate.stores.repositories import LookupFailure

__all__ = ["Scopes", "TokenRights"]

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
"""One text, or a list of them."""


class Scopes(Model):
    """Policies by scope. `claim` holds the scopes, a text with blanks between them or a list."""

    claim: Text = "scope"
    policies: Mapping[str, Text] = Field(min_length=1)


class TokenRights(Model):
    """Which claims say who a token is about and what it opens. A claim may be a dotted path."""

    identity: Text = "sub"
    policy_claim: Text | None = None
    client_claim: Text | None = None
    scopes: Scopes | None = None
    default_policies: Texts = ()

    @property
    def opens(self) -> bool:
        """Whether anything says what a token opens."""
        return bool(self.policy_claim or self.client_claim or self.scopes or self.default_policies)

    def identity_of(self, token: Token, *others: str) -> str | Problem:
        """Who the token is about: the claim `identity`, or else `sub`, or else one of `others`."""
        refusal = PROBLEMS["token_identity"]
        names = tuple(dict.fromkeys((self.identity, "sub", *others)))
        for name in names:
            value = token.claim(name)
            if value == "":
                message = (
                    "found an empty user ID in sub claim"
                    if name == "sub"
                    else f"found an empty user ID in predefined base claim, claim: {name}"
                )
                return replace(refusal, message=message, detail=f"the claim `{name}` is an empty text")
            if isinstance(value, str):
                return value
        return refusal.because(f"the token has no claim {' and no '.join(f'`{name}`' for name in names)} that is text")

    def client_of(self, token: Token) -> str | None:
        """The key whose first policy counts; None: none is asked for, or the token names none."""
        if self.policy_claim is not None or self.client_claim is None:
            return None
        client = token.claim(self.client_claim)
        return client if isinstance(client, str) and client else None

    def client_mistake(self, found: Session | LookupFailure) -> str:
        """Why what was found under the name that `client_of` gave is no key with a policy; empty: it is one."""
        if not isinstance(found, Session):
            if found.missing:
                return f"the claim `{self.client_claim}` names no key: {found.reason}"
            return f"the key that the claim `{self.client_claim}` names cannot be used: {found.reason}"
        if found.kind not in ("key", "oauth"):
            return f"the claim `{self.client_claim}` names a session of kind {found.kind}, not a key"
        if found.inactive or not found.policies:
            state = "is inactive" if found.inactive else "has no policy"
            return f"the key that the claim `{self.client_claim}` names {state}"
        return ""

    def policies_of(self, token: Token, client: Session | None = None) -> tuple[str, ...] | Problem:
        """The policies that the token opens. `client` is the session of the key that `client_of` named."""
        base: list[str] = []
        if self.policy_claim is not None:
            named = token.claim(self.policy_claim)
            named = [named] if isinstance(named, str) else named
            if named is not None and (not isinstance(named, list) or not all(isinstance(one, str) for one in named)):
                detail = f"the claim `{self.policy_claim}` is neither text nor a list of it"
                return _no_policy("no matching policy", detail)
            base = [one for one in named or () if one]
        elif client is not None:
            base = [client.policies[0]]
        scopes: list[str] = []
        if self.scopes is not None:
            said = token.claim(self.scopes.claim)
            said = said.split() if isinstance(said, str) else said
            scopes = [one for one in said if isinstance(one, str)] if isinstance(said, list) else []
            base += [self.scopes.policies[scope] for scope in scopes if scope in self.scopes.policies]
        policies = tuple(dict.fromkeys(base)) or self.default_policies
        if policies:
            return policies
        if scopes and self.scopes is not None:
            known = ", ".join(self.scopes.policies)
            detail = f"the claim `{self.scopes.claim}` has {' '.join(scopes)[:200]!r}, known scopes: {known}"
            return _no_policy("no matching policy found in scope claim", detail)
        claims = (self.policy_claim, self.client_claim, self.scopes.claim if self.scopes is not None else None)
        looked = ", ".join(f"`{claim}`" for claim in claims if claim is not None)
        return _no_policy(
            "no matching policy", f"the token names no policy in {looked}, and there is no default policy"
        )


def _no_policy(message: str, detail: str) -> Problem:
    return replace(PROBLEMS["token_policy"], message=f"key not authorized: {message}", detail=detail)
