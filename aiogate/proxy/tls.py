"""TLS at the listeners: from the files that the settings name to what a handshake is made with.

`prepare` reads and checks every file before anything changes, as a part of a load. What it makes is swapped in as a
whole: the next handshake uses it, open connections keep what they were made with. A listener whose files did not change
keeps its context, and with it the sessions that clients resume.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from aiogate.config.listening import Listen, ListenTls, named
from aiogate.errors import Diagnostic, Position

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["ServerTls", "TlsSet", "prepare"]

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secret and authenticated. TLS 1.3 has no others."""
_LARGEST_FILE: Final = 1024 * 1024
_ENCRYPTED: Final = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)

Place = Callable[..., Position]
"""Where a key of the settings stands, by its path."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS of one listener. `digest` is equal for the same settings and the same bytes in all files."""

    context: ssl.SSLContext
    digest: str


@dataclass(frozen=True, slots=True)
class TlsSet:
    """TLS of all listeners, by their names, and what is to be said about the files that refuses nothing."""

    servers: Mapping[str, ServerTls] = field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[Diagnostic, ...] = ()

    def over(self, before: TlsSet) -> TlsSet:
        """With what only an earlier set has: those listeners are open until the next start."""
        return TlsSet(MappingProxyType({**before.servers, **self.servers}), self.warnings)


def prepare(listens: Sequence[Listen], place: Place, before: TlsSet) -> tuple[TlsSet, tuple[Diagnostic, ...]]:
    """What the files of all listeners make, and the mistakes in them; the set is of no use when there are any.

    Blocks on the disk: call it in a thread.
    """
    servers: dict[str, ServerTls] = {}
    found: list[Diagnostic] = []
    for index, (name, listen) in enumerate(named(listens)):
        if listen.tls is not None:
            reader = _Reader(index, place)
            server = reader.server(listen.tls, before.servers.get(name))
            found.extend(reader.found)
            if server is not None:
                servers[name] = server
    mistakes = tuple(one for one in found if one.severity == "error")
    warnings = tuple(one for one in found if one.severity != "error")
    return TlsSet(MappingProxyType(servers), warnings), mistakes


@dataclass(frozen=True, slots=True)
class _File:
    """A file's bytes, and where the settings name it."""

    path: Path
    data: bytes
    at: Position
    key: str


