"""Tyk's classic JSON into our YAML: the way in, as `classic` is the way out.

Each field with a value gets a verdict from the tables of `tyk_fields`. One refused field refuses the whole: an API that
is translated without one of its restrictions would be open where Tyk's was not. `x_aiogate` holds what only our format
has, as `classic.render` wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import yaml

from aiogate.config.provenance import TRANSLATED, signed
from aiogate.config.units import format_duration, format_timestamp
from aiogate.control.operations import translate_auth
from aiogate.control.operations.tyk_fields import API_FIELDS, POLICY_FIELDS, UNLIMITED, Row, is_zero
from aiogate.control.operations.tyk_plugins import api_plugins, rate_of, version_plugins
from aiogate.control.operations.tyk_upstream import upstream_of

__all__ = ["DEEPEST", "FieldVerdict", "Translation", "deeper", "translate_api", "translate_policy", "yaml_text"]

DEEPEST: Final = 32
"""Levels of nesting that a body may have."""
Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class FieldVerdict:
    """What became of one field. `field` is its path, `note` why."""

    field: str
    verdict: Literal["mapped", "ignored", "refused"]
    note: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.note}" if self.note else self.field


@dataclass(frozen=True, slots=True)
class Translation:
    """`native` is the declaration in our format; it is worth something only while nothing is refused."""

    id: str
    native: Object
    fields: tuple[FieldVerdict, ...]

    def of(self, verdict: str) -> Sequence[str]:
        """The fields with this verdict, each with its reason."""
        return [str(field) for field in self.fields if field.verdict == verdict]

    @property
    def refused(self) -> Sequence[str]:
        return self.of("refused")

    @property
    def ignored(self) -> Sequence[str]:
        return self.of("ignored")


def translate_api(body: Object) -> Translation:
    """A classic API definition as the content of a file in `apis.d/`."""
    fields = _Fields(body, API_FIELDS)
    for name in ("upstream", "versions"):
        if not is_zero(ours := fields.get("x_aiogate", name)) and not isinstance(ours, Mapping):
            fields.refuse(f"x_aiogate.{name}", "should be an object")
    native = _api(fields) if not fields.too_deep else {}
    return Translation(_text(fields.get("api_id")), native, fields.verdicts())


def translate_policy(body: Object) -> Translation:
    """A Tyk policy as the content of a file in `policies.d/`."""
    fields = _Fields(body, POLICY_FIELDS)
    native = _policy(fields) if not fields.too_deep else {}
    return Translation(_text(fields.get("id")) or _text(fields.get("_id")), native, fields.verdicts())


class _Fields:
    """One JSON object with a verdict for each of its fields."""

    def __init__(self, body: Object, table: Mapping[str, Row]) -> None:
        self.body = body
        self._table = table
        self._verdicts: dict[str, FieldVerdict] = {}
        self._open = {".".join(name.split(".")[:size]) for name in table for size in range(1, name.count(".") + 1)}
        self.too_deep = deeper(body, DEEPEST)
        if self.too_deep:
            self.refuse("(body)", f"nested deeper than {DEEPEST} levels")
        else:
            self._walk(body, (), ())

    def verdicts(self) -> tuple[FieldVerdict, ...]:
        return tuple(sorted(self._verdicts.values()))

    def get(self, *path: str) -> Any:
        value: Any = self.body
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    def refuse(self, field: str, note: str) -> None:
        self._verdicts[field] = FieldVerdict(field, "refused", note)

    def ignore(self, field: str, note: str) -> None:
        """A field that is of the wrong kind stays refused."""
        known = self._verdicts.get(field)
        if known is None or known.verdict != "refused":
            self._verdicts[field] = FieldVerdict(field, "ignored", note)

    def ignore_below(self, place: str, note: str) -> None:
        for field, verdict in self._verdicts.items():
            if field.startswith(f"{place}.") and verdict.verdict == "mapped":
                self.ignore(field, note)

    def _walk(self, value: Object, path: tuple[str, ...], pattern: tuple[str, ...]) -> None:
        for key, inner in value.items():
            name = ".".join((*pattern, key))
            if name not in self._table and name not in self._open:
                name = ".".join((*pattern, "*"))
            place = (*path, key)
            row = self._table.get(name)
            if is_zero(inner):
                # Absent, but a zero of another type is a mistake that Go would not read either.
                wrong = ""
                if row is not None and row.verdict == "mapped" and inner is not None:
                    wrong = _wrong_kind(row, inner)
                elif row is None and name in self._open and not isinstance(inner, (Mapping, type(None))):
                    wrong = "an object"
                if wrong:
                    self.refuse(".".join(place), f"should be {wrong}")
            elif row is not None:
                self._judge(".".join(place), place, row, inner)
            elif name not in self._open:
                self.refuse(".".join(place), "unknown field")
            elif not isinstance(inner, Mapping):
                self.refuse(".".join(place), "should be an object")
            else:
                self._walk(inner, place, tuple(name.split(".")))

    def _judge(self, field: str, path: tuple[str, ...], row: Row, value: Any) -> None:
        wrong = _wrong_kind(row, value)
        if row.switch and not self._is_on(row.switch, path):
            self.ignore(field, f"has no effect here: {row.switch.lstrip('!').replace('version_data.versions.*.', '')}")
        elif row.verdict == "mapped" and wrong:
            self.refuse(field, f"should be {wrong}")
        elif row.verdict == "refused" and self._is_harmless(field, value):
            self.ignore(field, "is what the gateway does anyway")
        else:
            self._verdicts[field] = FieldVerdict(field, row.verdict, row.note)

    def _is_on(self, switch: str, path: tuple[str, ...]) -> bool:
        steps = [path[index] if step == "*" else step for index, step in enumerate(switch.lstrip("!").split("."))]
        if switch.startswith("!"):
            return self.get(*steps) is not True
        return not is_zero(self.get(*steps))

    def _is_harmless(self, field: str, value: Any) -> bool:
        last = field.rpartition(".")[2]
        if self._table is POLICY_FIELDS and isinstance(value, (int, float)) and value < 0:
            return last in UNLIMITED
        if last == "storage_engine":
            return bool(value == "redis")
        return field == "protocol" and value == "http"


def deeper(value: Any, levels: int) -> bool:
    """Whether something is nested deeper than so many levels."""
    if isinstance(value, Mapping):
        return levels == 0 or any(deeper(inner, levels - 1) for inner in value.values())
    if isinstance(value, list):
        return levels == 0 or any(deeper(inner, levels - 1) for inner in value)
    return False


def _wrong_kind(row: Row, value: Any) -> str:
    if row.kind == "text":
        return "" if isinstance(value, str) else "text"
    if row.kind == "flag":
        return "" if isinstance(value, bool) else "true or false"
    if row.kind == "number":
        return "" if isinstance(value, (int, float)) and not isinstance(value, bool) else "a number"
    if row.kind == "texts":
        return "" if isinstance(value, list) and all(isinstance(item, str) for item in value) else "a list of text"
    if row.kind == "objects":
        return "" if isinstance(value, list) else "a list of objects"
    return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(value: Any) -> Object:
    return value if isinstance(value, Mapping) else {}


def _api(fields: _Fields) -> Object:
    native: dict[str, Any] = {"id": _text(fields.get("api_id"))}
    if name := _text(fields.get("name")):
        native["name"] = name
    if org := _text(fields.get("org_id")):
        native["org"] = org
    listen = _text(fields.get("proxy", "listen_path"))
    if not listen:
        fields.refuse("proxy.listen_path", "is missing")
    host = "" if fields.get("domain_disabled") else _text(fields.get("domain"))
    native["listen"] = {"path": listen, "host": host} if host else listen
    upstream = upstream_of(fields, _text(_single(fields).get("override_target")))
    if upstream is not None:
        native["upstream"] = upstream
    if fields.get("proxy", "strip_listen_path") is not True:
        native["strip_listen_path"] = False
    if fields.get("active") is False:
        native["active"] = False
    native["auth"] = _auth(fields)
    if fields.get("strip_auth_data") is True and fields.get("use_keyless") is not True:
        native["strip_credentials"] = True
    expires = [moment for moment in (_expiry(fields, "expiration"),) if moment is not None]
    versions, single_expiry = _versions(fields)
    if versions:
        native["versions"] = versions
    expires += [single_expiry] if single_expiry is not None else []
    if expires:
        native["expires"] = format_timestamp(min(expires))
    limits = {name: False for name, flag in (("rate", "disable_rate_limit"), ("quota", "disable_quota"))
              if fields.get(flag) is True}  # fmt: skip
    if limits:
        native["session_limits"] = limits
    if plugins := _plugins(fields):
        native["plugins"] = plugins
    if labels := fields.get("x_aiogate", "labels"):
        native["labels"] = labels
    return native


def _single(fields: _Fields) -> Object:
    """The one version of an API without versions."""
    if fields.get("version_data", "not_versioned") is not True:
        return {}
    versions = _object(fields.get("version_data", "versions"))
    if len(versions) == 1:
        return _object(next(iter(versions.values())))
    return _object(next((versions[name] for name in ("Default", "default", "") if name in versions), {}))


def _expiry(fields: _Fields, *path: str) -> float | None:
    """Epoch seconds of Tyk's `2006-01-02 15:04`, in UTC; None: never."""
    text = _text(fields.get(*path)).strip()
    if text in ("", "-1"):
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        fields.refuse(".".join(path), "should be a time such as 2027-01-31 00:00")
        return None


