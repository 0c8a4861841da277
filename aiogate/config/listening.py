"""Where and how the gateway takes requests: one or more listeners, plain or with TLS, behind PROXY headers or not.

A bare address is a plain listener. Certificates are named here and read by `aiogate.proxy.tls`, at the start and again
at each reload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from aiogate.config.addresses import Address
from aiogate.config.model import Model, mistake

__all__ = ["CertificateFiles", "Listen", "ListenTls", "Listens", "named"]


def _parse_file(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise mistake("wrong_type", "should be the path of a file")
    return Path(value)


def _parse_pairs(value: Any) -> Any:
    if isinstance(value, list) and not value:
        raise mistake("invalid_value", "is an empty list", "name a certificate and its key")
    return value


def _parse_tls(value: Any) -> Any:
    if value is None:
        raise mistake("wrong_type", "is empty", "name a certificate and its key, or leave `tls` out for plain HTTP")
    return value


_File = Annotated[Path, BeforeValidator(_parse_file)]


class CertificateFiles(Model):
    """A certificate with its intermediates, leaf first, and its private key, both PEM; relative to the settings."""

    certificate: _File
    key: _File


class ListenTls(Model):
    """TLS at one listener. Either `certificate` and `key`, or `certificates`; a bare list is the latter."""

    shorthand: ClassVar[str | None] = "certificates"

    certificate: _File | None = None
    key: _File | None = None
    certificates: Annotated[tuple[CertificateFiles, ...], BeforeValidator(_parse_pairs)] = ()
    """Chosen by the name that the client asks for (SNI); the first is for clients that ask for none of them."""
    client_ca: _File | None = None
    """PEM bundle of the authorities whose client certificates are accepted; None: no certificate is asked for."""
    client_certificates: Literal["required", "optional"] = "required"
    """Whether a handshake without a client certificate fails. Only with `client_ca`."""

    @model_validator(mode="after")
    def _whole(self) -> ListenTls:
        single = (self.certificate, self.key)
        if self.certificates and single != (None, None):
            raise mistake("invalid_value", "has both `certificates` and a `certificate` of its own", "keep one of them")
        if not self.certificates and None in single:
            absent = "certificate" if self.certificate is None else "key"
            raise mistake("missing_key", f"has no `{absent}`", "TLS needs a certificate and its key")
        if self.client_ca is None and "client_certificates" in self.model_fields_set:
            raise mistake("missing_key", "asks for client certificates and has no `client_ca` to judge them by")
        return self

    @property
    def pairs(self) -> tuple[CertificateFiles, ...]:
        """Every certificate with its key, the default first."""
        if self.certificates:
            return self.certificates
        assert self.certificate is not None
        assert self.key is not None
        return (CertificateFiles(certificate=self.certificate, key=self.key),)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is named."""
        named = [path for pair in self.pairs for path in (pair.certificate, pair.key)]
        return (*named, *([self.client_ca] if self.client_ca is not None else []))

    def below(self, folder: Path) -> ListenTls:
        """The same with its paths taken from `folder`."""
        return self.model_copy(
            update={
                "certificate": folder / self.certificate if self.certificate is not None else None,
                "key": folder / self.key if self.key is not None else None,
                "certificates": tuple(
                    CertificateFiles(certificate=folder / pair.certificate, key=folder / pair.key)
                    for pair in self.certificates
                ),
                "client_ca": folder / self.client_ca if self.client_ca is not None else None,
            }
        )


class Listen(Model):
    """One listener."""

    shorthand: ClassVar[str | None] = "address"

    address: Address
    tls: Annotated[ListenTls | None, BeforeValidator(_parse_tls)] = None
    proxy_protocol: bool = False
    """Whether each connection begins with a PROXY header, version 1 or 2, from one of `trusted_proxies`."""

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"

    @property
    def shape(self) -> tuple[Address, bool, bool]:
        """What only a start can change: the socket, and how a connection on it begins."""
        return self.address, self.tls is not None, self.proxy_protocol

    def below(self, folder: Path) -> Listen:
        """The same with its paths taken from `folder`."""
        return self if self.tls is None else self.model_copy(update={"tls": self.tls.below(folder)})


def _parse_listens(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    if isinstance(value, (dict, Listen)):
        return (value,)
    if isinstance(value, (int, float)) or value is None:
        raise mistake("wrong_type", "should be an address or a list of them", "such as `127.0.0.1:8080`")
    if not value:
        raise mistake("invalid_value", "is an empty list", "a gateway listens somewhere")
    return value


Listens = Annotated[tuple[Listen, ...], BeforeValidator(_parse_listens), Field(min_length=1)]
"""An address, a mapping with an address, or a list of both; text is a list separated by commas."""


def named(listens: Iterable[Listen]) -> Iterator[tuple[str, Listen]]:
    """Each listener with a name that it keeps over a reload: its address; port 0 may stand there more than once."""
    taken: dict[str, int] = {}
    for listen in listens:
        name = str(listen.address)
        taken[name] = number = taken.get(name, 0) + 1
        yield (name if number == 1 else f"{name} ({number})"), listen
