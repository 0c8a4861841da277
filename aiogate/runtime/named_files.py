"""Files that the settings name beside those of listeners, and what a start would stumble over in them.

Both functions block on the disk: call them in a thread.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aiogate.config import files
from aiogate.config.redis_url import is_redis_url, parse_redis_url
from aiogate.errors import Diagnostic
from aiogate.telemetry.access_log import STDOUT

if TYPE_CHECKING:
    from aiogate.config.settings import Settings

__all__ = ["access_log_mistake", "store_mistake"]


def store_mistake(settings: Settings) -> Iterator[Diagnostic]:
    """What is wrong with the authorities that a Redis over TLS must convince; other stores do not read them."""
    ca = settings.redis.ca
    if ca is None or not is_redis_url(settings.store) or not parse_redis_url(settings.store).tls:
        return
    code, message, hint = "", "", ""
    try:
        certificates = files.read_certificate(ca)
    except OSError as error:
        code, message = "file_unreadable", f"cannot be read: {error.strerror or error}"
        hint = f"looked for {ca}"
    else:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates.decode("latin-1"))
        except (ssl.SSLError, ValueError):
            code, message = "certificate_invalid", "holds no certificate that can be used"
            hint = "PEM, one certificate after another"
    if code:
        yield Diagnostic.at(settings.place("redis", "ca"), code, f"{ca.name} {message}", hint, "redis.ca")


def access_log_mistake(settings: Settings) -> Iterator[Diagnostic]:
    """Why a start could not open the access log. Nothing is made: a file that is not there yet may well come."""
    declared = settings.access_log
    if declared.format == "off" or declared.file == STDOUT:
        return
    file = Path(declared.file)
    if file.is_dir():
        reason = "it is a folder"
    elif file.exists():
        reason = "" if os.access(file, os.W_OK) else "it may not be written to"
    elif not file.parent.is_dir():
        reason = f"there is no folder {file.parent}"
    else:
        reason = "" if os.access(file.parent, os.W_OK | os.X_OK) else f"the folder {file.parent} may not be written to"
    if reason:
        message = f"the access log {declared.file} cannot be opened: {reason}"
        yield Diagnostic.at(
            settings.place("access_log", "file"), "access_log_unwritable", message, "", "access_log.file"
        )
