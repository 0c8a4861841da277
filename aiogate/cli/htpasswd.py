"""`aiogate users import`: users of an htpasswd file, with the hashes that they have there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiogate.cli.client import Client, Refused, path_to, said
from aiogate.cli.printing import counted, safe

__all__ = ["Imported", "import_users", "is_there", "lines_of", "summary"]

_LARGEST: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One user of the file. `mistake` says why it cannot be taken; the hash is never shown."""

    number: int
    user: str
    hash: str
    mistake: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one line. `refused` says why nothing did; empty: the user is there."""

    line: int
    user: str
    refused: str = ""

    def __str__(self) -> str:
        return safe(f"line {self.line}: {self.user or '(no name)'}: {self.refused or 'imported'}")


def lines_of(file: Path) -> Iterator[Line]:
    """The users of a file: `name:hash`, one a line; empty lines and those that begin with `#` are left out.

    Raises OSError and ValueError for a file that cannot be read at all.
    """
    from aiogate.credentials.hashes import hash_mistake

    if file.stat().st_size > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST // 1024 // 1024} MiB")
    seen: set[str] = set()
    for number, line in enumerate(file.read_bytes().decode("utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, stored = line.partition(":")
        # Some tools append further fields behind the hash.
        stored = stored.strip() if stored.startswith("{") else stored.partition(":")[0].strip()
        mistake = hash_mistake(stored)
        if not colon:
            mistake = "there is no colon between name and hash"
        elif not user:
            mistake = "there is no name before the colon"
        elif user in seen:
            mistake = "the name stands further up already, and the first one counts"
        seen.add(user)
        yield Line(number, user, stored, mistake)


def import_users(
    gateway: Client, lines: Iterator[Line], session: dict[str, Any], *, replace: bool, dry_run: bool
) -> list[Imported]:
    """Make each user over the control API; a line that is refused does not stop the others."""
    done = []
    for line in lines:
        refused = line.mistake
        if not refused and not replace and is_there(gateway, line.user, session.get("org_id")):
            refused = "is there already; --replace overwrites password and rights"
        if not refused and not dry_run:
            body = {**session, "basic_auth_data": {"password": line.hash}}
            try:
                gateway.ask("POST", path_to("keys", line.user) + "?password_hash=1", body)
            except Refused as no:
                if no.status != 400:
                    raise
                refused = "; ".join(line.strip() for line in said(no.status, no.body))
        done.append(Imported(line.number, line.user, refused))
    return done


def summary(done: list[Imported], *, dry_run: bool) -> str:
    """One line about all of them."""
    refused = sum(1 for one in done if one.refused)
    verb = "could be imported" if dry_run else "imported"
    return f"{counted(len(done) - refused, 'user')} {verb}, {counted(refused, 'line')} refused"


def is_there(gateway: Client, name: str, org: str | None) -> bool:
    """Whether there is a key or user of that name."""
    try:
        gateway.get(path_to("keys", name), {"org_id": org})
    except Refused as refused:
        if refused.status != 404:
            raise
        return False
    return True