_OURS: Final = {
    "oauth": "use_oauth2",
    "basic": "use_basic_auth",
    "hmac": "enable_signature_checking",
    "jwt": "enable_jwt",
    "oidc": "use_openid",
    "key": "use_standard_auth",
}
"""The methods in Tyk's order, which decides whose session counts: that of the last."""
_IDENTITIES: Final = {
    "basic_auth_user": "basic",
    "hmac_key": "hmac",
    "oauth_key": "oauth",
    "jwt_claim": "jwt",
    "oidc_user": "oidc",
    "auth_token": "key",
}


def _auth(fields: _Fields) -> Any:
    certificates = fields.get("use_mutual_tls_auth") is True
    if fields.get("use_keyless") is True:
        if fields.get("x_aiogate", "auth"):
            fields.refuse("x_aiogate.auth", "contradicts use_keyless")
        return {"mtls": translate_auth.mtls(fields)} if certificates else "none"
    names = [name for name, flag in _OURS.items() if fields.get(flag) is True]
    _ignore_unused_places(fields, names or ["key"])
    ours = fields.get("x_aiogate", "auth")
    if ours:
        told = _methods(ours)
        if sorted(told & _OURS.keys()) != sorted(names) or (certificates and "mtls" not in told):
            fields.refuse("x_aiogate.auth", "contradicts the flags of authentication")
        return ours
    names = names or ["key"]
    methods = [_method(fields, name) for name in names]
    identity = _text(fields.get("base_identity_provided_by"))
    session_from = _IDENTITIES.get(identity, "")
    if identity and session_from not in names:
        fields.refuse("base_identity_provided_by", "names a method that is not switched on")
    if certificates:
        methods.insert(0, {"mtls": translate_auth.mtls(fields)})
    if len(methods) == 1:
        return methods[0]
    return {"all": methods, "session_from": session_from or names[-1]}


