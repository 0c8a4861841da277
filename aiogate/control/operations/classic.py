"""A native definition or policy as Tyk's classic JSON (spec/api-definition.md, spec/session.md section 5).

Each part is rendered into the Tyk fields that say the same; what has no equal travels as it was written under
`x_aiogate`, by the name of its key in our format, so that nothing is lost on the way. Values are shown as they stand in
the file: `${…}` is never resolved in output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiogate.config.definition import Definition, PluginUse, VersionDeclaration, Versions
from aiogate.config.units import parse_duration
from aiogate.config.upstream import Upstream
from aiogate.control.operations.classic_plugins import render_plugins
from aiogate.control.operations.translate_auth import CERTIFICATE
from aiogate.control.operations.tyk_upstream import TLS_1_3
from aiogate.domain.policy import Policy
from aiogate.domain.session import SessionDocument

__all__ = ["render", "render_policy", "render_versions", "shown_meta", "written"]

Fields = dict[str, Any]


def written(definition: Definition) -> Any:
    """The definition in our own format, as it stands in its file."""
    return definition.source.raw


def render(definition: Definition) -> Mapping[str, Any]:
    """The definition as Tyk's clients know it."""
    ours: Fields = {}
    shown = {
        "id": definition.id,
        "api_id": definition.id,
        "name": _text(definition, ("name",), definition.name),
        "slug": definition.id,
        "org_id": _text(definition, ("org",), definition.org),
        "active": definition.active,
        "domain": _text(definition, ("listen", "host"), definition.listen.host or "", shorthand=False),
        "expiration": _expiry(definition.expires),
        **_auth(definition, ours),
        "strip_auth_data": definition.strip_credentials,
        **_versions(definition, ours),
        "proxy": _proxy(definition, ours),
        "disable_rate_limit": not definition.session_limits.rate,
        "disable_quota": not definition.session_limits.quota,
    }
    if kept := render_plugins(definition, shown, lambda path: _raw(definition, path)):
        ours["plugins"] = kept
    if definition.labels:
        ours["labels"] = _raw(definition, ("labels",))
    shown["x_aiogate"] = ours
    return shown


def _raw(definition: Definition, path: Iterable[str | int]) -> Any:
    """The value at exactly this path as written; None where there is nothing (`Source.written` has the parent then)."""
    value = definition.source.raw
    for step in path:
        found = isinstance(value, Mapping) and step in value
        found = found or (isinstance(value, list) and isinstance(step, int) and step < len(value))
        if not found:
            return None
        value = value[step]
    return value


def _text(definition: Definition, path: tuple[str, ...], value: str, *, shorthand: bool = True) -> str:
    """`value`, or what was written in its place when that holds a variable.

    `shorthand`: the last step of `path` may have been left out, as in `listen: /path/`.
    """
    raw = _raw(definition, path)
    if raw is None and shorthand and len(path) > 1:
        raw = _raw(definition, path[:-1])
    return raw if isinstance(raw, str) and "${" in raw else value


