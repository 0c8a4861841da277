"""Tyk's fields of the methods that verify signatures, into the configurations of ours (spec/api-definition.md).

`translate` reads the table and decides which methods there are; here is what each of them becomes.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final, Protocol

from aiogate.config.units import format_duration

__all__ = ["CERTIFICATE", "Fields", "hmac", "jwt", "mtls", "oauth", "oidc", "places"]


CERTIFICATE: Final = re.compile(r"[A-Za-z0-9._-]{0,100}[0-9A-Fa-f]{64}", re.ASCII)
"""What names a client's certificate: its SHA-256 in hex, or Tyk's id, which has the organisation in front."""


class Fields(Protocol):
    """The fields of one definition, with a verdict for each."""

    def get(self, *path: str) -> Any: ...

    def refuse(self, field: str, note: str) -> None: ...

    def ignore(self, field: str, note: str) -> None: ...


_FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "hmac": ("HS256", "HS384", "HS512"),
    "rsa": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "ecdsa": ("ES256", "ES384", "ES512"),
}
_ADDRESS: Final = re.compile(r"https?://", re.IGNORECASE)
_SHORTEST_SECRET: Final = 32
_LONGEST_SKEW: Final = 300


def places(source: Mapping[str, Any]) -> dict[str, Any]:
    """Where a credential stands: the keys `header`, `query` and `cookie`, as far as they are not the defaults."""
    header = text(source.get("auth_header_name")) or "Authorization"
    config: dict[str, Any] = {}
    if source.get("disable_header") is True:
        config["header"] = None
    elif header != "Authorization":
        config["header"] = header
    for place, flag, named in (("query", "use_param", "param_name"), ("cookie", "use_cookie", "cookie_name")):
        if source.get(flag) is True:
            config[place] = text(source.get(named)) or header
    return config


def jwt(fields: Fields) -> Mapping[str, Any]:
    """The configuration of the method `jwt`."""
    family = text(fields.get("jwt_signing_method")).lower()
    config: dict[str, Any] = {"algorithms": list(_FAMILIES.get(family, _FAMILIES["hmac"]))}
    config.update(_keys(fields, symmetric=family not in ("rsa", "ecdsa")))
    source = fields.get("auth_configs", "jwt") or fields.get("auth")
    config.update(places(source if isinstance(source, Mapping) else {}))
    fallen = text(fields.get("jwt_identity_base_field")) or text(fields.get("jwt_identit_base_field"))
    if fallen and fallen != "sub":
        config["identity"] = fallen
    if skew := _skew(fields):
        config["skew"] = skew
    policies = _policies(fields)
    if config.get("from_session"):
        if fields.get("jwt_skip_kid") is True:
            config["kid_is_key"] = False
        for name in _POLICY_FIELDS:
            if fields.get(name):
                fields.ignore(name, "each key has its own rights, because jwt_source is empty")
        return config
    if fields.get("jwt_skip_kid") is True:
        fields.ignore("jwt_skip_kid", "with keys of an issuer the identity is never the kid")
    if not policies:
        fields.refuse("enable_jwt", "no field says which policy a token has: nobody could come in")
    return config | policies


_SIGNATURES: Final = ("hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512", "rsa-sha256")
_LONGEST_CLOCK_SKEW: Final = 3_600_000


def hmac(fields: Fields) -> Mapping[str, Any]:
    """The configuration of the method `hmac`, with the switches that make it as lenient as Tyk's."""
    allowed = fields.get("hmac_allowed_algorithms") or list(_SIGNATURES)
    if not isinstance(allowed, list) or not set(allowed) <= set(_SIGNATURES):
        fields.refuse("hmac_allowed_algorithms", f"known: {', '.join(_SIGNATURES)}")
    config: dict[str, Any] = {"algorithms": allowed, "skew": None}
    skew = fields.get("hmac_allowed_clock_skew")
    if isinstance(skew, (int, float)) and not isinstance(skew, bool) and skew > 0:
        if skew > _LONGEST_CLOCK_SKEW:
            fields.refuse("hmac_allowed_clock_skew", f"is at most {_LONGEST_CLOCK_SKEW} milliseconds")
        config["skew"] = format_duration(float(skew) / 1000)
    source = fields.get("auth_configs", "hmac")
    place = places(source if isinstance(source, Mapping) else {})
    for name in place.keys() - {"header"} | {name for name in place if place[name] is None}:
        fields.refuse(f"auth_configs.hmac.{_SWITCHES[name]}", "a signature stands in a header")
    return {**config, "require": [], "target": "path", "body_digest": "off", "refuse_replays": False, **place}


