"""Whom an upstream's certificate must convince, and what is shown to it: the files under `upstream.tls`, read once.

They are read with the definition, so that a mistake in them is told with the line that names the file, and again at
each reload: a definition whose files have other contents than before is another definition.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from aiogate.config import files
from aiogate.config.upstream import UpstreamTls

__all__ = ["FileDigest", "Trust", "read_trust", "unchanged"]

FileDigest = tuple[str, str]
"""A file's path and the SHA-256 of its content, in hex."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_PLACES: Final = re.compile(r"\[[^]]*\]|\(_ssl\.c:[0-9]+\)")
_contexts: Final[WeakValueDictionary[str, ssl.SSLContext]] = WeakValueDictionary()
"""By digest: loading the system's authorities takes as long as many requests, and hundreds of APIs may share them."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How TLS is spoken to an upstream. Equal ones may share connections, others must not.

    `digest` covers the contents of all files and every option but `server_name`, which is empty for the URL's host.
    """

    digest: str
    server_name: str
    context: ssl.SSLContext = field(compare=False, repr=False)


def read_trust(
    declared: UpstreamTls, refuse: Callable[[str, str, str], None]
) -> tuple[Trust | None, tuple[FileDigest, ...]]:
    """What the files say, and which they were. None: `refuse` was told the key, the mistake and a hint."""
    contents: dict[str, bytes] = {}
    paths: dict[str, Path] = {}
    read: list[FileDigest] = []
    for key in ("ca", "certificate", "key"):
        path: Path | None = getattr(declared, key)
        if path is None:
            continue
        paths[key] = path
        try:
            contents[key] = files.read_certificate(path)
        except OSError as error:
            refuse(
                key,
                f"cannot be read: {error.strerror or error}",
                "a relative path begins at the working directory, as in `${file:…}`",
            )
            continue
        read.append((str(path), hashlib.sha256(contents[key]).hexdigest()))
    if len(contents) != len(paths):
        return None, tuple(read)
    digest = hashlib.sha256(repr((declared.verify, declared.min_version, sorted(contents.items()))).encode())
    context = _contexts.get(digest.hexdigest())
    if context is None:
        context = _context(declared, contents, paths, refuse)
        if context is None:
            return None, tuple(read)
        _contexts[digest.hexdigest()] = context
    server_name = (declared.server_name or "").strip("[]")
    return Trust(digest.hexdigest(), server_name, context), tuple(read)


def unchanged(known: tuple[FileDigest, ...]) -> bool:
    """Whether files still have the contents that were read."""
    try:
        return all(hashlib.sha256(files.read_certificate(Path(path))).hexdigest() == digest for path, digest in known)
    except OSError:
        return False


def _context(
    declared: UpstreamTls, contents: dict[str, bytes], paths: dict[str, Path], refuse: Callable[[str, str, str], None]
) -> ssl.SSLContext | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[declared.min_version]
    if not declared.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif "ca" not in contents:
        context.load_default_certs()
    else:
        # An authority of one's own may be the upstream's very certificate, or an intermediate.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if not _holds_certificates("ca", contents, context, refuse):
            return None
    if "certificate" in contents:
        if not _holds_certificates("certificate", contents, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), refuse):
            return None
        try:
            context.load_cert_chain(paths["certificate"], paths.get("key"), password=_no_password)
        except (OSError, ValueError) as error:
            place, what = ("key", "certificate") if "key" in paths else ("certificate", "key")
            hint = "PEM, without a password; `key` names it when it is in a file of its own"
            refuse(place, f"has no {what} that belongs to it: {_reason(error)}", hint)
            return None
    return context


def _holds_certificates(
    key: str, contents: dict[str, bytes], context: ssl.SSLContext, refuse: Callable[[str, str, str], None]
) -> bool:
    """Whether a file is PEM with certificates in it, which the context then trusts."""
    try:
        context.load_verify_locations(cadata=contents[key].decode("latin-1"))
    except (ssl.SSLError, ValueError) as error:
        refuse(key, f"holds no certificate that can be used: {_reason(error)}", "PEM, one certificate after another")
        return False
    return True


def _no_password() -> str:
    raise ValueError("the key asks for a password")


def _reason(error: Exception) -> str:
    """OpenSSL's own words, without its numbers and places."""
    words = _PLACES.sub("", getattr(error, "strerror", None) or str(error))
    return words.replace("_", " ").strip().lower() or "unknown"