def _expiry(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def _proxy(definition: Definition, ours: Fields) -> Fields:
    listen = _text(definition, ("listen", "path"), definition.listen.path)
    proxy: Fields = {
        "listen_path": listen,
        "target_url": "",
        "strip_listen_path": definition.strip_listen_path,
        "preserve_host_header": False,
    }
    if definition.upstream is None:
        return proxy
    proxy["target_url"] = _text(definition, ("upstream", "url"), str(definition.upstream.listed[0].url))
    raw = _raw(definition, ("upstream",))
    if isinstance(raw, Mapping):
        proxy["preserve_host_header"] = bool(raw.get("preserve_host", False))
        further = {key: value for key, value in raw.items() if key not in ("url", "preserve_host")}
        if targets := _target_list(definition.upstream, raw.get("targets")):
            proxy |= {"enable_load_balancing": True, "target_list": targets}
            del further["targets"]
        if transport := _transport(raw.get("tls")):
            proxy["transport"] = transport
            del further["tls"]
        if further:
            ours["upstream"] = further
    return proxy


_LONGEST_TARGET_LIST: Final = 100


def _target_list(upstream: Upstream, raw: Any) -> list[Any]:
    """The targets, each as often as it weighs; nothing where that would be a long list."""
    if not isinstance(raw, list) or sum(target.weight for target in upstream.targets) > _LONGEST_TARGET_LIST:
        return []
    urls = [target.get("url") if isinstance(target, Mapping) else target for target in raw]
    if len(set(urls)) < len(urls):
        return []
    return [url for url, target in zip(urls, upstream.targets, strict=True) for _ in range(target.weight)]


def _transport(raw: Any) -> Fields:
    """What Tyk can say about TLS; nothing where there is more to say."""
    if not isinstance(raw, Mapping) or not raw or not raw.keys() <= {"verify", "min_version"}:
        return {}
    if raw.get("verify", True) not in (True, False) or str(raw.get("min_version", "1.2")) not in ("1.2", "1.3"):
        return {}
    oldest = TLS_1_3 if str(raw.get("min_version")) == "1.3" else 0
    return {"ssl_insecure_skip_verify": raw.get("verify") is False, "ssl_min_version": oldest}


_AUTH_FLAGS: Final = {
    "key": "use_standard_auth",
    "basic": "use_basic_auth",
    "jwt": "enable_jwt",
    "oauth": "use_oauth2",
    "hmac": "enable_signature_checking",
    "oidc": "use_openid",
}
_AUTH_SOURCES: Final = {
    "key": "authToken",
    "basic": "basic",
    "jwt": "jwt",
    "oauth": "oauth",
    "hmac": "hmac",
    "oidc": "oidc",
}
_IDENTITIES: Final = {
    "key": "auth_token",
    "basic": "basic_auth_user",
    "jwt": "jwt_claim",
    "oauth": "oauth_key",
    "hmac": "hmac_key",
    "oidc": "oidc_user",
}
_OURS_ONLY: Final = frozenset(("jwt", "hmac", "oidc"))
"""Methods whose options travel as ours: Tyk's fields say less, and what they leave out is less strict there."""
_SOURCE_KEYS: Final = frozenset(("header", "query", "cookie"))


def _auth(definition: Definition, ours: Fields) -> Fields:
    auth = definition.auth
    fields: Fields = {"use_keyless": auth.mode == "none", **dict.fromkeys(_AUTH_FLAGS.values(), False)}
    # Where nothing is said it is the first of ours, and the last of Tyk's.
    session_from = auth.methods[0].name if auth.mode == "all" and not auth.session_from else auth.session_from or ""
    if len(auth.methods) < 2:
        session_from = ""
    fields["base_identity_provided_by"] = _IDENTITIES.get(session_from, "")
    fields["auth_configs"] = {}
    # Tyk asks for every method that is switched on; any-of has no equal there.
    exact = auth.mode != "any" or len(auth.methods) < 2
    for method in auth.methods:
        if method is auth.methods[0] and exact and session_from != "mtls" and (allowed := _allowed(definition, method)):
            # Tyk asks for a key beside it, unless the API is open but for the certificate.
            alone = len(auth.methods) == 1
            fields |= {"use_mutual_tls_auth": True, "client_certificates": allowed, "use_keyless": alone}
            continue
        flag = _AUTH_FLAGS.get(method.name)
        if flag is None:
            exact = False
            continue
        fields[flag] = True
        raw = None if method.config is None else _raw(definition, method.path)
        config = raw if isinstance(raw, Mapping) else {}
        fields["auth_configs"][_AUTH_SOURCES[method.name]] = _auth_source(config)
        if method.name == "oauth":
            fields["oauth_meta"] = _oauth_meta(config)
            exact = exact and "grants" in config and set(config) <= {"grants", "login", "header"}
            continue
        if method.name == "key":
            # Where clients of old look for it.
            fields["auth"] = _auth_source(config)
        further = {key: value for key, value in config.items() if key not in _SOURCE_KEYS}
        if method.name == "basic" and further and (told := _basic_auth(further)) is not None:
            fields["basic_auth"] = told
        elif further or method.name in _OURS_ONLY or (raw is not None and not isinstance(raw, Mapping)):
            exact = False
    if not exact:
        ours["auth"] = _raw(definition, ("auth",))
    return fields


def _allowed(definition: Definition, method: PluginUse) -> Sequence[str]:
    """The certificates that a method `mtls` lets in, where Tyk can say all that it says; otherwise none."""
    raw = _raw(definition, method.path) if method.name == "mtls" and method.config is not None else None
    listed = raw["allow"] if isinstance(raw, Mapping) and set(raw) == {"allow"} else None
    if not isinstance(listed, list) or not all(isinstance(one, str) and CERTIFICATE.fullmatch(one) for one in listed):
        return ()
    return listed


def _oauth_meta(config: Mapping[str, Any]) -> Fields:
    login = config.get("login") or ""
    grants = config.get("grants")
    if not isinstance(grants, list):
        grants = ["client_credentials", *(("authorization_code", "refresh_token") if login else ())]
    return {
        "allowed_access_types": grants,
        "allowed_authorize_types": ["code"] if "authorization_code" in grants else [],
        "auth_login_redirect": login,
    }


def _auth_source(config: Mapping[str, Any]) -> Fields:
    header = config.get("header", "Authorization")
    query, cookie = config.get("query"), config.get("cookie")
    return {
        "auth_header_name": header or "",
        "disable_header": header is None,
        "use_param": query is not None,
        "param_name": query or "",
        "use_cookie": cookie is not None,
        "cookie_name": cookie or "",
    }


def _basic_auth(config: Mapping[str, Any]) -> Fields | None:
    """Tyk's fields for basic auth; None where it has none for all of it."""
    body = config.get("body") or {}
    cache = config.get("cache")
    if not set(config) <= {"body", "cache"} or not set(body) <= {"user", "password"} or "${" in repr(config):
        return None
    off = cache is False or cache in ("off", "0s")
    seconds = 0.0 if cache is None or off else parse_duration(cache)
    if seconds % 1:
        return None
    fields = {
        "extract_from_body": bool(body),
        "body_user_regexp": body.get("user", ""),
        "body_password_regexp": body.get("password", ""),
    }
    return fields if cache is None else {**fields, "disable_caching": off, "cache_ttl": int(seconds)}


_LOCATIONS: Final = {"header": "header", "query": "url-param", "path": "url"}


def _versions(definition: Definition, ours: Fields) -> Fields:
    versions = definition.versions
    if versions is None:
        return {
            "definition": {"location": "header", "key": "x-api-version", "strip_versioning_data": False},
            "version_data": {
                "not_versioned": True,
                "default_version": "",
                "versions": {"Default": {"name": "Default", "expires": "", "use_extended_paths": True}},
            },
        }
    if not all(_is_exact(definition, name, version) for name, version in versions.list.items()):
        ours["versions"] = _raw(definition, ("versions",))
    return {
        "definition": {
            "location": _LOCATIONS[versions.by],
            "key": versions.name or "",
            "strip_versioning_data": versions.strip,
        },
        "version_data": {
            "not_versioned": False,
            "default_version": versions.default or "",
            "versions": {name: _version(definition, versions, name) for name in versions.list},
        },
    }


def render_versions(definition: Definition) -> list[Fields]:
    """The versions of a definition as Tyk lists them; an API without any has the one called Default."""
    versions = definition.versions
    listed = versions.list if versions is not None else {"Default": VersionDeclaration(expires=definition.expires)}
    return [
        {
            "id": definition.id,
            "name": _text(definition, ("name",), definition.name),
            "versionName": name,
            "internal": False,
            "expirationDate": _expiry(version.expires),
            "isDefaultVersion": versions is None or versions.default == name,
        }
        for name, version in listed.items()
    ]


def _is_exact(definition: Definition, name: str, version: VersionDeclaration) -> bool:
    """Whether Tyk's fields hold all of a version: whole minutes, and nothing of an upstream but its address."""
    upstream = _raw(definition, ("versions", "list", name, "upstream"))
    return not (version.expires or 0) % 60 and (not isinstance(upstream, Mapping) or set(upstream) <= {"url"})


def _version(definition: Definition, versions: Versions, name: str) -> Fields:
    version = versions.list[name]
    shown: Fields = {"name": name, "expires": _expiry(version.expires), "use_extended_paths": True}
    if version.upstream is not None:
        shown["override_target"] = _text(
            definition, ("versions", "list", name, "upstream", "url"), str(version.upstream.listed[0].url)
        )
    return shown


_NO_DATE: Final = "0001-01-01T00:00:00Z"
"""What Go writes for no time at all, and Tyk's clients expect."""


def shown_meta(policy: Policy) -> dict[str, Any]:
    """The policy's `meta` as written: it may hold credentials from variables, which are in no reply."""
    return dict(policy.written.get("meta") or policy.meta)


def _shown_text(policy: Policy, key: str, value: str) -> str:
    raw = policy.written.get(key)
    return raw if isinstance(raw, str) and "${" in raw else value


def render_policy(policy: Policy) -> Mapping[str, Any]:
    """A policy as Tyk's clients know it."""
    limits = SessionDocument(access_rights=dict(policy.access), rate=policy.rate, per=policy.per).as_json()
    return {
        "_id": policy.id,
        "id": policy.id,
        "name": _shown_text(policy, "name", policy.name),
        "org_id": _shown_text(policy, "org", policy.org),
        "rate": limits["rate"],
        "per": limits["per"],
        "quota_max": policy.quota_max,
        "quota_renewal_rate": policy.quota_renewal_rate,
        "throttle_interval": policy.throttle_interval,
        "throttle_retry_limit": policy.throttle_retry_limit,
        "access_rights": limits["access_rights"],
        "hmac_enabled": policy.hmac_enabled,
        "enable_http_signature_validation": policy.enable_http_signature_validation,
        "active": policy.active,
        "is_inactive": policy.inactive,
        "tags": list(policy.written.get("tags") or policy.tags),
        "meta_data": shown_meta(policy),
        "key_expires_in": policy.key_expires_in,
        "post_expiry_action": policy.post_expiry_action,
        "post_expiry_grace_period": policy.post_expiry_grace_period,
        "partitions": {
            "quota": "quota" in policy.partitions,
            "rate_limit": "rate" in policy.partitions,
            "acl": "access" in policy.partitions,
            "complexity": "complexity" in policy.partitions,
            "per_api": policy.per_api,
        },
        "last_updated": policy.last_updated,
        "date_created": policy.date_created or _NO_DATE,
    }