_SWITCHES: Final = {"header": "disable_header", "query": "use_param", "cookie": "use_cookie"}


_GRANTS: Final = ("authorization_code", "refresh_token", "client_credentials", "password")


def oauth(fields: Fields) -> Mapping[str, Any]:
    """The configuration of the method `oauth`."""
    field = "oauth_meta.allowed_access_types"
    listed = fields.get("oauth_meta", "allowed_access_types")
    grants = list(dict.fromkeys(listed)) if isinstance(listed, list) else []
    if not grants or not set(grants) <= set(_GRANTS):
        fields.refuse(field, f"names grants, known: {', '.join(_GRANTS)}")
        return {}
    types = fields.get("oauth_meta", "allowed_authorize_types") or []
    if not isinstance(types, list) or not set(types) <= {"code"}:
        fields.refuse(
            "oauth_meta.allowed_authorize_types",
            "only `code` is offered: no token goes through an address; a page without a secret uses a code with PKCE",
        )
    login = text(fields.get("oauth_meta", "auth_login_redirect"))
    if "authorization_code" not in grants:
        if types:
            fields.ignore("oauth_meta.allowed_authorize_types", "authorization_code is not among the access types")
        if login:
            fields.ignore("oauth_meta.auth_login_redirect", "authorization_code is not among the access types")
        login = ""
    elif not types:
        fields.refuse(field, "authorization_code needs `code` in allowed_authorize_types")
    elif not re.fullmatch(r"https?://[^#\s]+", login):
        fields.refuse(
            "oauth_meta.auth_login_redirect", "should be an http or https address: authorization_code needs it"
        )
    if "refresh_token" in grants and not {"authorization_code", "password"} & set(grants):
        fields.refuse(field, "refresh_token continues authorization_code or password, and neither is there")
    config: dict[str, Any] = {"grants": grants, **({"login": login} if login else {})}
    source = fields.get("auth_configs", "oauth")
    place = places(source if isinstance(source, Mapping) else {})
    for name in place.keys() - {"header"} | {name for name in place if place[name] is None}:
        fields.refuse(f"auth_configs.oauth.{_SWITCHES[name]}", "a token stands in a header")
    return config | place


def mtls(fields: Fields) -> Mapping[str, Any]:
    """The configuration of the method `mtls`. An empty list lets nobody in at Tyk, and is no list of ours."""
    field = "client_certificates"
    listed = fields.get(field)
    if not listed:
        fields.refuse("use_mutual_tls_auth", f"{field} is empty: nobody could come in")
    elif not isinstance(listed, list) or not all(isinstance(one, str) and CERTIFICATE.fullmatch(one) for one in listed):
        fields.refuse(field, "each is the SHA-256 of a client's certificate in hex, or its id in /tyk/certs")
    return {"allow": listed}


def oidc(fields: Fields) -> Mapping[str, Any]:
    """The configuration of the method `oidc`."""
    listed = fields.get("openid_options", "providers")
    providers = []
    for entry in listed if isinstance(listed, list) else []:
        issuer = text(entry.get("issuer")) if isinstance(entry, Mapping) else ""
        clients = entry.get("client_ids") if isinstance(entry, Mapping) else None
        pairs = clients.items() if isinstance(clients, Mapping) else ()
        named = {_decoded(client): policy for client, policy in pairs}
        if not issuer or not named or None in named or not all(isinstance(one, str) and one for one in named.values()):
            fields.refuse(
                "openid_options.providers", "each has an issuer, and client ids in base64 with their policies"
            )
            continue
        providers.append({"issuer": issuer, "clients": named})
    if not providers:
        fields.refuse("openid_options.providers", "there is none")
    config: dict[str, Any] = {"providers": providers}
    if fields.get("openid_options", "segregate_by_client") is True:
        config["segregate_by_client"] = True
    source = fields.get("auth_configs", "oidc")
    return config | places(source if isinstance(source, Mapping) else {})


