"""Certificates of clients: what a handshake proved, and the store of those that are known by name.

A handshake is looked into when somebody asks, once for each connection. An id is Tyk's, the organisation and the
SHA-256 of the certificate in hex. Which ids there are is in memory, so that a request waits for nobody; the PEM texts
are in a folder, or in the store that several gateways share (`CertificatePlace`).
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "CertificatePlace",
    "CertificateRefused",
    "CertificateStore",
    "ClientCertificate",
    "FolderCertificates",
    "Handshake",
    "StoredCertificate",
    "fingerprint_of",
]

_ORG: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", re.ASCII)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TICK: Final = 50_000_000
"""Nanoseconds, more than any file system's clock stands still."""
_FILE: Final = re.compile(rf"({_ORG.pattern})\.({_FINGERPRINT.pattern})\.pem", re.ASCII)


def fingerprint_of(text: str) -> str:
    """A SHA-256 in lower-case hex, from any spelling, `AB:CD:…` too; empty for what is none."""
    found = text.replace(":", "").strip().lower()
    return found if _FINGERPRINT.fullmatch(found) else ""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate that a client proved to have the key of, signed by an authority of the listener's `client_ca`.

    `fingerprint` is the SHA-256 of `der`, in hex. `subject` and `issuer` are as in RFC 4514. Times are epoch seconds.
    """

    der: bytes
    fingerprint: str
    subject: str
    issuer: str
    serial: str
    """Hex, as `openssl x509 -serial` shows it."""
    not_before: float
    not_after: float

    @property
    def pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.der)

    @classmethod
    def read(cls, der: bytes) -> ClientCertificate:
        """One that cannot be read has never been valid."""
        from cryptography import x509

        fingerprint = sha256(der).hexdigest()
        try:
            found = x509.load_der_x509_certificate(der)
            return cls(
                der,
                fingerprint,
                printable(found.subject.rfc4514_string()),
                printable(found.issuer.rfc4514_string()),
                f"{found.serial_number:02X}",
                found.not_valid_before_utc.timestamp(),
                found.not_valid_after_utc.timestamp(),
            )
        except (ValueError, x509.InvalidVersion):
            return cls(der, fingerprint, "(cannot be read)", "(cannot be read)", "", 0.0, 0.0)


def printable(name: str) -> str:
    """A name that may stand in a header and in a log: other characters in hex, behind a backslash (RFC 4514, 2.4)."""
    return "".join(
        char if " " <= char <= "~" else "".join(f"\\{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
        for char in name
    )


class Handshake:
    """What was settled when a TLS connection was made."""

    __slots__ = ("_certificate", "_ssl")

    def __init__(self, ssl_object: ssl.SSLObject) -> None:
        self._ssl: ssl.SSLObject | None = ssl_object
        self._certificate: ClientCertificate | None = None

    @property
    def certificate(self) -> ClientCertificate | None:
        """The client's; None: it showed none."""
        if self._ssl is not None:
            der = self._ssl.getpeercert(binary_form=True)
            self._certificate = ClientCertificate.read(der) if der else None
            self._ssl = None
        return self._certificate


class CertificateRefused(Exception):
    """What should be stored is not a certificate, or is there already; the text is for whoever sent it."""


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate in the store, in the words of Tyk's replies."""

    id: str
    fingerprint: str
    has_private: bool
    issuer: str
    subject: str
    issuer_cn: str
    subject_cn: str
    not_before: str
    not_after: str
    dns_names: tuple[str, ...]
    is_ca: bool


class CertificatePlace(Protocol):
    """Where the PEM texts are. A place that is shared may raise `StoreUnavailable` everywhere."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def known(self) -> Collection[str]:
        """The ids that there are now; without waiting."""
        ...

    async def read(self, identifier: str) -> bytes | None: ...

    async def write(self, identifier: str, pem: bytes) -> None:
        """Keep a text; it is durable, and known, when this returns."""
        ...

    async def remove(self, identifier: str) -> None: ...


class FolderCertificates:
    """PEM files under `folder`, which is made with the first of them. They are for their owner only.

    Ids are read from the names alone, again when the folder has changed: another worker may have done so.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        self._seen = -1

    async def start(self) -> None:
        """Nothing to do: each question looks."""

    async def stop(self) -> None:
        """Nothing to do."""

    def known(self) -> Collection[str]:
        return self._known

    async def read(self, identifier: str) -> bytes | None:
        path = self._known.get(identifier)
        try:
            return await asyncio.to_thread(path.read_bytes) if path is not None else None
        except OSError:
            return None

    async def write(self, identifier: str, pem: bytes) -> None:
        await asyncio.to_thread(_write, self._folder / f"{identifier[:-64]}.{identifier[-64:]}.pem", pem)

    async def remove(self, identifier: str) -> None:
        path = self._known.get(identifier)
        if path is not None:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    @property
    def _known(self) -> dict[str, Path]:
        try:
            changed = os.stat(self._folder).st_mtime_ns  # noqa: PTH116  # a microsecond, for each request
        except FileNotFoundError:
            self._files, self._seen = {}, -1
            return self._files
        if changed != self._seen:
            names = os.listdir(self._folder)  # noqa: PTH208  # names only
            found = [matched for name in names if (matched := _FILE.fullmatch(name)) is not None]
            self._files = {one[1] + one[2]: self._folder / one[0] for one in found}
            # A second change within one tick of the file system's clock would leave the same time.
            self._seen = changed if time.time_ns() - changed > _TICK else -1
        return self._files


