"""Organisations and dashboard users: made, changed, shown, deleted.

They are records like keys, in organisations of the gateway's own that no caller can name. A user's record is called by
the hash of its access key, so that a call finds its user in one read and the key itself is nowhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from aiogate.config.definition import DEFAULT_ORGANISATION
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.locks import Locks
from aiogate.domain.account import org_mistake, stored_name
from aiogate.domain.session import DocumentError, Record
from aiogate.domain.user import (
    FIRST_USER,
    KNOWN_ORGANISATIONS,
    USERS,
    OrganisationDetails,
    User,
    UserDetails,
    covers,
)
from aiogate.errors import Rejected

__all__ = ["Accounts", "Caller"]

_AT_A_TIME: Final = 500
_NO_USER: Final = "Could not retrieve user detail."
_NO_ORG: Final = "Organisation not found"
_INVALID_USER: Final = "User object validation failed."
_INVALID_ORG: Final = "Organisation object validation failed."
_FIRST: Final = User(id=FIRST_USER, org_id=DEFAULT_ORGANISATION, first_name="First", last_name="User",
                     email_address="admin@localhost.localdomain")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls the Dashboard API. `org` is the only organisation that this user sees and writes."""

    org: str
    id: str = FIRST_USER
    permissions: Mapping[str, str] = field(default_factory=dict)


