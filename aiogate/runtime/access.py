"""Who may use the control port: the gateway's secret and the dashboard's users.

There is no default credential anywhere. Both are made at the first start and kept in the state folder, readable by the
gateway's own user only; `AIOGATE_SECRET` or the settings may bring a secret of their own.
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DashboardUser", "DashboardUsers", "kept_secret"]


def kept_secret(path: Path) -> str:
    """The secret in this file; at the first call a new one of 256 bits is written there, mode 0600."""
    try:
        kept = path.read_text("ascii").strip()
        if kept:
            return kept
    except FileNotFoundError:
        pass
    made = secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a crash leaves no empty secret, and the mode holds from the first byte.
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return made


@dataclass(frozen=True, slots=True)
class DashboardUser:
    """A user of the Dashboard API. The organisation is the only one that this user sees and writes."""

    id: str
    org: str
    access_key: str


class DashboardUsers:
    """Dashboard users by access key."""

    __slots__ = ("_users",)

    def __init__(self, users: tuple[DashboardUser, ...]) -> None:
        self._users = users

    def find(self, access_key: str) -> DashboardUser | None:
        """The user of this access key, compared in constant time; None: nobody's."""
        presented = access_key.encode("utf-8", "surrogateescape")
        found = None
        for user in self._users:
            if hmac.compare_digest(user.access_key.encode(), presented):
                found = user
        return found
