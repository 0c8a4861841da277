"""Sessions: what is stored for a key or a basic-auth user, and what a request meets.

`SessionDocument` is the record as Tyk's clients send and read it (spec/session.md section 1); unknown fields are kept
out silently, as Tyk does. `Record` is what a store keeps: the document with its organisation, kind and stored name.
`Session` is the effective session: policies laid over the document, access rights compiled, buckets ready to take. It
is immutable and cached; requests share it.

Reading is strict where a mistake would change what a session may do: a number that is not one, a value out of range or
a restriction that this gateway does not enforce is a `DocumentError` that names each offending path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Literal

import orjson
import re2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aiogate.domain.limits import Bucket

__all__ = [
    "AccessDefinition",
    "AllowedUrl",
    "BasicAuthData",
    "DocumentError",
    "Grant",
    "JwtData",
    "Limit",
    "Monitor",
    "PathRule",
    "Record",
    "Session",
    "SessionDocument",
    "SessionKind",
    "access_problems",
    "compile_path",
    "granted_apis",
    "parse_document",
    "parse_stored",
    "pattern_mistake",
    "storage_deadline",
]

SessionKind = Literal["key", "basic", "hmac", "jwt", "oauth", "certificate"]

_INT64: Final = 2**63 - 1
_LARGEST: Final = 1e15
_LONGEST_PATTERN: Final = 2048

Int = Annotated[int, Field(strict=True, ge=-_INT64 - 1, le=_INT64)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-_LARGEST, le=_LARGEST)]
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=_LARGEST)]


class DocumentError(Exception):
    """A session document that cannot be accepted. `problems` holds one sentence per mistake, its path first."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems: tuple[str, ...] = problems


class _Part(BaseModel):
    """A piece of the document. Unknown fields are ignored; `null` means absent, as in Tyk."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    legacy: ClassVar[Mapping[str, str]] = {}
    """Old spelling to today's name; today's name wins when both are present."""

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        present = {name: item for name, item in value.items() if item is not None}
        for old, name in cls.legacy.items():
            if old in present:
                present.setdefault(name, present[old])
        return present


class Limit(_Part):
    """Limits of one session at one API. All zero: empty, the session's own limits apply.

    `rate` requests per `per` seconds; `rate <= 0`: unlimited. `quota_max <= 0`: unlimited. `quota_renewal_rate` is the
    length of the quota's window in seconds, `<= 0`: it never renews. `quota_renews` and `quota_remaining` are output.
    """

    rate: Number = 0.0
    per: Seconds = 0.0
    throttle_interval: Number = 0.0
    throttle_retry_limit: Int = 0
    max_query_depth: Int = 0
    quota_max: Int = 0
    quota_renews: Int = 0
    quota_remaining: Int = 0
    quota_renewal_rate: Int = 0
    smoothing: dict[str, Any] = Field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (
            self.rate
            or self.per
            or self.throttle_interval
            or self.throttle_retry_limit
            or self.quota_max
            or self.quota_renewal_rate
        )


_SILENT: Final = Limit()


class AllowedUrl(_Part):
    """A pattern of paths, and the methods it allows (empty: all)."""

    url: str = ""
    methods: tuple[str, ...] = ()


class AccessDefinition(_Part):
    """What a session may do at one API. The key under which it stands is what counts, `api_id` informs."""

    legacy: ClassVar[Mapping[str, str]] = {"apiid": "api_id", "apiname": "api_name"}

    api_name: str = ""
    api_id: str = ""
    versions: tuple[str, ...] = ()
    allowed_urls: tuple[AllowedUrl, ...] = ()
    limit: Limit = Limit()
    allowance_scope: str = ""
    endpoints: tuple[Any, ...] = ()
    restricted_types: tuple[Any, ...] = ()
    allowed_types: tuple[Any, ...] = ()
    field_access_rights: tuple[Any, ...] = ()
    disable_introspection: Flag = False
    json_rpc_methods: Any = None
    json_rpc_methods_access_rights: Any = None
    mcp_primitives: Any = None
    mcp_access_rights: Any = None


class BasicAuthData(_Part):
    """The password of a basic-auth user: plain on the way in, a hash in the store, blank on the way out."""

    user: str = ""
    """The user name in the Dashboard's `basic_auth=true` form; input only."""
    password: str = Field(default="", repr=False)
    hash_type: str = ""


