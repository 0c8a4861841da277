"""The hashes of passwords that are made and verified here: bcrypt, and Argon2id with the extra `argon2`.

A stored hash says by its prefix what it is. Whatever cannot be verified does not match; why it cannot is told to the
operator. The functions that hash take long: in a gateway they run in processes of their own (`hasher`).
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Final, Literal

__all__ = ["COSTS", "Algorithm", "argon2_is_installed", "hash_mistake", "hashed", "kind_of_hash", "matches", "mistake"]

Algorithm = Literal["bcrypt", "argon2id"]

COSTS: Final = range(4, 18)
"""bcrypt's, of stored hashes; each step doubles the time."""
_LONGEST: Final = {"bcrypt": 72, "argon2id": 1024}
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_ARGON2ID: Final = re.compile(
    r"\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d{1,2})\$[A-Za-z0-9+/]{11,64}\$[A-Za-z0-9+/]{22,86}", re.ASCII
)
_MEMORY: Final = range(8, 262_145)
_TIME: Final = range(1, 17)
_LANES: Final = range(1, 17)
_NEW_MEMORY: Final = 19_456
_NEW_TIME: Final = 2
_OTHER_KINDS: Final = (
    ("$apr1$", "Apache's MD5"),
    ("$1$", "crypt's MD5"),
    ("{SHA}", "unsalted SHA-1"),
    ("{SSHA}", "salted SHA-1"),
    ("$5$", "crypt's SHA-256"),
    ("$6$", "crypt's SHA-512"),
    ("$y$", "yescrypt"),
    ("$2x$", "a broken bcrypt"),
    ("$argon2i$", "Argon2i"),
    ("$argon2d$", "Argon2d"),
)


def argon2_is_installed() -> bool:
    """Whether the extra `argon2` is there."""
    return find_spec("argon2") is not None


def kind_of_hash(stored: str) -> Algorithm | None:
    """What can verify this hash; None: nothing here."""
    found = _BCRYPT.fullmatch(stored)
    if found is not None:
        return "bcrypt" if int(found[1]) in COSTS else None
    found = _ARGON2ID.fullmatch(stored)
    if found is None or int(found[1]) not in _MEMORY or int(found[2]) not in _TIME or int(found[3]) not in _LANES:
        return None
    return "argon2id" if argon2_is_installed() else None


def hash_mistake(stored: str) -> str:
    """Why a hash cannot be verified here; empty when it can. The hash is not repeated."""
    if kind_of_hash(stored) is not None:
        return ""
    if stored.startswith("$argon2id$") and not argon2_is_installed():
        return "an Argon2id hash, which needs the extra `argon2`: pip install 'aiogate[argon2]'"
    if stored.startswith(("$2a$", "$2b$", "$2y$")):
        return f"a bcrypt hash that is damaged, or of a cost that is not {COSTS.start} to {COSTS.stop - 1}"
    if stored.startswith("$argon2id$"):
        return "an Argon2id hash that is damaged, of another version than 19, or of parameters out of bounds"
    for prefix, kind in _OTHER_KINDS:
        if stored.startswith(prefix):
            return f"{kind}, which is not accepted; make it anew as bcrypt or Argon2id"
    return "neither a bcrypt hash nor an Argon2id one; a plain password or crypt's DES is not accepted"


def mistake(password: bytes, algorithm: Algorithm) -> str:
    """Why a password cannot be hashed; empty when it can."""
    longest = _LONGEST[algorithm]
    if not password:
        return "the password is empty"
    if len(password) > longest:
        return f"the password has {len(password)} bytes, {algorithm} takes at most {longest}"
    if b"\0" in password:
        return "the password holds a NUL"
    return ""


def hashed(password: bytes, algorithm: Algorithm, cost: int) -> str:
    """The hash of a new password. `cost` is bcrypt's. Argon2id takes 19 MiB and two passes, as OWASP advises."""
    if algorithm == "bcrypt":
        import bcrypt

        return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode("ascii")
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=_NEW_TIME, memory_cost=_NEW_MEMORY, parallelism=1).hash(password)


def matches(password: bytes, stored: str, algorithm: Algorithm) -> bool:
    """Whether a password has this hash, of which `algorithm` is the kind."""
    if algorithm == "bcrypt":
        import bcrypt

        return bcrypt.checkpw(password, stored.encode("ascii"))
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return PasswordHasher().verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


def of_nothing(algorithm: Algorithm, cost: int) -> str:
    """A well-formed hash that costs as much to compare with as a new one, and that nothing known has."""
    if algorithm == "bcrypt":
        return f"$2b${cost:02d}$" + "." * 22 + "/" * 31
    return f"$argon2id$v=19$m={_NEW_MEMORY},t={_NEW_TIME},p=1${'A' * 22}${'A' * 43}"