def _ignore_unused_places(fields: _Fields, names: Sequence[str]) -> None:
    """`auth` is the old place of keys and of JWT; each has its own by now, and goes by that where it is written."""
    own = {"key": "authToken", "jwt": "jwt"}
    if "key" not in names:
        fields.ignore_below("auth_configs.authToken", "keys are not asked for")
    readers = [name for name in own if name in names]
    if not readers:
        fields.ignore_below("auth", "keys are not asked for")
    elif all(_object(fields.get("auth_configs", own[name])) for name in readers):
        fields.ignore_below("auth", f"auth_configs.{own[readers[0]]} stands in its place")


def _methods(auth: Any) -> set[str]:
    """The names of the methods in an `auth` of our format."""
    entries = auth.get("all", [auth]) if isinstance(auth, Mapping) else auth if isinstance(auth, list) else [auth]
    names: set[str] = set()
    for entry in entries if isinstance(entries, list) else []:
        names.update([entry] if isinstance(entry, str) else [str(key) for key in entry if key != "mode"]
                     if isinstance(entry, Mapping) else [])  # fmt: skip
    return names


def _method(fields: _Fields, name: str) -> Any:
    if name == "basic":
        _only_authorization(fields)
        return _basic(fields)
    if name == "oauth":
        return {"oauth": translate_auth.oauth(fields)}
    if name == "hmac":
        return {"hmac": translate_auth.hmac(fields)}
    if name == "oidc":
        return {"oidc": translate_auth.oidc(fields)}
    if name == "jwt":
        return {"jwt": translate_auth.jwt(fields)}
    config = translate_auth.places(_object(fields.get("auth_configs", "authToken")) or _object(fields.get("auth")))
    return {"key": config} if config else "key"


