"""What can go wrong, as data.

Three families, never mixed:

* a `Problem` is an expected refusal of one request (no key, expired, over quota): a value that a step returns;
* a `Diagnostic` is a mistake in what the operator declared: file, line, column, what, and a hint;
* a `Rejected` is raised inside the management side and carries the endpoint's own status and text.

Exceptions other than `Rejected` are for bugs and broken I/O. The tables at the end hold every stable code there is;
`docs/errors.md` is checked against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

__all__ = [
    "DIAGNOSTICS",
    "FAILURES",
    "PROBLEMS",
    "Diagnostic",
    "DiagnosticsFound",
    "Position",
    "Problem",
    "Rejected",
]

FAILURES: Final = (Exception, SystemExit)
"""What is caught around a plugin's code. In a task of asyncio `sys.exit()` would end the whole process and every other
request with it; a plugin that calls it has failed like any other."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file that the operator wrote. Lines and columns count from 1; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """One mistake in settings, a definition, a policy or a plugin.

    `code` is stable and listed in `DIAGNOSTICS`. `path` is the YAML path, such as `auth.0.basic.realm`. `severity` is
    `error` (refuses the start or the reload) or `warning` (told, and nothing else).
    """

    file: str
    line: int
    column: int
    code: str
    message: str
    hint: str = ""
    path: str = ""
    severity: str = "error"

    @classmethod
    def at(cls, position: Position, code: str, message: str, hint: str = "", path: str = "") -> Diagnostic:
        return cls(position.file, position.line, position.column, code, message, hint, path)

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {self.message}{hint}"


class DiagnosticsFound(Exception):
    """A start, a reload or a check found mistakes; all of them, in file order, are in `diagnostics`."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(sorted(diagnostics))
        super().__init__("\n".join(str(found) for found in self.diagnostics))


@dataclass(frozen=True, slots=True)
class Problem:
    """An expected refusal.

    `message` is what the client may know, in the words of the specification; `detail` is the private reason, shown only
    by `aiogate why`. `fields` are what the JSON body says in place of ours, where a protocol has refusals of its own
    form (RFC 6749 section 5.2). `event` is the name under which it is published, or empty. `position` is where the rule
    that refused was declared, when that is narrower than the step's own place in the definition.
    """

    code: str
    status: int
    message: str
    detail: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    event: str = ""
    position: Position | None = None
    fields: tuple[tuple[str, str], ...] = ()

    def because(self, detail: str) -> Problem:
        """The same refusal with its private reason."""
        return replace(self, detail=detail)

    def with_header(self, name: str, value: str) -> Problem:
        return replace(self, headers=(*self.headers, (name, value)))

    def with_challenge(self, scheme: str, **parameters: str) -> Problem:
        """The same refusal with a WWW-Authenticate header of this scheme (RFC 9110 section 11.6.1)."""
        pairs = ", ".join(f"{name}={_quoted(value)}" for name, value in parameters.items())
        return self.with_header("WWW-Authenticate", f"{scheme} {pairs}")