def _keys(fields: Fields, *, symmetric: bool) -> Mapping[str, Any]:
    source = text(fields.get("jwt_source"))
    listed = fields.get("jwt_jwks_uris")
    if listed:
        if source:
            fields.ignore("jwt_source", "jwt_jwks_uris stands in its place")
        entries = listed if isinstance(listed, list) else []
        urls = [text(entry.get("url")) if isinstance(entry, Mapping) else "" for entry in entries]
        if not urls or not all(urls):
            fields.refuse("jwt_jwks_uris", "each holds a url")
        field = "jwt_jwks_uris"
    elif not source:
        return {"from_session": True}
    else:
        field = "jwt_source"
        decoded = source if _ADDRESS.match(source) else _decoded(source)
        if decoded is None:
            fields.refuse("jwt_source", "should be base64")
            return {}
        if not _ADDRESS.match(decoded):
            if symmetric and len(decoded.encode()) < _SHORTEST_SECRET:
                fields.refuse("jwt_source", f"a secret of fewer than {_SHORTEST_SECRET} bytes")
            return {"key": decoded.replace("${", "$${")}
        urls = [decoded]
    if symmetric:
        fields.refuse(field, "a published key is no secret, and the signing method needs one")
    return {"jwks": urls[0] if len(urls) == 1 else urls}


def _decoded(source: str) -> str | None:
    try:
        return b64decode(source, validate=True).decode()
    except (binascii.Error, ValueError):
        return None


_POLICY_FIELDS: Final = (
    "jwt_policy_field_name",
    "jwt_client_base_field",
    "jwt_default_policies",
    "jwt_scope_to_policy_mapping",
    "jwt_scope_claim_name",
)


def _policies(fields: Fields) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if policy := text(fields.get("jwt_policy_field_name")):
        config["policy_claim"] = policy
    if client := text(fields.get("jwt_client_base_field")):
        if policy:
            fields.ignore("jwt_client_base_field", "jwt_policy_field_name goes before it")
        else:
            config["client_claim"] = client
    place = "scopes.jwt.scope_to_policy" if fields.get("scopes", "jwt", "scope_to_policy") else _POLICY_FIELDS[3]
    mapping = fields.get(*place.split("."))
    if not mapping:
        for name in ("jwt_scope_claim_name", "scopes.jwt.scope_claim_name"):
            if fields.get(*name.split(".")):
                fields.ignore(name, "no scope has a policy")
    elif not isinstance(mapping, Mapping) or not all(isinstance(one, str) and one for one in mapping.values()):
        fields.refuse(place, "holds a policy for each scope")
    else:
        claim = text(fields.get("scopes", "jwt", "scope_claim_name")) or text(fields.get("jwt_scope_claim_name"))
        config["scopes"] = {"claim": claim or "scope", "policies": dict(mapping)}
    if default := fields.get("jwt_default_policies"):
        config["default_policies"] = default
    return config


def _skew(fields: Fields) -> Any:
    skews: dict[str, str] = {}
    for claim, name in (("exp", "expires_at"), ("nbf", "not_before"), ("iat", "issued_at")):
        field = f"jwt_{name}_validation_skew"
        value = fields.get(field)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            continue
        if value > _LONGEST_SKEW:
            fields.refuse(field, f"is at most {_LONGEST_SKEW} seconds")
            continue
        skews[claim] = format_duration(float(value))
    return next(iter(skews.values())) if len(skews) == 3 and len(set(skews.values())) == 1 else skews


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""