class CertificateStore:
    """Certificates under their ids.

    `seal`: private keys are encrypted with this password before they are kept, as in a store that others can read.
    """

    def __init__(self, place: CertificatePlace, seal: str = "") -> None:
        self._place = place
        self._seal = seal
        self._writing = asyncio.Lock()

    async def start(self) -> None:
        await self._place.start()

    async def stop(self) -> None:
        await self._place.stop()

    def holds(self, identifier: str) -> bool:
        """Whether there is a certificate with this id."""
        return identifier in self._place.known()

    def ids(self, org: str = "") -> Sequence[str]:
        """The ids of an organisation, or all of them, sorted."""
        return sorted(known for known in self._place.known() if not org or known[:-64] == org)

    async def show(self, identifier: str) -> StoredCertificate | None:
        """None: there is no such certificate, or it cannot be read."""
        pem = await self._place.read(identifier)
        leaf = _first(pem) if pem is not None else None
        return _described(identifier, leaf, has_private=_has_key(pem)) if pem is not None and leaf is not None else None

    async def public_key(self, identifier: str) -> str | None:
        """The public key of a certificate as PEM text. None: there is no such certificate, or it cannot be read."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        pem = await self._place.read(identifier)
        leaf = _first(pem) if pem is not None else None
        if leaf is None:
            return None
        return leaf.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")

    async def add(self, org: str, pem: bytes) -> str:
        """Keep a certificate, with its chain and its key where these are sent; its id. Raises `CertificateRefused`."""
        if not _ORG.fullmatch(org):
            raise CertificateRefused("the organisation has characters that an id cannot have")
        leaf, kept = await asyncio.to_thread(_examined, pem, self._seal)
        identifier = org + _fingerprint(leaf)
        async with self._writing:
            if self.holds(identifier):
                raise CertificateRefused(f"Certificate with {identifier} id already exists")
            await self._place.write(identifier, kept)
        return identifier

    async def remove(self, identifier: str) -> bool:
        """Forget a certificate, for the next request already. False: there was none."""
        async with self._writing:
            if not self.holds(identifier):
                return False
            await self._place.remove(identifier)
        return True


def _examined(pem: bytes, seal: str) -> tuple[x509.Certificate, bytes]:
    """The first certificate of a PEM text, and the text to keep. Raises `CertificateRefused`."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
    )
    from cryptography.x509 import load_pem_x509_certificates

    leaf = _first(pem)
    if leaf is None:
        raise CertificateRefused("Certificate is not PEM that can be read")
    if not _has_key(pem):
        return leaf, pem
    try:
        key = load_pem_private_key(_key_block(pem), None)
    except (ValueError, TypeError) as broken:
        raise CertificateRefused("The private key cannot be read, or has a password") from broken
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise CertificateRefused("The private key does not belong to the certificate")
    if not seal:
        return leaf, pem
    # Made anew: whatever else stands in the text, another key among it, does not go along.
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(seal.encode()))
    return leaf, b"".join([*(one.public_bytes(Encoding.PEM) for one in load_pem_x509_certificates(pem)), sealed])


def _first(pem: bytes) -> x509.Certificate | None:
    """The first certificate of a PEM text; None: there is none that can be read.

    All of it can be read: cryptography looks into most parts only when they are asked for.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        _described("", leaf, has_private=False)
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        return None
    return leaf


def _has_key(pem: bytes) -> bool:
    return b"PRIVATE KEY-----" in pem


def _key_block(pem: bytes) -> bytes:
    found = re.search(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", pem, re.DOTALL)
    if found is None:
        raise ValueError("no whole block")
    return found[0]


def _fingerprint(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _described(identifier: str, leaf: x509.Certificate, *, has_private: bool) -> StoredCertificate:
    from cryptography import x509

    def extension(kind: Any) -> Any:
        try:
            return leaf.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    def common_name(name: x509.Name) -> str:
        return ", ".join(str(one.value) for one in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME))

    names = extension(x509.SubjectAlternativeName)
    constraints = extension(x509.BasicConstraints)
    return StoredCertificate(
        id=identifier,
        fingerprint=_fingerprint(leaf),
        has_private=has_private,
        issuer=leaf.issuer.rfc4514_string(),
        subject=leaf.subject.rfc4514_string(),
        issuer_cn=common_name(leaf.issuer),
        subject_cn=common_name(leaf.subject),
        not_before=f"{leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        not_after=f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        dns_names=tuple(names.get_values_for_type(x509.DNSName)) if names is not None else (),
        is_ca=bool(constraints is not None and constraints.ca),
    )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