def _basic(fields: _Fields) -> Any:
    told = _object(fields.get("basic_auth"))
    config: dict[str, Any] = {}
    if told.get("extract_from_body") is True:
        config["body"] = {}
        for ours, theirs in (("user", "body_user_regexp"), ("password", "body_password_regexp")):
            config["body"][ours] = _text(told.get(theirs))
            if not config["body"][ours]:
                fields.refuse(f"basic_auth.{theirs}", "is missing")
    seconds = told.get("cache_ttl")
    if told.get("disable_caching") is True:
        config["cache"] = "off"
        if seconds:
            fields.ignore("basic_auth.cache_ttl", "has no effect here: disable_caching")
    elif isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 < seconds < 10**9:
        config["cache"] = format_duration(float(int(seconds)))
    elif seconds:
        fields.refuse("basic_auth.cache_ttl", "should be seconds above zero")
    return {"basic": config} if config else "basic"


def _only_authorization(fields: _Fields) -> None:
    source = _object(fields.get("auth_configs", "basic"))
    for name in ("disable_header", "use_param", "use_cookie"):
        if source.get(name) is True:
            fields.refuse(f"auth_configs.basic.{name}", "user and password stand in the header Authorization")
    if _text(source.get("auth_header_name")).lower() not in ("", "authorization"):
        fields.refuse("auth_configs.basic.auth_header_name", "user and password stand in the header Authorization")


_PLACES: Final = {"header": "header", "url-param": "query", "url": "path", "": "header"}


def _versions(fields: _Fields) -> tuple[Object, float | None]:
    """The versions of the definition, and when the only version of one without any expires."""
    entries = _object(fields.get("version_data", "versions"))
    for name, entry in entries.items():
        if entry is not None and not isinstance(entry, Mapping):
            fields.refuse(f"version_data.versions.{name}", "should be an object")
    ours = fields.get("x_aiogate", "versions")
    if fields.get("version_data", "not_versioned") is True or not entries:
        if len(entries) > 1 and not {"Default", "default", ""} & entries.keys():
            fields.refuse("version_data.versions", "several versions, and the API is not versioned")
        if ours:
            fields.refuse("x_aiogate.versions", "contradicts version_data")
        for name, entry in entries.items():
            if entry is not _single(fields) and not is_zero(entry):
                fields.ignore(f"version_data.versions.{name}", "the API is not versioned")
        name = next((name for name, entry in entries.items() if entry is _single(fields)), "")
        return {}, _expiry(fields, "version_data", "versions", name, "expires") if entries else None
    if ours:
        if _object(_object(ours).get("list")).keys() != entries.keys():
            fields.refuse("x_aiogate.versions", "contradicts version_data")
        return _object(ours), None
    by = _PLACES.get(_text(fields.get("definition", "location")))
    if by is None:
        fields.refuse("definition.location", "should be header, url-param or url")
    versions: dict[str, Any] = {"by": by or "header"}
    if (key := _text(fields.get("definition", "key"))) and by != "path":
        versions["name"] = key
    elif key:
        fields.ignore("definition.key", "the first segment of the path decides")
    if default := _text(fields.get("version_data", "default_version")):
        versions["default"] = default
    for flag in ("strip_versioning_data", "strip_path"):
        if fields.get("definition", flag) is True and by == "path":
            versions["strip"] = True
        elif fields.get("definition", flag) is True and flag == "strip_versioning_data":
            fields.refuse(f"definition.{flag}", "only a version in the path can be stripped")
    versions["list"] = {name: _version(fields, name, _object(entry)) for name, entry in entries.items()}
    return versions, None


def _version(fields: _Fields, name: str, entry: Object) -> Object:
    version: dict[str, Any] = {}
    expires = _expiry(fields, "version_data", "versions", name, "expires")
    if expires is not None:
        version["expires"] = format_timestamp(expires)
    if target := _text(entry.get("override_target")):
        version["upstream"] = target
    return version