class JwtData(_Part):
    """The secret of a key that signs its own JWTs."""

    secret: str = Field(default="", repr=False)


class Monitor(_Part):
    """Percentages of the quota at which an event is published."""

    trigger_limits: tuple[Number, ...] = ()


class SessionDocument(_Part):
    """A session as Tyk's clients send and read it. Field names, defaults and meaning: spec/session.md section 1."""

    legacy: ClassVar[Mapping[str, str]] = {"enable_detail_recording": "enable_detailed_recording"}

    last_check: Int = 0
    allowance: Number = 0.0
    rate: Number = 0.0
    per: Seconds = 0.0
    throttle_interval: Number = 0.0
    throttle_retry_limit: Int = 0
    max_query_depth: Int = 0
    date_created: str = ""
    expires: Int = 0
    quota_max: Int = 0
    quota_renews: Int = 0
    quota_remaining: Int = 0
    quota_renewal_rate: Int = 0
    access_rights: dict[str, AccessDefinition] = Field(default_factory=dict)
    org_id: str = ""
    oauth_client_id: str = ""
    counts_under: str = ""
    """What the limits count under in place of the session's own name: tokens of one grant share their counters."""
    oauth_keys: dict[str, str] = Field(default_factory=dict, repr=False)
    certificate: str = ""
    mtls_static_certificate_bindings: tuple[str, ...] = ()
    basic_auth_data: BasicAuthData = BasicAuthData()
    jwt_data: JwtData = JwtData()
    hmac_enabled: Flag = False
    hmac_string: str = Field(default="", repr=False)
    enable_http_signature_validation: Flag = False
    rsa_certificate_id: str = ""
    is_inactive: Flag = False
    apply_policy_id: str = ""
    apply_policies: tuple[str, ...] = ()
    data_expires: Int = 0
    monitor: Monitor = Monitor()
    enable_detailed_recording: Flag = False
    meta_data: dict[str, Any] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    alias: str = ""
    last_updated: str = ""
    id_extractor_deadline: Int = 0
    session_lifetime: Int = 0
    post_expiry_action: Literal["", "retain", "delete"] = ""
    post_expiry_grace_period: Int = 0
    smoothing: dict[str, Any] = Field(default_factory=dict)

    @field_validator("date_created")
    @classmethod
    def _a_time(cls, value: str) -> str:
        if value:
            datetime.fromisoformat(value)
        return value

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """The policies to lay over, in order: `apply_policies`, or else the deprecated `apply_policy_id`."""
        return self.apply_policies or ((self.apply_policy_id,) if self.apply_policy_id else ())

    @property
    def limit(self) -> Limit:
        """The session's own limits, in the shape of a per-API limit."""
        # A copy is five times as fast as `model_construct`, and this runs for each session that is compiled.
        return _SILENT.model_copy(
            update={
                "rate": self.rate,
                "per": self.per,
                "throttle_interval": self.throttle_interval,
                "throttle_retry_limit": self.throttle_retry_limit,
                "quota_max": self.quota_max,
                "quota_renews": self.quota_renews,
                "quota_remaining": self.quota_remaining,
                "quota_renewal_rate": self.quota_renewal_rate,
            }
        )

    def as_json(self) -> dict[str, Any]:
        """The document for a reply: all fields of the thread's shape, in its order, then what else is set.

        The password, its hash, the HMAC secret and the JWT secret are always blank.
        """
        return _document_json(self, secrets=False)

    def stored(self) -> bytes:
        """The bytes for `Record.document`, secrets included (the password as its hash)."""
        return orjson.dumps(_document_json(self, secrets=True))

    def changed(self, **fields: Any) -> SessionDocument:
        """The same document with other values, which are trusted to be of the right types."""
        return self.model_copy(update=fields)

    def with_password(self, password_hash: str) -> SessionDocument:
        """The same document with a hash, bcrypt's or Argon2id's, in the place of the plain password."""
        kind = "argon2id" if password_hash.startswith("$argon2id$") else "bcrypt"
        return self.changed(basic_auth_data=BasicAuthData(password=password_hash, hash_type=kind))

    def keeping(self, stored: SessionDocument) -> SessionDocument:
        """The replacement of `stored` by this document: blank secrets and the date of creation are taken from there."""
        kept: dict[str, Any] = {"date_created": stored.date_created or self.date_created}
        if not self.basic_auth_data.password:
            kept["basic_auth_data"] = stored.basic_auth_data
        if not self.jwt_data.secret:
            kept["jwt_data"] = stored.jwt_data
        if not self.hmac_string:
            kept["hmac_string"] = stored.hmac_string
        if not self.certificate:
            kept["certificate"] = stored.certificate
        return self.changed(**kept)


