"""Word to systemd that the service is ready, reloads, or stops (sd_notify(3)): a line on the socket that it names.

Without `NOTIFY_SOCKET` in the environment nothing happens.
"""

from __future__ import annotations

import logging
import os
import socket
import time

__all__ = ["notify", "notify_reloading"]

_log = logging.getLogger("aiogate")


def notify(*states: str) -> None:
    """Send states such as `READY=1`, `STOPPING=1`, `STATUS=…`. A failure is logged: it must not end the gateway."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sent:
            sent.connect(address)
            sent.sendall("\n".join(states).encode())
    except OSError as error:
        _log.warning("systemd could not be told %s: %s", ", ".join(states), error)


def notify_reloading() -> None:
    """A reload begins; `READY=1` ends it (Type=notify-reload)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