def _quoted(text: str) -> str:
    """For a quoted string in a header (RFC 9110 section 5.6.4)."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Rejected(Exception):
    """A management call that cannot be carried out; `status` and `message` are the endpoint's own.

    `details` are further sentences (each unknown policy, where the JSON broke) that go into the reply.
    """

    def __init__(self, status: int, message: str, details: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details: tuple[str, ...] = tuple(details)


def _problems(*rows: Problem) -> Mapping[str, Problem]:
    return {row.code: row for row in rows}


_MISSING: Final = "Authorization field missing"
_DISALLOWED: Final = "Access to this API has been disallowed"

PROBLEMS: Final[Mapping[str, Problem]] = _problems(
    Problem("bad_request", 400, "Bad request"),
    Problem("not_found", 404, "Not Found"),
    Problem("method_not_allowed", 405, "Method not allowed"),
    Problem("request_too_large", 413, "Request is too large"),
    Problem("headers_too_large", 431, "Request header fields are too large"),
    Problem("request_timeout", 408, "The request did not arrive in time"),
    Problem("not_implemented", 501, "Not implemented"),
    Problem("http_version", 505, "HTTP version is not supported"),
    Problem("expectation_failed", 417, "Expectation failed"),
    Problem("auth_missing", 401, _MISSING),
    Problem("auth_malformed", 400, "Attempted access with malformed header, header not in basic auth format"),
    Problem("auth_ambiguous", 400, "Credential was presented more than once"),
    Problem("auth_failed", 401, "User not authorised", event="AuthFailure"),
    Problem("key_unknown", 403, _DISALLOWED, event="AuthFailure"),
    Problem("auth_throttled", 429, "Too many failed attempts, try again later", event="AuthFailure"),
    Problem("auth_busy", 503, "Too many credentials are being verified, try again", headers=(("Retry-After", "1"),)),
    Problem(
        "session_missing",
        400,
        "Session state is missing or unset! Please make sure that auth headers are properly applied",
    ),
    Problem("signature_invalid", 400, "Authorization field missing, malformed or invalid", event="AuthFailure"),
    Problem("token_invalid", 403, "Key not authorized", event="AuthFailure"),
    Problem("token_algorithm", 403, "Key not authorized: Unexpected signing method", event="AuthFailure"),
    Problem("token_expired", 401, "Key not authorized: token has expired", event="AuthFailure"),
    Problem("token_rejected", 401, "Key not authorized", event="AuthFailure"),
    Problem("token_identity", 403, "no suitable claims for user ID were found", event="AuthFailure"),
    Problem("token_policy", 403, "key not authorized: no matching policy", event="AuthFailure"),
    Problem("bearer_malformed", 400, "Bearer token malformed"),
    Problem("token_unknown", 403, "Key not authorised", event="AuthFailure"),
    Problem("client_revoked", 403, "Key not authorised. OAuth client access was revoked", event="AuthFailure"),
    Problem("oauth_refused", 400, "The OAuth request was refused"),
    Problem(
        "issuer_unavailable", 503, "The issuer of the token cannot be asked, try again", headers=(("Retry-After", "1"),)
    ),
    Problem("key_inactive", 403, "Key is inactive, please renew", event="KeyExpired"),
    Problem("key_expired", 401, "Key has expired, please renew", event="KeyExpired"),
    Problem("access_denied", 403, _DISALLOWED),
    Problem("path_denied", 403, "Access to this resource has been disallowed"),
    Problem("version_missing", 403, "Version information not found", event="VersionFailure"),
    Problem("version_unknown", 403, "This API version does not seem to exist", event="VersionFailure"),
    Problem(
        "version_expired",
        403,
        "Api Version has expired, please check documentation or contact administrator",
        event="VersionFailure",
    ),
    Problem("version_ambiguous", 400, "The API version was given more than once", event="VersionFailure"),
    Problem(
        "api_expired",
        403,
        "API has expired, please check documentation or contact administrator",
        event="VersionFailure",
    ),
    Problem("cors_denied", 403, "Cross-origin request is not allowed"),
    Problem("tls_missing", 403, "TLS not enabled", event="AuthFailure"),
    Problem("certificate_missing", 403, "Client TLS certificate is required", event="AuthFailure"),
    Problem("certificate_expired", 403, "Certificate has expired", event="AuthFailure"),
    Problem("certificate_denied", 403, "Certificate not allowed", event="AuthFailure"),
    Problem("certificate_unknown", 401, _DISALLOWED, event="AuthFailure"),
    Problem("ip_denied", 403, "access from this IP has been disallowed", event="AuthFailure"),
    Problem("origin_denied", 403, "WebSockets from this origin have been disallowed"),
    Problem("websocket_denied", 403, "WebSockets have been disallowed"),
    Problem("websocket_invalid", 400, "The WebSocket handshake is not valid"),
    Problem("rate_limited", 429, "Rate Limit Exceeded", event="RatelimitExceeded"),
    Problem("api_rate_limited", 429, "API Rate Limit Exceeded", event="RatelimitExceeded"),
    Problem("quota_exceeded", 403, "Quota exceeded", event="QuotaExceeded"),
    Problem(
        "organisation_inactive",
        403,
        "this organisation access has been disabled, please contact your API administrator",
    ),
    Problem(
        "organisation_rate_limited",
        403,
        "This organisation rate limit has been exceeded, please contact your API administrator",
        event="OrgRateLimitExceeded",
    ),
    Problem(
        "organisation_quota_exceeded",
        403,
        "This organisation quota has been exceeded, please contact your API administrator",
        event="OrgQuotaExceeded",
    ),
    Problem("upstream_unreachable", 502, "There was a problem proxying the request"),
    Problem("upstream_invalid", 502, "There was a problem proxying the request"),
    Problem("upstream_timeout", 504, "Upstream service reached hard timeout."),
    Problem("overloaded", 503, "The gateway is overloaded, try again", headers=(("Retry-After", "1"),)),
    Problem("store_unavailable", 503, "The gateway cannot reach its store, try again", headers=(("Retry-After", "1"),)),
    Problem("internal_error", 500, "There was a problem proxying the request"),
)
"""Every refusal that the gateway itself makes, by its stable code. Plugins may make others."""

DIAGNOSTICS: Final[Mapping[str, str]] = {
    # reading a file
    "file_unreadable": "The file or folder cannot be read.",
    "file_ignored": "A file that nothing reads; a warning.",
    "file_too_large": "The file is larger than 1 MiB.",
    "file_encoding": "The file is not UTF-8 text.",
    "yaml_syntax": "The text is not YAML.",
    "yaml_tag": "A YAML tag such as !!python/object is not allowed.",
    "yaml_duplicate_key": "A key stands twice in one mapping.",
    "yaml_too_complex": "Too many aliases, nodes or levels.",
    "yaml_not_a_mapping": "The document is not a mapping, or there is more than one.",
    # values
    "unknown_key": "A key that does not exist.",
    "missing_key": "A key that must be present.",
    "wrong_type": "A value of another type was expected.",
    "invalid_value": "A value outside what is allowed.",
    "missing_unit": "A bare number where a unit belongs.",
    "invalid_id": "An id with characters that are not allowed.",
    "invalid_url": "An upstream address that cannot be used.",
    "invalid_pattern": "A regular expression that RE2 cannot compile.",
    "invalid_timestamp": "Not an RFC 3339 time with a zone.",
    "variable_missing": "${NAME} without a value and without a default, or a file that cannot be read.",
    # one definition
    "auth_missing": "An API without `auth`; an open API says `auth: none`.",
    "plugin_unknown": "No plugin of that name is loaded.",
    "plugin_not_auth": "The plugin under `auth` is not an authentication method, or the reverse.",
    "shadow_not_allowed": "`mode: shadow` on something that cannot be shadowed.",
    "version_default_unknown": "The default version is not in the list.",
    "certificate_invalid": "A certificate, key or list of authorities that TLS cannot use.",
    "tls_unverified": "An upstream whose certificate is not verified; a warning.",
    "upstream_missing": "No upstream, and no plugin that answers by itself.",
    # the whole set
    "listen_conflict": "Two APIs on one listen path.",
    "id_conflict": "One id in two files.",
    "policy_unknown_api": "A policy names an API that does not exist.",
    "policy_org_mismatch": "A policy grants an API of another organisation.",
    "policy_partitions": "Partitions that cannot stand together.",
    # the whole set, as warnings of `aiogate check`
    "listen_shadows": "A listen path that an API with a host is asked before; a warning.",
    "api_open": "An API with an upstream and without authentication; a warning.",
    "certificate_unasked": "An API takes client certificates, and no listener asks for one; a warning.",
    "expired": "An API or version that has expired; a warning.",
    "expires_soon": "An API or version that expires within 30 days; a warning.",
    "policy_unused": "A policy that opens no API; a warning.",
    # settings and the process
    "store_workers": "More than one worker on a store that serves one.",
    "store_unknown": "A store of that kind does not exist.",
    "store_unavailable": "The store cannot be opened.",
    "secret_weak": "A control secret that is empty, short or a well-known default.",
    "address_in_use": "The address cannot be bound.",
    "certificate_expired": "A certificate that is not valid now; a warning.",
    "worker_failed": "A worker ended before it served.",
    "reload_interrupted": "A worker ended, or did not answer, while all prepared a reload.",
    "access_log_unwritable": "The file of the access log cannot be opened.",
    "plugin_broken": "A plugin that cannot be loaded.",
    "build_failed": "A plugin that could not be built from a valid configuration.",
}
"""Every diagnostic code, with one sentence on what it means."""
