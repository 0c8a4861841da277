"""Authenticate by a signature of the request itself: Tyk's HMAC and RSA signatures (draft-cavage-http-signatures).

    auth:
      - hmac: {algorithms: [hmac-sha256], skew: 5m, body_digest: required}

The header is `Signature keyId="…",algorithm="hmac-sha256",headers="(request-target) date",signature="…"`. The key is
a record of kind `hmac`, made with `hmac_enabled`; its secret is `hmac_string`, or its RSA certificate is one of
`certificates` or stored under `/tyk/certs`. What the signature does not cover anybody on the way may change: by
default it must cover the request's target and its date, and a digest of the body is compared where there is one.

Every refusal has Tyk's one text; `aiogate why` tells which header was missing, or by how much the date was off.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote

from pydantic import BeforeValidator, Field, model_validator

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    Bucket,
    BuildContext,
    Duration,
    Exchange,
    HeaderName,
    LookupFailure,
    Model,
    Places,
    Problem,
    Session,
    Size,
    hookimpl,
)

Algorithm = Literal["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512", "rsa-sha256"]
Text = Annotated[str, Field(min_length=1)]
_one_or_more = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
TARGET: Final = "(request-target)"
AUX_DATE: Final = "x-aux-date"
_MOST_HEADERS: Final = 64
_LONGEST: Final = 8192
_MOST_STORED: Final = 1000
"""Stored certificates whose keys are kept read."""
_PARAMETER: Final = re.compile(r'\s*([A-Za-z]+)\s*=\s*"([^"]*)"\s*(?:,|$)', re.ASCII)
_DIGEST: Final = re.compile(r"\s*([A-Za-z0-9-]+)=([A-Za-z0-9+/]+={0,2})\s*(?:,|$)", re.ASCII)
_DIGESTS: Final[Mapping[str, str]] = {"sha-256": "sha256", "sha-512": "sha512"}


class Config(Model):
    """Which signatures are accepted, and what they must cover.

    `skew` null: dates are not looked at. `certificates` are PEM texts of RSA public keys or certificates, by the
    `rsa_certificate_id` of a key. `target: path` signs the path alone, without the query, as Tyk has it.
    """

    algorithms: Annotated[tuple[Algorithm, ...], _one_or_more, Field(min_length=1)] = (
        "hmac-sha256",
        "hmac-sha384",
        "hmac-sha512",
        "rsa-sha256",
    )
    skew: Annotated[Duration, Field(gt=0, le=3600)] | None = 300.0
    require: Annotated[tuple[Text, ...], _one_or_more] = (TARGET, "date")
    target: Literal["path_and_query", "path"] = "path_and_query"
    body_digest: Literal["optional", "required", "off"] = "optional"
    body_limit: Annotated[Size, Field(gt=0)] = 1024 * 1024
    refuse_replays: bool = True
    header: HeaderName = "Authorization"
    certificates: Mapping[str, Text] = Field(default_factory=dict, repr=False)

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.refuse_replays and self.skew is None:
            raise ValueError("replays can be told only within a `skew`; without one, say `refuse_replays: false`")
        return self


@dataclass(frozen=True, slots=True)
class Presented:
    """The parameters of a signature."""

    key: str
    algorithm: str
    headers: tuple[str, ...]
    signature: bytes


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("hmac", Config, build, "a signature of the request, by a secret or an RSA key")


def build(config: Config, context: BuildContext) -> Authenticator:
    services, org = context.services, context.definition.org
    clock, sessions, counters = services.clock, services.sessions, services.counters
    written = {name: rsa_key(name, text) for name, text in config.certificates.items()}
    stored: dict[str, Any] = {}
    required = tuple(name.lower() for name in config.require)
    if config.body_digest == "required":
        required_with_body: tuple[str, ...] = (*required, "digest")
    else:
        required_with_body = required
    refusal = PROBLEMS["signature_invalid"]
    present = Places(header=config.header).reader(of_header)
    with_query = config.target == "path_and_query"

    missing = replace(PROBLEMS["auth_missing"], status=400, message=refusal.message, event="AuthFailure")
    missing = missing.with_challenge("Signature", realm=context.definition.name, headers=" ".join(required))

    def authenticate(exchange: Exchange) -> Session | Problem | None | Awaitable[Session | Problem]:
        value = present(exchange)
        if value is None or isinstance(value, Problem):
            return value
        signature = read(value)
        if isinstance(signature, str):
            return refusal.because(signature)
        mistake = unacceptable(exchange, signature)
        if mistake:
            return refusal.because(mistake)
        session = sessions.cached(org, signature.key, exchange.policies)
        at_once = not (exchange.body.present or config.refuse_replays or signature.algorithm == "rsa-sha256")
        if isinstance(session, Session) and at_once:
            return refusal.because(wrong) if (wrong := wrong_key(exchange, signature, session, None)) else session
        return look_up(exchange, signature)

    def unacceptable(exchange: Exchange, signature: Presented) -> str:
        """What is wrong with a signature before anybody knows whose it is; empty: nothing."""
        if signature.algorithm not in config.algorithms:
            allowed = ", ".join(config.algorithms)
            return f"the algorithm is {signature.algorithm[:100]!r}, allowed here: {allowed}"
        covered = set(signature.headers)
        if AUX_DATE in covered:
            covered.add("date")
        needed = required_with_body if exchange.body.present else required
        if left_out := [name for name in needed if name not in covered]:
            return f"the signature does not cover {', '.join(left_out)}, which this API requires"
        return off_date(exchange, covered) if config.skew is not None else ""

    def off_date(exchange: Exchange, covered: set[str]) -> str:
        name = AUX_DATE if AUX_DATE in exchange.headers else "date"
        if "date" not in covered:
            return f"the signature does not cover {name}, so its age is not known"
        value = exchange.headers.get(name)
        moment = moment_of(value) if value is not None else None
        if moment is None:
            return (
                f"the header {name} is missing" if value is None else f"the header {name} is no date: {value[:100]!r}"
            )
        off = moment - clock.now()
        if abs(off) > (config.skew or 0.0):
            side = "ahead of" if off > 0 else "behind"
            return f"the header {name} is {abs(off):.0f} s {side} the gateway's clock, the skew is {config.skew:g} s"
        return ""

    async def look_up(exchange: Exchange, signature: Presented) -> Session | Problem:
        found = await sessions.find(org, signature.key, exchange.policies)
        if isinstance(found, LookupFailure):
            if found.missing:
                reason = await sessions.explain_missing(org, signature.key)
                return refusal.because(f"the keyId names no key: {reason}")
            return refusal.because(f"the key of the keyId cannot be used: {found.reason}")
        key = await certified(found) if signature.algorithm == "rsa-sha256" else None
        if wrong := wrong_key(exchange, signature, found, key):
            return refusal.because(wrong)
        if config.body_digest != "off" and (wrong := await wrong_digest(exchange, signature)):
            return refusal.because(wrong)
        if config.refuse_replays and await seen_before(found, signature):
            return refusal.because(
                "the signature was used before, within the skew; a client that sends the same request twice in one "
                "second adds a header of its own to what it signs"
            )
        return found

    async def certified(session: Session) -> Any:
        """The RSA key of a session's certificate: written in this API, or stored under `/tyk/certs`; None: neither.

        An id is made of the certificate's own digest: a key that was read stays right while the certificate is there.
        """
        name = session.rsa_certificate_id
        if not name or name in written:
            return written.get(name)
        if not services.certificates.holds(name):
            stored.pop(name, None)
            return None
        if name not in stored:
            text = await services.certificates.public_key(name)
            try:
                key = rsa_key(name, text or "")
            except ValueError:
                return None
            if len(stored) >= _MOST_STORED:
                stored.clear()
            stored[name] = key
        return stored[name]

    def wrong_key(exchange: Exchange, signature: Presented, session: Session, key: Any) -> str:
        """Why this session did not make the signature; empty: it did."""
        if session.kind != "hmac":
            return f"the keyId names a session of kind {session.kind} ({session.label}), which signs no requests"
        message = signing_string(exchange, signature.headers, with_query=with_query)
        if isinstance(message, str):
            return message
        covered = " ".join(signature.headers)
        if signature.algorithm == "rsa-sha256":
            if key is None:
                named = session.rsa_certificate_id or "none"
                return (
                    f"the key's rsa_certificate_id is {named}; no RSA certificate of that id is among `certificates` "
                    "of this API, or stored"
                )
            verified = rsa_verifies(key, signature.signature, message)
            return "" if verified else f"the RSA signature is not that of the key's certificate over: {covered}"
        if not session.secret:
            return "the key has no hmac_string, so it can sign by RSA only"
        digest = signature.algorithm.removeprefix("hmac-")
        expected = hmac.digest(session.secret.encode("utf-8", "surrogateescape"), message, digest)
        if hmac.compare_digest(expected, signature.signature):
            return ""
        return f"the {signature.algorithm} signature is not that of the key's hmac_string over: {covered}"

    async def wrong_digest(exchange: Exchange, signature: Presented) -> str:
        values = exchange.headers.getall("Digest", ())
        if not values:
            return ""
        body = await exchange.body.read_all(config.body_limit)
        return digest_mistake(", ".join(values), body)

    async def seen_before(session: Session, signature: Presented) -> bool:
        window = 2 * (config.skew or 0.0)
        name = hashlib.sha256(signature.signature).hexdigest()
        bucket = Bucket(f"replay:{session.name_hash}:{name}", 1, window, "replay")
        taken = counters.take((bucket,), clock.now())
        return (await taken if isinstance(taken, Awaitable) else taken).refused >= 0

    return Authenticator(
        kind="hmac",
        authenticate=authenticate,
        missing=missing,
        credential_headers=(config.header,),
    )


def of_header(value: str) -> str | None:
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if scheme.lower() == "signature" else None


def read(text: str) -> Presented | str:
    """The parameters of a signature, or what is wrong with them. Unknown and repeated ones are refused, as in Tyk."""
    if len(text) > _LONGEST:
        return f"the signature has {len(text)} characters, at most {_LONGEST} are read"
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        part = _PARAMETER.match(text, at)
        if part is None:
            return 'the signature is not a list of name="value"'
        name = part[1].lower()
        if name not in ("keyid", "algorithm", "headers", "signature"):
            return f"the signature has an unknown parameter {part[1]!r}"
        if name in found:
            return f"the signature has the parameter {part[1]!r} twice"
        found[name] = part[2]
        at = part.end()
    for name in ("keyid", "algorithm", "signature"):
        if not found.get(name):
            return f"the signature has no parameter {name!r}"
    headers = tuple(found.get("headers", "").lower().split()) or ("date",)
    if len(headers) > _MOST_HEADERS or len(set(headers)) < len(headers):
        return f"the parameter headers names a header twice, or more than {_MOST_HEADERS}"
    # Base64, or base64 escaped for a query as Tyk's clients send it, by capital or by small letters.
    try:
        signature = b64decode(unquote(found["signature"]), validate=True)
    except (binascii.Error, ValueError):
        return "the signature is not base64"
    return Presented(found["keyid"], found["algorithm"].lower(), headers, signature)


def signing_string(exchange: Exchange, names: tuple[str, ...], *, with_query: bool) -> bytes | str:
    """What is signed (draft-cavage-http-signatures-12 section 2.3), or which header of it the request does not have."""
    lines: list[str] = []
    for name in names:
        if name == TARGET:
            path = exchange.path if with_query else unquote(exchange.path)
            query = f"?{exchange.query}" if with_query and exchange.query else ""
            lines.append(f"{TARGET}: {exchange.method.lower()} {path}{query}")
            continue
        if name == "date" and AUX_DATE in exchange.headers:
            # Browsers do not let scripts set Date: Tyk's clients send this one in its place.
            name = AUX_DATE
        values = exchange.headers.getall(name, ())
        if not values:
            return f"the signature covers the header {name[:100]}, which the request does not have"
        lines.append(f"{name}: {', '.join(value.strip() for value in values)}")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def moment_of(value: str) -> float | None:
    """Epoch seconds of a date as RFC 9110 or RFC 1123 with a numeric zone has it; None: it is none."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def digest_mistake(value: str, body: bytes) -> str:
    """Why the Digest header (RFC 3230) does not go with the body; empty: it does."""
    known = 0
    at = 0
    while at < len(value):
        part = _DIGEST.match(value, at)
        if part is None:
            return "the header Digest is not a list of ALGORITHM=base64"
        at = part.end()
        algorithm = _DIGESTS.get(part[1].lower())
        if algorithm is None:
            continue
        known += 1
        try:
            expected = b64decode(part[2], validate=True)
        except (binascii.Error, ValueError):
            return "the header Digest is not base64"
        if not hmac.compare_digest(hashlib.new(algorithm, body).digest(), expected):
            return f"the header Digest has another {part[1]} than the body of {len(body)} bytes"
    return "" if known else "the header Digest has neither SHA-256 nor SHA-512"


_RSA_BITS: Final = range(2048, 8193)


def rsa_key(name: str, text: str) -> Any:
    """The RSA public key in a PEM text. Raises ValueError for what is none, or has fewer than 2048 bits."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

    data = text.strip().encode()
    try:
        key = load_pem_x509_certificate(data).public_key() if b"CERTIFICATE" in data else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidVersion):
        raise ValueError(f"the certificate {name} is neither a PEM public key nor a PEM certificate") from None
    if not isinstance(key, RSAPublicKey) or key.key_size not in _RSA_BITS:
        raise ValueError(f"the certificate {name} has no RSA key of {_RSA_BITS.start} to {_RSA_BITS.stop - 1} bits")
    return key


def rsa_verifies(key: Any, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(signature, message, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True
