"""How one API is an OAuth 2 server: the keys under `oauth:`, and what is right or wrong by the standards alone.

Nothing here remembers anything; see `oauth` for that. The standards are RFC 6749 with RFC 7636 (PKCE) and the advice of
RFC 9700: redirect addresses are compared as text, `plain` challenges are refused.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated, Final, Literal
from urllib.parse import urlencode, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from aiogate.config.model import Model
from aiogate.config.units import Duration
from aiogate.errors import PROBLEMS, Problem

__all__ = ["Authorisation", "OAuthRules", "answered", "authorisation", "proves", "redirect_mistake"]

_NO_STORE: Final = (("Cache-Control", "no-store"), ("Pragma", "no-cache"))
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_SCRIPTS: Final = frozenset(("javascript", "data", "vbscript", "file", "blob", "about"))
_LONGEST_URI: Final = 2048
_LONGEST_STATE: Final = 2048

GrantType = Literal["authorization_code", "refresh_token", "client_credentials", "password"]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


def _page(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or not value.isprintable():
        raise ValueError("should be an http or https address without a fragment")
    return value


Page = Annotated[str, AfterValidator(_page)]


class OAuthRules(Model):
    """The keys under `oauth:`.

    `grants` are the ways to a token; without the key, `client_credentials`, and with `login` also `authorization_code`
    and `refresh_token`. `login` is the page that users are sent to. Tokens hold for `token_lifetime`, refresh tokens
    for `refresh_lifetime` since their last use, codes for `code_lifetime`. `default_policies` are the rights of clients
    without a policy. `resource_servers` are the ids of clients that may ask about the access tokens of all clients
    (RFC 7662). `issuer` is what the server calls itself (RFC 8414); without it, the address that it is asked at.
    """

    grants: Annotated[tuple[GrantType, ...] | None, Field(min_length=1)] = None
    login: Page | None = None
    token_lifetime: Annotated[Duration, Field(ge=10, le=30 * 86400)] = 3600.0
    refresh_lifetime: Annotated[Duration, Field(ge=60, le=366 * 86400)] = 14 * 86400.0
    code_lifetime: Annotated[Duration, Field(ge=1, le=600)] = 60.0
    default_policies: Texts = ()
    resource_servers: Texts = ()
    issuer: Page | None = None
    header: Text = "Authorization"

    @model_validator(mode="after")
    def _whole(self) -> OAuthRules:
        if "authorization_code" in self.allowed and self.login is None:
            raise ValueError("`authorization_code` needs `login`, the page where users say who they are")
        if self.login is not None and "authorization_code" not in self.allowed:
            raise ValueError("`login` is for the grant `authorization_code`, which is not among `grants`")
        if "refresh_token" in self.allowed and {"authorization_code", "password"}.isdisjoint(self.allowed):
            raise ValueError(
                "`refresh_token` continues `authorization_code` or `password`, and neither is a grant here"
            )
        return self

    @property
    def allowed(self) -> tuple[str, ...]:
        """The grants in force."""
        if self.grants is not None:
            return self.grants
        return ("client_credentials", *(("authorization_code", "refresh_token") if self.login is not None else ()))

    @property
    def kept(self) -> float:
        """Seconds for which a grant lives on after its last use."""
        return max(self.refresh_lifetime if "refresh_token" in self.allowed else 0.0, self.token_lifetime)

    @staticmethod
    def refused(error: str, description: str, reason: str = "", status: int = 400) -> Problem:
        """A refusal in the form of RFC 6749 section 5.2. `reason` is private."""
        return replace(
            PROBLEMS["oauth_refused"],
            status=status,
            message=f"{error}: {description}",
            detail=reason or description,
            headers=_NO_STORE,
            fields=(("error", error), ("error_description", description)),
        )

    @staticmethod
    def address(uri: str, parameters: Mapping[str, str]) -> str:
        """The address with further query parameters."""
        return f"{uri}{'&' if '?' in uri else '?'}{urlencode(parameters)}"


refused = OAuthRules.refused


@dataclass(frozen=True, slots=True)
class Authorisation:
    """An authorisation request (RFC 6749 section 4.1.1) of which everything was found right.

    `redirect_uri` is where the answer goes; `sent_uri` what the request said, empty where it said nothing.
    """

    redirect_uri: str
    sent_uri: str = ""
    state: str = ""
    challenge: str = ""


def authorisation(
    parameters: Mapping[str, str], *, uris: tuple[str, ...], public: bool, rules: OAuthRules
) -> Authorisation | Problem:
    """What an authorisation request of a known client asks for, or why it is refused.

    A refusal goes to the redirect address only when that is one of the client's own, as text (RFC 6749 section
    4.1.2.1): there is no way to be sent elsewhere.
    """
    sent = parameters.get("redirect_uri", "")
    if sent and sent not in uris:
        return refused("invalid_request", "redirect_uri is not one of the client", f"it asks for {sent[:300]!r}")
    if not sent and len(uris) != 1:
        return refused("invalid_request", "redirect_uri is missing", f"the client has {len(uris)} of them")
    uri = sent or uris[0]
    state = parameters.get("state", "")
    if len(state) > _LONGEST_STATE:
        return refused("invalid_request", f"state has more than {_LONGEST_STATE} characters")

    def back(error: str, description: str) -> Problem:
        problem = refused(error, description, status=302)
        answer = {"error": error, "error_description": description, **({"state": state} if state else {})}
        return problem.with_header("Location", rules.address(uri, {**answer, **_named(rules)}))

    response_type = parameters.get("response_type", "")
    if not response_type:
        return back("invalid_request", "response_type is missing")
    if response_type != "code":
        return back("unsupported_response_type", "response_type is not code")
    if "authorization_code" not in rules.allowed:
        return back("unauthorized_client", "the grant authorization_code is not offered")
    challenge = parameters.get("code_challenge", "")
    method = parameters.get("code_challenge_method", "")
    if not challenge:
        if public:
            return back("invalid_request", "code_challenge is missing, and the client has no secret")
        if method:
            return back("invalid_request", "code_challenge_method without code_challenge")
    elif method != "S256":
        return back("invalid_request", "code_challenge_method is not S256")
    elif not _CHALLENGE.fullmatch(challenge):
        return back("invalid_request", "code_challenge is not the digest of a verifier")
    return Authorisation(uri, sent, state, challenge)


def answered(authorisation: Authorisation, code: str, rules: OAuthRules) -> str:
    """The address with which the user comes back to the client (RFC 6749 section 4.1.2)."""
    answer = {"code": code, **({"state": authorisation.state} if authorisation.state else {})}
    return rules.address(authorisation.redirect_uri, {**answer, **_named(rules)})


def _named(rules: OAuthRules) -> Mapping[str, str]:
    """Who answers, so that a client of several servers cannot be made to mix them up (RFC 9207)."""
    return {"iss": rules.issuer} if rules.issuer is not None else {}


def proves(verifier: str, challenge: str) -> bool:
    """Whether a code verifier belongs to an S256 challenge (RFC 7636 section 4.6)."""
    if not _VERIFIER.fullmatch(verifier):
        return False
    digest = urlsafe_b64encode(sha256(verifier.encode("ascii")).digest()).rstrip(b"=")
    return compare_digest(digest, challenge.encode("ascii"))


def redirect_mistake(uri: str) -> str:
    """Why an address cannot be one that users are sent back to; empty when it can."""
    if not uri or len(uri) > _LONGEST_URI:
        return f"should have from 1 to {_LONGEST_URI} characters"
    if not all("!" <= char <= "~" for char in uri) or "\\" in uri:
        return "holds a character that no address has"
    if "#" in uri:
        return "has a fragment"
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest or not _SCHEME.fullmatch(scheme):
        return "has no scheme, such as https"
    if scheme.lower() in _SCRIPTS:
        return f"has the scheme {scheme}"
    if "*" in uri:
        return "has a wildcard: addresses are compared as text"
    try:
        parts = urlsplit(uri)
        hostname, _ = parts.hostname, parts.port
    except ValueError:
        return "is not an address"
    if scheme.lower() in ("http", "https") and not hostname:
        return "has no host"
    if "@" in parts.netloc:
        return "has a user in front of the host"
    if {".", ".."} & set(parts.path.split("/")):
        return "has a segment . or .. in its path"
    return ""