class _Reader:
    """Reads the files of one listener; `found` has the mistakes and the warnings."""

    def __init__(self, index: int, place: Place) -> None:
        self.found: list[Diagnostic] = []
        self._index = index
        self._place = place

    def server(self, tls: ListenTls, before: ServerTls | None) -> ServerTls | None:
        """None: something is wrong."""
        pairs: list[tuple[_File, _File]] = []
        for number, files in enumerate(tls.pairs):
            steps: tuple[str | int, ...] = ("certificates", number) if tls.certificates else ()
            certificate = self._read(files.certificate, *steps, "certificate")
            key = self._read(files.key, *steps, "key")
            if certificate is not None and key is not None:
                pairs.append((certificate, key))
        authorities = self._read(tls.client_ca, "client_ca") if tls.client_ca is not None else None
        chains = [self._chain(certificate) for certificate, _ in pairs]
        trusted = self._chain(authorities) if authorities is not None else ()
        if self._failed:
            return None
        digest = _digest([tls.client_certificates], [*(file for pair in pairs for file in pair), authorities])
        if before is not None and before.digest == digest:
            return before
        contexts = [self._context(certificate, key, tls, authorities) for certificate, key in pairs]
        if self._failed or not all(trusted):
            return None
        made = [context for context in contexts if context is not None]
        made[0].sni_callback = _by_name(made, [_names(chain[0]) for chain in chains])
        return ServerTls(made[0], digest)

    @property
    def _failed(self) -> bool:
        return any(one.severity == "error" for one in self.found)

    def _say(self, file: _File, code: str, message: str, hint: str = "", severity: str = "error") -> None:
        at = file.at
        told = f"{file.path.name} {message}"
        self.found.append(Diagnostic(at.file, at.line, at.column, code, told, hint, file.key, severity))

    def _read(self, path: Path, *steps: str | int) -> _File | None:
        at = self._place("listen", self._index, "tls", *steps)
        file = _File(path, b"", at, ".".join(str(step) for step in ("listen", self._index, "tls", *steps)))
        try:
            if not path.is_file():
                reason = "is not a file" if path.exists() else "does not exist"
                self._say(file, "file_unreadable", reason, f"looked for {path}")
                return None
            with path.open("rb") as opened:
                data = opened.read(_LARGEST_FILE + 1)
        except OSError as error:
            self._say(file, "file_unreadable", f"cannot be read: {error.strerror or error}")
            return None
        if len(data) > _LARGEST_FILE:
            self._say(file, "file_too_large", "is larger than 1 MiB")
            return None
        return _File(path, data, at, file.key)

    def _chain(self, file: _File) -> Sequence[Certificate]:
        """The certificates in a file, and a warning for those that are not valid now."""
        from cryptography.x509 import InvalidVersion, load_pem_x509_certificates

        try:
            chain = load_pem_x509_certificates(file.data)
        except (ValueError, InvalidVersion):
            hint = "a PEM file has `-----BEGIN CERTIFICATE-----` lines"
            self._say(file, "certificate_invalid", "holds no certificate that can be read", hint)
            return ()
        now = datetime.fromtimestamp(time.time(), UTC)
        for certificate in chain:
            whose = certificate.subject.rfc4514_string() or "a certificate"
            if certificate.not_valid_after_utc < now:
                day = certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
                self._say(file, "certificate_expired", f"has expired: {whose} was valid until {day}", "renew it",
                          "warning")  # fmt: skip
            elif certificate.not_valid_before_utc > now:
                day = certificate.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
                self._say(file, "certificate_expired", f"is not valid yet: {whose} begins at {day}", "check the clock",
                          "warning")  # fmt: skip
        return chain

    def _context(
        self, certificate: _File, key: _File, tls: ListenTls, authorities: _File | None
    ) -> ssl.SSLContext | None:
        if _ENCRYPTED.search(key.data):
            hint = "decrypt it with `openssl pkey -in KEY -out KEY.plain`, and let only the gateway read it"
            self._say(key, "certificate_invalid", "is encrypted, and nobody is there to type its password", hint)
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(certificate.path, key.path, password=_no_password)
        except ssl.SSLError as error:
            reason = (error.reason or str(error)).replace("_", " ").lower()
            if "mismatch" in reason:
                self._say(key, "certificate_invalid", f"does not belong to {certificate.path.name}")
            else:
                blamed = certificate if "ee key too small" in reason or "ca " in reason else key
                self._say(blamed, "certificate_invalid", f"cannot be used: {reason}")
            return None
        except OSError as error:
            self._say(key, "file_unreadable", f"cannot be read: {error.strerror or error}")
            return None
        if authorities is not None:
            required = tls.client_certificates == "required"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
            # Also a client's own certificate, or an intermediate authority, may be what is trusted.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            try:
                context.load_verify_locations(cadata=authorities.data.decode("ascii", "replace"))
            except ssl.SSLError as error:
                self._say(authorities, "certificate_invalid", f"cannot be used: {error.reason or error}")
                return None
        return context


def _no_password() -> str:
    """OpenSSL would ask the terminal otherwise, and wait."""
    return ""


def _digest(words: Iterable[str], files: Iterable[_File | None]) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for file in files:
        digest.update(hashlib.sha256(file.data).digest() if file is not None else b"-")
    return digest.hexdigest()


def _names(certificate: Certificate) -> Iterator[str]:
    """The DNS names that a certificate is for, lower case; of old ones without any, the common name."""
    from cryptography import x509

    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names: Sequence[str] = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        names = [str(one.value) for one in common]
    for name in names:
        yield name.lower().removesuffix(".")


def _by_name(
    contexts: Sequence[ssl.SSLContext], names: Sequence[Iterator[str]]
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None] | None:
    """Chooses the certificate for the name that a client asks for (RFC 6066 section 3); None: there is only one.

    An exact name goes before a wildcard, which stands for one label (RFC 9525 section 6.3); of two the first.
    """
    if len(contexts) == 1:
        return None
    exact: dict[str, ssl.SSLContext] = {}
    below: dict[str, ssl.SSLContext] = {}
    for context, own in zip(contexts, names, strict=True):
        for name in own:
            if name.startswith("*."):
                below.setdefault(name[2:], context)
            else:
                exact.setdefault(name, context)

    def choose(handshake: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower().removesuffix(".")
        context = exact.get(name) or below.get(name.partition(".")[2])
        if context is not None:
            handshake.context = context

    return choose
