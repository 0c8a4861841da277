"""Authenticate by the client's certificate of the TLS handshake.

    auth:
      - mtls: {allow: [9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08]}

The listener's `client_ca` says which certificates are let into a handshake; here is said which of them an API takes:
all, those under `allow` (fingerprints, or ids of `/tyk/certs`), or with `session: true` those that a session was made
for. Everything is looked up for each request: what is revoked is refused on open connections too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Annotated, Final

from pydantic import AfterValidator, model_validator

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    ClientCertificate,
    Exchange,
    Grant,
    LookupFailure,
    Model,
    Problem,
    Session,
    format_timestamp,
    hookimpl,
)

FINGERPRINT: Final = 64
"""Hex digits of a SHA-256."""


def _certificate(text: str) -> str:
    """A fingerprint or an id, the hex digits of either in lower case and without colons."""
    plain = text.replace(":", "").strip()
    digits = plain[-FINGERPRINT:].lower()
    if len(digits) != FINGERPRINT or not set(digits) <= set("0123456789abcdef"):
        raise ValueError("a certificate is named by the 64 hex digits of its SHA-256, or by its id in /tyk/certs")
    return plain[:-FINGERPRINT] + digits


class Config(Model):
    """Without `allow` and `session`, every certificate that the listener's authorities have signed is let in."""

    allow: tuple[Annotated[str, AfterValidator(_certificate)], ...] | None = None
    session: bool = False
    policies: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if self.allow is not None and not self.allow:
            raise ValueError("`allow` is empty and would let nobody in; leave it out to let in all")
        if self.session and self.policies:
            raise ValueError("with `session: true` the rights are those of the session, not of policies named here")
        return self


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("mtls", Config, build, "a client certificate")


def build(config: Config, context: BuildContext) -> Authenticator:
    definition, services = context.definition, context.services
    org, clock, certificates, sessions = definition.org, services.clock, services.certificates, services.sessions
    allowed = allow_list(config.allow)
    alone = len(context.siblings) == 1
    missing = PROBLEMS["certificate_missing"]
    if config.session:
        missing = replace(missing, status=401, message="Client certificate required")
    granted = {definition.id: Grant()}
    made: dict[str, tuple[object, Session]] = {}

    def authenticate(exchange: Exchange) -> Session | Problem | None | Awaitable[Session | Problem]:
        certificate = exchange.client_certificate
        if certificate is None:
            return absent(exchange) if alone else None
        now = clock.now()
        if not certificate.not_before <= now <= certificate.not_after:
            early = certificate.not_before - now
            off = f"valid in {early:.0f} s" if early > 0 else f"expired {now - certificate.not_after:.0f} s ago"
            return PROBLEMS["certificate_expired"].because(f"{described(certificate)}: {off}")
        if allowed is not None and not listed(certificate):
            problem = PROBLEMS["certificate_denied"].because(f"{described(certificate)}: {why_not(certificate)}")
            return replace(problem, message=f"Certificate with SHA256 {certificate.fingerprint} not allowed")
        if config.session:
            found = sessions.cached(org, certificate.fingerprint, exchange.policies)
            return accepted(found, certificate) if type(found) is Session else look_up(exchange, certificate)
        return own(exchange, certificate)

    def absent(exchange: Exchange) -> Problem:
        if exchange.handshake is None and not config.session:
            return replace(missing, code="tls_missing", message="TLS not enabled").because(
                "the request came over plain HTTP, where no certificate can be shown"
            )
        asks = "and showed no certificate" if exchange.handshake is not None else "over plain HTTP"
        return missing.because(f"the client came {asks}; only a listener with `client_ca` asks for one")

    def listed(certificate: ClientCertificate) -> bool:
        assert allowed is not None
        ids = allowed.get(certificate.fingerprint)
        return ids is not None and (not ids or any(certificates.holds(one) for one in ids))

    def why_not(certificate: ClientCertificate) -> str:
        assert allowed is not None
        ids = allowed.get(certificate.fingerprint)
        return f"{', '.join(ids)} is in `allow` and no longer stored" if ids else "not in `allow`"

    async def look_up(exchange: Exchange, certificate: ClientCertificate) -> Session | Problem:
        found = await sessions.find(org, certificate.fingerprint, exchange.policies)
        if isinstance(found, LookupFailure):
            reason = await sessions.explain_missing(org, certificate.fingerprint) if found.missing else found.reason
            return PROBLEMS["certificate_unknown"].because(f"{described(certificate)}: {reason}")
        return accepted(found, certificate)

    def accepted(session: Session, certificate: ClientCertificate) -> Session | Problem:
        unknown = PROBLEMS["certificate_unknown"]
        if session.kind != "certificate":
            return unknown.because(f"{described(certificate)}: its name belongs to a session of kind {session.kind}")
        if len(session.certificate) > FINGERPRINT and not certificates.holds(session.certificate):
            return unknown.because(f"{described(certificate)}: {session.certificate} is no longer stored")
        return session

    def own(exchange: Exchange, certificate: ClientCertificate) -> Session | Problem:
        """A session that is not stored anywhere: it opens this API, or what the policies open."""
        known = made.get(certificate.fingerprint)
        if known is not None and known[0] is exchange.policies:
            return known[1]
        name = f"certificate\0{certificate.fingerprint}"
        session: Session | LookupFailure
        if config.policies:
            session = sessions.derived(
                org, "certificate", name, config.policies, exchange.policies, certificate.subject
            )
        else:
            session = Session(certificate.fingerprint, org, "certificate", certificate.subject, granted, derived=True)
        if isinstance(session, LookupFailure):
            return PROBLEMS["certificate_unknown"].because(session.reason)
        session = replace(session, expires=certificate.not_after)
        if len(made) >= 10_000:
            made.clear()
        made[certificate.fingerprint] = (exchange.policies, session)
        return session

    return Authenticator(kind="mtls", authenticate=authenticate, missing=missing)


def allow_list(allow: tuple[str, ...] | None) -> Mapping[str, tuple[str, ...]] | None:
    """Fingerprint to the ids that it must be stored under, none for one that is allowed by itself; None: all are."""
    if allow is None:
        return None
    found: dict[str, tuple[str, ...]] = {}
    for entry in allow:
        fingerprint = entry[-FINGERPRINT:]
        if len(entry) == FINGERPRINT:
            found[fingerprint] = ()
        elif found.get(fingerprint, (entry,)):
            found[fingerprint] = (*found.get(fingerprint, ()), entry)
    return found


def described(certificate: ClientCertificate) -> str:
    """Who it is, for `why`."""
    return (
        f"certificate {certificate.fingerprint} of {certificate.subject or '(no subject)'}, issued by "
        f"{certificate.issuer}, valid from {format_timestamp(certificate.not_before)} "
        f"until {format_timestamp(certificate.not_after)}"
    )