_ALWAYS: Final = frozenset(
    {
        "last_check",
        "allowance",
        "rate",
        "per",
        "expires",
        "quota_max",
        "quota_renews",
        "quota_remaining",
        "quota_renewal_rate",
        "access_rights",
        "org_id",
        "oauth_client_id",
        "basic_auth_data",
        "jwt_data",
        "hmac_enabled",
        "hmac_string",
        "is_inactive",
        "apply_policy_id",
        "data_expires",
        "monitor",
        "meta_data",
        "tags",
        "apply_policies",
        "date_created",
        "alias",
        "last_updated",
    }
)
_SECRETS: Final = frozenset({"hmac_string", "oauth_keys"})


def _plain(value: Any) -> Any:
    """A number as Go writes it: 60, not 60.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return list(value) if isinstance(value, tuple) else value


def _document_json(document: SessionDocument, *, secrets: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name in SessionDocument.model_fields:
        value = getattr(document, name)
        if name == "access_rights":
            shown[name] = {api: _access_json(api, access) for api, access in value.items()}
        elif name == "basic_auth_data":
            shown[name] = {"password": value.password if secrets else "", "hash_type": value.hash_type}
        elif name == "jwt_data":
            shown[name] = {"secret": value.secret if secrets else ""}
        elif name == "monitor":
            shown[name] = {"trigger_limits": [_plain(limit) for limit in value.trigger_limits] or None}
        elif name in _SECRETS and not secrets:
            if name in _ALWAYS:
                shown[name] = ""
        elif value or name in _ALWAYS:
            shown[name] = _plain(value)
    return shown


def _access_json(api: str, access: AccessDefinition) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "api_name": access.api_name,
        "api_id": access.api_id or api,
        "versions": list(access.versions),
        "allowed_urls": [{"url": rule.url, "methods": list(rule.methods)} for rule in access.allowed_urls] or None,
    }
    if not access.limit.empty:
        shown["limit"] = {
            name: _plain(getattr(access.limit, name)) for name in Limit.model_fields if name != "smoothing"
        }
    if access.allowance_scope:
        shown["allowance_scope"] = access.allowance_scope
    return shown


def parse_document(source: bytes | str | Mapping[str, Any]) -> SessionDocument:
    """Read a session from a request's JSON, every legacy spelling included.

    The wrapper that key requests return, `{api_model, key_id, data}`, is accepted as well. Raises `DocumentError` and
    nothing else.
    """
    if isinstance(source, (bytes, str)):
        try:
            value = orjson.loads(source)
        except orjson.JSONDecodeError as broken:
            raise DocumentError(f"the body is not JSON: {broken}") from broken
    else:
        value = source
    if not isinstance(value, Mapping):
        raise DocumentError("the body is not a JSON object")
    fields = dict(_unwrapped(value))
    try:
        document = SessionDocument.model_validate(fields)
    except ValidationError as invalid:
        raise DocumentError(*_problems(invalid)) from invalid
    problems = tuple(_unenforced(document))
    if problems:
        raise DocumentError(*problems)
    return document


def parse_stored(document: bytes) -> SessionDocument:
    """Read `Record.document` back. Raises `DocumentError` for bytes that `stored` cannot have written."""
    try:
        return SessionDocument.model_validate_json(document)
    except ValidationError as invalid:
        raise DocumentError(*_problems(invalid)) from invalid


def _unwrapped(value: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = value.get("data")
    if isinstance(inner, Mapping) and not any(name in SessionDocument.model_fields for name in value):
        return inner
    return value


def _problems(invalid: ValidationError) -> Iterator[str]:
    for error in invalid.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join(str(step) for step in error["loc"]) or "the session"
        yield f"{path}: {error['msg']}"


def _unenforced(document: SessionDocument) -> Iterator[str]:
    """What would restrict the session and is not enforced here: refused rather than ignored (differences.md)."""
    why = "is not enforced by this gateway, so it is not accepted"
    if document.mtls_static_certificate_bindings:
        yield f"mtls_static_certificate_bindings: {why}"
    others = document.basic_auth_data.password or document.hmac_enabled or document.jwt_data.secret
    if document.certificate and (others or document.oauth_client_id):
        yield "certificate: a session has one kind of credential, and this one has another beside its certificate"
    if document.max_query_depth > 0:
        yield f"max_query_depth: {why}"
    if document.smoothing.get("enabled"):
        yield f"smoothing: {why}"
    if document.meta_data.get("rate_limit_pattern"):
        yield f"meta_data.rate_limit_pattern: {why}"
    if document.rate > 0 and document.per <= 0:
        yield "per: a rate needs a window above 0 seconds"
    for name in ("meta_data", "smoothing"):
        if _too_deep(getattr(document, name)):
            yield f"{name}: nested too deeply"
    for api, access in document.access_rights.items():
        yield from access_problems(access, f"access_rights.{api}")


def access_problems(access: AccessDefinition, path: str) -> Iterator[str]:
    """What is wrong with one access definition, a sentence each; `path` is where it stands."""
    why = "is not enforced by this gateway, so it is not accepted"
    for name in (
        "endpoints",
        "restricted_types",
        "allowed_types",
        "field_access_rights",
        "disable_introspection",
        "json_rpc_methods",
        "json_rpc_methods_access_rights",
        "mcp_primitives",
        "mcp_access_rights",
    ):
        if getattr(access, name):
            yield f"{path}.{name}: {why}"
    if access.limit.max_query_depth > 0:
        yield f"{path}.limit.max_query_depth: {why}"
    if access.limit.smoothing.get("enabled"):
        yield f"{path}.limit.smoothing: {why}"
    if access.limit.rate > 0 and access.limit.per <= 0:
        yield f"{path}.limit.per: a rate needs a window above 0 seconds"
    for index, rule in enumerate(access.allowed_urls):
        mistake = pattern_mistake(rule.url)
        if mistake:
            yield f"{path}.allowed_urls.{index}.url: {mistake}"


def _too_deep(value: Any) -> bool:
    # orjson reads 1024 levels and writes 254: what cannot be written back must not be accepted.
    try:
        orjson.dumps([[[[[[[[value]]]]]]]])
    except orjson.JSONEncodeError:
        return True
    return False


def granted_apis(document: bytes) -> frozenset[str]:
    """The API ids that a stored document grants directly, without its policies."""
    rights = orjson.loads(document).get("access_rights")
    return frozenset(rights) if isinstance(rights, dict) else frozenset()


def storage_deadline(document: SessionDocument, now: float) -> float:
    """When a store may forget the session, in epoch seconds; 0: never (spec/session.md section 8).

    An explicit `post_expiry_action` decides first, then `session_lifetime` seconds from now, but never before
    `expires`: a key is not deleted while it is valid.
    """
    expires = float(document.expires) if document.expires >= 1 else 0.0
    if document.post_expiry_action == "delete":
        return max(expires, now + 1) if expires else 0.0
    if document.post_expiry_action == "retain":
        if not expires or document.post_expiry_grace_period < 0:
            return 0.0
        return max(expires + document.post_expiry_grace_period, now + 1)
    if document.session_lifetime > 0:
        return max(now + document.session_lifetime, expires)
    return 0.0


_QUIET: Final = re2.Options()
_QUIET.log_errors = False


def compile_path(url: str) -> Any:
    """The RE2 pattern of one `allowed_urls` entry, to be used with `search`.

    It covers the whole path unless it says otherwise itself, by beginning with `^` or ending in `$`: then only the end
    that it names is fixed. Raises `re2.error` for what RE2 cannot compile.
    """
    # Compiled by itself first: `a)|(?:b` is no pattern, and must not become one between our brackets.
    alone = re2.compile(url, _QUIET)
    loose = url.startswith("^") or (url.endswith("$") and not url.endswith(r"\$"))
    return alone if loose else re2.compile(f"^(?:{url})$", _QUIET)


def pattern_mistake(url: str) -> str:
    """Why `url` cannot stand in `allowed_urls`; empty when it can."""
    if not url:
        return "an empty pattern matches nothing; leave `allowed_urls` out to allow every path"
    if len(url) > _LONGEST_PATTERN:
        return f"a pattern has at most {_LONGEST_PATTERN} characters"
    try:
        compile_path(url)
    except re2.error as mistake:
        told = mistake.args[0] if mistake.args else "not a pattern"
        return f"not a pattern that RE2 can compile: {told.decode() if isinstance(told, bytes) else told}"
    return ""


@dataclass(frozen=True, slots=True)
class PathRule:
    """One entry of `allowed_urls`: a compiled RE2 pattern (`compile_path`) and the methods it allows (empty: all)."""

    pattern: Any
    methods: frozenset[str]

    def allows(self, method: str, tail: str) -> bool:
        return (not self.methods or method in self.methods) and self.pattern.search(tail) is not None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a session may do at one API.

    `versions` empty: all. `paths` empty: all. `buckets` are this session's own at this API, rate first, then quota.
    `quota` is the index of the quota bucket in `buckets`, or -1 for unlimited.
    """

    versions: frozenset[str] = frozenset()
    paths: tuple[PathRule, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    quota: int = -1
    throttle_interval: float = 0.0
    throttle_retries: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """The effective session of one stored record under one set of policies."""

    name_hash: str
    """Hex SHA-256 of organisation and name: the stored name; safe to show and to log."""
    org: str
    kind: SessionKind
    label: str
    """Alias, or the user name of a basic-auth user."""
    grants: Mapping[str, Grant]
    """API id to grant. An API that is not here is refused."""
    inactive: bool = False
    expires: float = 0.0
    """Epoch seconds; below 1: never."""
    inactive_reason: str = ""
    """Private: which flag or policy makes it inactive."""
    password: str = ""
    """The stored password hash of a basic-auth user; never shown."""
    password_kind: str = ""
    secret: str = field(default="", repr=False)
    """What a session of kind `jwt` or `hmac` is signed with; never shown."""
    rsa_certificate_id: str = ""
    certificate: str = ""
    """What a session of kind `certificate` was made for: an id of `/tyk/certs`, or a fingerprint."""
    policies: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    alias: str = ""
    derived: bool = False
    """Made without a record, from policies alone."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a store keeps under `name_hash`.

    `document` is the session as canonical JSON bytes (the field names of Tyk). `revision` grows with each write.
    `name` is the presented name of basic-auth users and the alias otherwise: a label, never a credential.
    """

    name_hash: str
    org: str
    kind: SessionKind
    label: str
    document: bytes
    revision: int = 0
    delete_at: float = 0.0
    """Epoch seconds after which the store forgets the record; 0: never (spec/session.md section 8)."""
