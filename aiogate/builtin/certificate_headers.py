"""Tell the upstream about the client's certificate.

    plugins:
      - certificate_headers: {subject: X-Client-Cert-Subject, fingerprint: X-Client-Cert-Sha256}

The headers are made here and nowhere else: what a client sends under their names never reaches the upstream, whether it
showed a certificate or not.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from aiogate import (
    BuildContext,
    ClientCertificate,
    EditableHeader,
    Exchange,
    Middleware,
    MiddlewareKind,
    Model,
    Stage,
    format_timestamp,
    hookimpl,
)


class Config(Model):
    """The names of the headers; what is left out is not told."""

    subject: EditableHeader | None = None
    issuer: EditableHeader | None = None
    serial: EditableHeader | None = None
    fingerprint: EditableHeader | None = None
    not_after: EditableHeader | None = None
    pem: EditableHeader | None = None
    der: EditableHeader | None = None


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind(
        "certificate_headers",
        Stage.REQUEST,
        Config,
        build,
        "tells the upstream about the client's certificate",
        refuses=False,
    )


TELLERS: Final[Mapping[str, Callable[[ClientCertificate], str]]] = {
    "subject": lambda certificate: certificate.subject,
    "issuer": lambda certificate: certificate.issuer,
    "serial": lambda certificate: certificate.serial,
    "fingerprint": lambda certificate: certificate.fingerprint,
    "not_after": lambda certificate: format_timestamp(certificate.not_after),
    "pem": lambda certificate: quote(certificate.pem, safe=""),
    "der": lambda certificate: f":{base64.b64encode(certificate.der).decode()}:",
}


def build(config: Config, context: BuildContext) -> Middleware:
    names: dict[str, Any] = {field: getattr(config, field) for field in TELLERS}
    told = [(name, TELLERS[field]) for field, name in names.items() if name is not None]
    ours = frozenset(spelled(name) for name, _ in told)

    def tell(exchange: Exchange) -> None:
        edits = exchange.upstream_headers
        for sent in exchange.headers:
            # Many servers make one of `-` and `_`.
            if spelled(sent) in ours:
                edits.remove(sent)
        certificate = exchange.client_certificate
        if certificate is not None:
            for name, teller in told:
                edits.set(name, teller(certificate))

    return Middleware(on_request=tell)


@lru_cache(maxsize=1024)
def spelled(name: str) -> str:
    """The name as careless servers see it. Clients send the same names again and again."""
    return name.lower().replace("_", "-")
