"""`/tyk/certs`: the certificates that definitions and sessions may name by their ids, in Tyk's words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

from aiogate.config.definition import DEFAULT_ORGANISATION
from aiogate.control.describe import described
from aiogate.control.envelopes import gateway_ok, reply
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.requests import raw_body
from aiogate.control.routes import Route
from aiogate.credentials.certificates import CertificateRefused, StoredCertificate
from aiogate.errors import Rejected

__all__ = ["GatewayCertificates"]

_UNKNOWN: Final = "Certificate with given SHA256 fingerprint not found"


class GatewayCertificates:
    __slots__ = ("_gateway",)

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/tyk/certs", self.listing),
            ("POST", "/tyk/certs", self.add),
            ("GET", "/tyk/certs/{id:[^/]+}", self.show),
            ("DELETE", "/tyk/certs/{id:[^/]+}", self.remove),
        ]

    @described("List the stored certificates", query=("org_id", "mode"))
    async def listing(self, request: web.Request) -> web.Response:
        ids = self._gateway.certificates.ids(request.query.get("org_id", ""))
        if request.query.get("mode") != "detailed":
            return reply({"certs": ids})
        found = [await self._gateway.certificates.show(identifier) for identifier in ids]
        return reply({"certs": [_basics(one) for one in found if one is not None]})

    @described("Store a certificate, with its private key where one is sent", query=("org_id",), body="pem")
    async def add(self, request: web.Request) -> web.Response:
        pem = await raw_body(request, "Request malformed", self._gateway.settings.timeouts.client_body)
        try:
            identifier = await self._gateway.certificates.add(request.query.get("org_id") or DEFAULT_ORGANISATION, pem)
        except CertificateRefused as refused:
            raise Rejected(403, str(refused)) from None
        return reply({"id": identifier, **gateway_ok("Certificate added")})

    @described("Show one certificate, or several by ids with commas between", refuses=(404,))
    async def show(self, request: web.Request) -> web.Response:
        asked = [part for part in request.match_info["id"].split(",") if part]
        found = [await self._gateway.certificates.show(identifier) for identifier in dict.fromkeys(asked)]
        known = [_metadata(one) for one in found if one is not None]
        if not known:
            raise Rejected(404, _UNKNOWN)
        return reply(known[0] if len(asked) == 1 else known)

    @described("Remove a certificate, and with it what it opens", refuses=(404,))
    async def remove(self, request: web.Request) -> web.Response:
        if not await self._gateway.certificates.remove(request.match_info["id"]):
            raise Rejected(404, _UNKNOWN)
        return reply(gateway_ok("removed"))


def _basics(certificate: StoredCertificate) -> dict[str, Any]:
    return {
        name: getattr(certificate, name)
        for name in ("id", "issuer_cn", "subject_cn", "dns_names", "not_before", "not_after", "is_ca")
    }


def _metadata(certificate: StoredCertificate) -> dict[str, Any]:
    return {
        name: getattr(certificate, name)
        for name in (
            "id", "fingerprint", "has_private", "issuer", "subject", "not_before", "not_after", "dns_names", "is_ca",
        )
    }  # fmt: skip