def _plugins(fields: _Fields) -> list[Any]:
    entries = _object(fields.get("version_data", "versions"))
    versioned = fields.get("version_data", "not_versioned") is not True
    if not versioned:
        entries = {name: entry for name, entry in entries.items() if entry is _single(fields)}
    plugins: list[Any] = [*api_plugins(fields), *version_plugins(fields, entries, versioned=versioned)]
    ours = fields.get("x_aiogate", "plugins")
    if ours and not isinstance(ours, list):
        fields.refuse("x_aiogate.plugins", "should be a list")
    return plugins + (ours if isinstance(ours, list) else [])


def _policy(fields: _Fields) -> Object:
    native: dict[str, Any] = {"id": _text(fields.get("id")) or _text(fields.get("_id"))}
    if fields.get("id") and fields.get("_id") and fields.get("id") != fields.get("_id"):
        fields.ignore("_id", "`id` is the id")
    if name := _text(fields.get("name")):
        native["name"] = name
    if org := _text(fields.get("org_id")):
        native["org"] = org
    rights = _object(fields.get("access_rights"))
    if rights:
        native["access"] = {api: _right(fields, api, right) for api, right in rights.items()}
    native.update(_limits(fields, "", fields.body))
    lifetime = fields.get("key_expires_in")
    if isinstance(lifetime, (int, float)) and not isinstance(lifetime, bool) and 0 < lifetime < 10**12:
        native["key_lifetime"] = format_duration(float(lifetime))
    for ours, theirs in (("tags", "tags"), ("meta", "meta_data")):
        if not is_zero(fields.get(theirs)):
            native[ours] = fields.get(theirs)
    partitions = [ours for ours, theirs in (("rate", "rate_limit"), ("quota", "quota"), ("access", "acl"))
                  if fields.get("partitions", theirs) is True]  # fmt: skip
    if partitions:
        native["partitions"] = partitions
    if fields.get("partitions", "per_api") is True:
        native["per_api"] = True
    if fields.get("is_inactive") is True:
        native["inactive"] = True
    return native


def _right(fields: _Fields, api: str, right: Any) -> Object:
    if right is not None and not isinstance(right, Mapping):
        fields.refuse(f"access_rights.{api}", "should be an object")
        return {}
    access: dict[str, Any] = {}
    if versions := _object(right).get("versions"):
        access["versions"] = versions
    paths = []
    rules = _object(right).get("allowed_urls") or []
    for rule in rules if isinstance(rules, list) else [None]:
        if not isinstance(rule, Mapping) or not rule.keys() <= {"url", "methods"}:
            fields.refuse(f"access_rights.{api}.allowed_urls", "each holds url and methods")
            continue
        path = {"path": rule.get("url") or ""}
        paths.append({**path, "methods": rule["methods"]} if rule.get("methods") else path)
    if paths:
        access["paths"] = paths
    access.update(_limits(fields, f"access_rights.{api}.limit.", _object(_object(right).get("limit"))))
    return access


def _limits(fields: _Fields, prefix: str, values: Object) -> Iterator[tuple[str, Any]]:
    for name in ("rate", "quota_max", "throttle_interval"):
        value = values.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
            fields.ignore(prefix + name, "no limit, which a policy says by saying nothing")
    if rate := rate_of(fields, f"{prefix}rate", values.get("rate"), values.get("per")):
        yield "rate", rate
    if quota := rate_of(fields, f"{prefix}quota_max", values.get("quota_max"), values.get("quota_renewal_rate")):
        yield "quota", quota
    interval, retries = values.get("throttle_interval"), values.get("throttle_retry_limit")
    if isinstance(interval, (int, float)) and interval > 0 and isinstance(retries, int) and retries > 0:
        if interval < 10**9:
            yield "throttle", {"interval": format_duration(float(interval)), "retries": retries}
        else:
            fields.refuse(f"{prefix}throttle_interval", "is too long")


_PLAIN: Final = re.compile(
    r"[A-Za-z/][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*|[0-9]{1,18}/[0-9]{1,12}(?:ms|[smhd])", re.ASCII
)
_WORDS: Final = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])


class _Dumper(yaml.SafeDumper):
    """Quotes every text that some reader of YAML might take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent)


def yaml_text(native: Object, origin: str, mark: str = TRANSLATED) -> str:
    """The file of a translation. It opens with where it came from, and a digest that an edit by hand breaks."""
    return signed(yaml.dump(native, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120), mark, origin)
