"""People and organisations of the Dashboard API: what is kept of them, and what a user may do.

An access key is kept as the name of its user's record, which is a hash; a password as bcrypt. Unknown fields of what
callers send are left out silently, as with sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aiogate.domain.account import org_mistake
from aiogate.domain.session import DocumentError

__all__ = ["FIRST_USER", "KNOWN_ORGANISATIONS", "USERS", "OrganisationDetails", "User", "UserDetails", "covers", "may"]

USERS: Final = " dashboard users"
"""Where the records of users are kept. No caller's organisation begins with a blank."""
KNOWN_ORGANISATIONS: Final = " organisations"
"""Where the records of organisations are kept."""
FIRST_USER: Final = "admin"
"""The id of the user whose access key is made at the first start and kept in a file."""
_LONGEST: Final = 256
_RANKS: Final = {"deny": 0, "read": 1, "write": 2, "admin": 2}
Permissions = Mapping[str, str]


class _Details(BaseModel):
    """What a caller may say; null means absent."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _present(cls, value: Any) -> Any:
        return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Any:
        """The details that a body has. Raises `DocumentError` with every mistake."""
        try:
            return cls.model_validate(dict(body))
        except ValidationError as invalid:
            raise DocumentError(*_problems(invalid)) from invalid


class UserDetails(_Details):
    """A dashboard user as callers write one. `org_id` counts under `/admin` only."""

    first_name: str = Field(default="", max_length=_LONGEST)
    last_name: str = Field(default="", max_length=_LONGEST)
    email_address: str = Field(min_length=3, max_length=_LONGEST)
    active: bool = True
    org_id: str = ""
    user_permissions: dict[str, Literal["read", "write", "deny", "admin"]] = Field(default_factory=dict, max_length=64)
    password: str = Field(default="", repr=False)

    @field_validator("email_address")
    @classmethod
    def _an_address(cls, value: str) -> str:
        name, at, host = value.strip().rpartition("@")
        if not (name and at and host) or any(char.isspace() for char in value.strip()):
            raise ValueError("is not an e-mail address")
        return value.strip()


class User(UserDetails):
    """A dashboard user as it is kept. `password` is a bcrypt hash, or empty for none."""

    id: str
    created_at: str = ""

    def shown(self) -> dict[str, Any]:
        """For replies: without the password's hash, and without the access key, which nobody knows any more."""
        return {"api_model": {}, **self.model_dump(exclude={"password"}), "password_set": bool(self.password)}

    def stored(self) -> bytes:
        return orjson.dumps(self.model_dump())


class OrganisationDetails(_Details):
    """An organisation as callers write one."""

    owner_name: str = Field(default="", max_length=_LONGEST)
    owner_slug: str = Field(default="", max_length=_LONGEST)
    cname: str = Field(default="", max_length=_LONGEST)
    cname_enabled: bool = False
    id: str = ""

    @field_validator("id")
    @classmethod
    def _an_id(cls, value: str) -> str:
        mistake = org_mistake(value) if value else ""
        if mistake:
            raise ValueError(mistake)
        return value


def may(permissions: Permissions, section: str, *, write: bool) -> bool:
    """Whether these permissions open a section of the Dashboard API; none at all open everything of an organisation."""
    if not permissions or permissions.get("IsAdmin") == "admin":
        return True
    return _RANKS[permissions.get(section, "deny")] >= (2 if write else 1)


def covers(permissions: Permissions, others: Permissions) -> bool:
    """Whether whoever has these permissions may give the others to somebody: nobody gives more than they have."""
    if not permissions or permissions.get("IsAdmin") == "admin":
        return True
    if not others or others.get("IsAdmin") == "admin":
        return False
    return all(_RANKS[permissions.get(section, "deny")] >= _RANKS[level] for section, level in others.items())


def _problems(invalid: ValidationError) -> list[str]:
    return [
        f"{'.'.join(str(step) for step in error['loc']) or 'the body'}: {error['msg'].removeprefix('Value error, ')}"
        for error in invalid.errors(include_url=False, include_context=False, include_input=False)
    ]