class Accounts:
    """All operations on organisations and dashboard users of one gateway."""

    __slots__ = ("_gateway", "_locks")

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway
        self._locks = Locks()

    # Users

    async def caller(self, access_key: str) -> Caller | None:
        """The user of an access key; None: nobody's, or that of one who is not active."""
        first = self._gateway.dashboard.find(access_key)
        if first is not None:
            return Caller(first.org)
        record = await self._gateway.store.sessions.get(stored_name(USERS, access_key))
        if record is None or record.org != USERS:
            return None
        user = _user(record)
        return Caller(user.org_id, user.id, user.user_permissions) if user.active else None

    async def users(self, org: str | None) -> Sequence[User]:
        """Users of an organisation, or of all, by e-mail address."""
        users = [_user(record) for record in await self._records(USERS)]
        return sorted(
            (user for user in (_FIRST, *users) if org in (None, user.org_id)), key=lambda user: user.email_address
        )

    async def user(self, identifier: str, org: str) -> User:
        if identifier == FIRST_USER and org == DEFAULT_ORGANISATION:
            return _FIRST
        return (await self._found(identifier, org))[1]

    async def make_user(self, body: Mapping[str, Any], caller: Caller | None) -> tuple[User, str]:
        """A new user and its access key, which is told only here. `caller` None: the operator, for any organisation."""
        details = _details(UserDetails, body, _INVALID_USER)
        org = caller.org if caller is not None else details.org_id
        mistake = org_mistake(org)
        if mistake:
            raise Rejected(400, _INVALID_USER, [f"org_id: {mistake}"])
        _must_cover(caller, details)
        async with self._locks.hold("users"):
            await self._must_be_free(details.email_address, org)
            created = datetime.fromtimestamp(self._gateway.clock.now(), UTC).isoformat(timespec="seconds")
            password = await self._hashed(details.password)
            user = User(**{**details.model_dump(), "org_id": org, "password": password},
                        id=secrets.token_hex(12), created_at=created)  # fmt: skip
            return user, await self._put_under_new_key(user)

    async def change_user(self, identifier: str, body: Mapping[str, Any], caller: Caller) -> User:
        """Replace the details of a user; an omitted password stays, and so does the access key."""
        details = _details(UserDetails, body, _INVALID_USER)
        async with self._locks.hold("users"):
            record, user = await self._changeable(identifier, caller)
            _must_cover(caller, details)
            if details.email_address.casefold() != user.email_address.casefold():
                await self._must_be_free(details.email_address, user.org_id)
            password = await self._hashed(details.password) or user.password
            changed = User(**{**details.model_dump(), "org_id": user.org_id, "password": password},
                           id=user.id, created_at=user.created_at)  # fmt: skip
            await self._gateway.store.sessions.put(replace(record, document=changed.stored()))
        return changed

    async def delete_user(self, identifier: str, caller: Caller) -> None:
        """Forget a user; its access key is worth nothing at once."""
        async with self._locks.hold("users"):
            record, _ = await self._changeable(identifier, caller)
            await self._gateway.store.sessions.delete(record.name_hash)

    async def renew_key(self, identifier: str, caller: Caller) -> str:
        """Another access key for a user, told only here; the one before is worth nothing at once."""
        async with self._locks.hold("users"):
            record, user = await self._changeable(identifier, caller)
            key = await self._put_under_new_key(user)
            await self._gateway.store.sessions.delete(record.name_hash)
        return key

    async def set_password(self, identifier: str, password: str, current: str, caller: Caller) -> None:
        """Another password for a user. `current`, where it is given, must be the one that is stored."""
        async with self._locks.hold("users"):
            record, user = await self._changeable(identifier, caller)
            if not password:
                raise Rejected(400, _INVALID_USER, ["new_password: is missing"])
            if current and not await self._gateway.passwords.verify(record.name_hash, user.password, current):
                raise Rejected(403, "The current password is wrong")
            changed = user.model_copy(update={"password": await self._hashed(password)})
            await self._gateway.store.sessions.put(replace(record, document=changed.stored()))
            self._gateway.passwords.forget(record.name_hash)

    async def _put_under_new_key(self, user: User) -> str:
        key = secrets.token_hex(16)
        record = Record(stored_name(USERS, key), USERS, "key", user.id, user.stored())
        await self._gateway.store.sessions.put(record)
        return key

    async def _found(self, identifier: str, org: str) -> tuple[Record, User]:
        records = await self._gateway.store.sessions.page(org=USERS, prefix=identifier, limit=2)
        for record in records:
            user = _user(record)
            if record.label == identifier and user.org_id == org:
                return record, user
        raise Rejected(404, _NO_USER)

    async def _changeable(self, identifier: str, caller: Caller) -> tuple[Record, User]:
        if identifier == FIRST_USER and caller.org == DEFAULT_ORGANISATION:
            raise Rejected(409, "The first user is kept in a file", ["its access key stands in <state>/dashboard.key"])
        record, user = await self._found(identifier, caller.org)
        if not covers(caller.permissions, user.user_permissions):
            raise Rejected(403, "access denied: this user has more permissions than you have")
        return record, user

    async def _must_be_free(self, email: str, org: str) -> None:
        if any(user.email_address.casefold() == email.casefold() for user in await self.users(org)):
            raise Rejected(403, "User email already exists for this org.")

    async def _hashed(self, password: str) -> str:
        try:
            return await self._gateway.passwords.hash(password) if password else ""
        except ValueError as mistake:
            raise Rejected(400, _INVALID_USER, [f"password: {mistake}"]) from None

    # Organisations

    async def organisations(self) -> Sequence[Mapping[str, Any]]:
        """Organisations that were made, and the one that is always there, by id."""
        made = {record.label: _details_of(record) for record in await self._records(KNOWN_ORGANISATIONS)}
        made.setdefault(DEFAULT_ORGANISATION, OrganisationDetails(id=DEFAULT_ORGANISATION, owner_name="default"))
        return [self._shown(made[org]) for org in sorted(made)]

    async def organisation(self, org: str) -> Mapping[str, Any]:
        found = await self._gateway.store.sessions.get(stored_name(KNOWN_ORGANISATIONS, org))
        if found is not None:
            return self._shown(_details_of(found))
        if org != DEFAULT_ORGANISATION:
            raise Rejected(404, _NO_ORG)
        return self._shown(OrganisationDetails(id=org, owner_name="default"))

    async def make_organisation(self, body: Mapping[str, Any]) -> str:
        """A new organisation; its id is made where none is given."""
        details = _details(OrganisationDetails, body, _INVALID_ORG)
        if not details.owner_name:
            raise Rejected(400, _INVALID_ORG, ["owner_name: is missing"])
        org = details.id or secrets.token_hex(12)
        async with self._locks.hold("organisations"):
            if org == DEFAULT_ORGANISATION or await self._gateway.store.sessions.get(
                stored_name(KNOWN_ORGANISATIONS, org)
            ):
                raise Rejected(409, "An organisation with this id exists")
            await self._put_organisation(org, details)
        return str(org)

    async def change_organisation(self, org: str, body: Mapping[str, Any]) -> None:
        """Replace the details of an organisation."""
        details = _details(OrganisationDetails, body, _INVALID_ORG)
        if details.id and details.id != org:
            raise Rejected(400, _INVALID_ORG, ["id: is another than that in the path"])
        async with self._locks.hold("organisations"):
            await self.organisation(org)
            await self._put_organisation(org, details)

    async def delete_organisation(self, org: str) -> None:
        """Forget an organisation that nothing belongs to any more."""
        async with self._locks.hold("organisations"):
            await self.organisation(org)
            if org == DEFAULT_ORGANISATION:
                raise Rejected(409, "The default organisation is always there")
            using = [f"API {one['api_id']}" for one in self._apis(org)]
            policies = self._gateway.current.table.policies
            using += [f"policy {policy.id}" for policy in policies if policy.org == org]
            using += [f"user {user.id}" for user in await self.users(org)]
            if keys := await self._gateway.sessions.count(org=org):
                using.append("1 key" if keys == 1 else f"{keys} keys and users of APIs")
            if using:
                raise Rejected(409, f"Organisation {org} is in use", using)
            await self._gateway.store.sessions.delete(stored_name(KNOWN_ORGANISATIONS, org))

    async def _put_organisation(self, org: str, details: OrganisationDetails) -> None:
        document = details.model_copy(update={"id": org}).model_dump_json().encode()
        record = Record(stored_name(KNOWN_ORGANISATIONS, org), KNOWN_ORGANISATIONS, "key", org, document)
        await self._gateway.store.sessions.put(record)

    def _shown(self, details: OrganisationDetails) -> Mapping[str, Any]:
        return {**details.model_dump(), "apis": self._apis(details.id)}

    def _apis(self, org: str) -> list[dict[str, str]]:
        served = self._gateway.current.table.apis.values()
        definitions = (api.definition for api in served)
        return [
            {"api_human_name": definition.name, "api_id": definition.id}
            for definition in definitions
            if definition.org == org
        ]

    async def _records(self, org: str) -> Sequence[Record]:
        records: list[Record] = []
        after = ""
        while True:
            page = await self._gateway.store.sessions.page(org=org, after=after, limit=_AT_A_TIME)
            records.extend(page)
            if len(page) < _AT_A_TIME:
                return records
            after = page[-1].name_hash


def _details(model: Any, body: Mapping[str, Any], refusal: str) -> Any:
    try:
        return model.of(body)
    except DocumentError as wrong:
        raise Rejected(400, refusal, wrong.problems) from None


def _user(record: Record) -> User:
    return User.model_validate_json(record.document)


def _details_of(record: Record) -> OrganisationDetails:
    return OrganisationDetails.model_validate_json(record.document)


def _must_cover(caller: Caller | None, details: UserDetails) -> None:
    if caller is not None and not covers(caller.permissions, details.user_permissions):
        raise Rejected(403, "access denied: you cannot give permissions that you do not have")
