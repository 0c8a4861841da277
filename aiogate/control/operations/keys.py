"""Keys and basic-auth users: made, changed, shown, listed, revoked.

A key and a user are the same thing here as in Tyk: a session under a name. Callers may say the user name, organisation
and user name, the full key, or the stored name (a hash); all of them lead to one record. Every change reads, decides
and writes while nobody else writes the same record, and holds at once: the directory drops what it cached.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aiogate.config.definition import DEFAULT_ORGANISATION
from aiogate.control.operations.classic import shown_meta
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.locks import Locks
from aiogate.control.operations.names import Name, find, new_name, public_name, spelled
from aiogate.credentials.certificates import fingerprint_of
from aiogate.domain.account import (
    counter_keys,
    generate_hmac_string,
    generate_key,
    kind_of,
    name_mistake,
    needs_hmac_string,
    org_mistake,
    stored_name,
    without_org,
)
from aiogate.domain.policy import PolicyProblem, PolicySet, as_written, effective_document, lay_over, merge
from aiogate.domain.session import (
    Record,
    Session,
    SessionDocument,
    granted_apis,
    parse_stored,
    storage_deadline,
)
from aiogate.errors import Rejected
from aiogate.telemetry.events import Event

__all__ = ["Keys", "Listing", "Shown", "WriteOptions", "Written"]

_AT_A_TIME: Final = 500
"""Records fetched in one step of a listing."""

_NO_RIGHTS_CREATE: Final = "Failed to create key, keys must have at least one Access Rights record set."
_NO_RIGHTS_NAMED: Final = "Failed to create key, ensure security settings are correct."
_FAILED: Final = "Failed to create key"


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """`reset`: start all counters anew. `keep`: leave them alone even when the write changes a limit. `hashed`: the
    password is a hash that was made elsewhere.
    """

    reset: bool = False
    keep: bool = False
    hashed: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did. `key` is what the record may be called by from now on; a generated key is told only here."""

    key: str
    record: Record
    warnings: tuple[str, ...] = ()
    hmac_string: str = ""
    """A secret for signing requests that was generated for this record; told only here."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A record as it is shown: `data` is the session's JSON without secrets."""

    record: Record
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """See `public_name`."""
        return public_name(self.record)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of records; `pages` is 0 when everything was asked for."""

    records: Sequence[Record]
    pages: int


class Keys:
    """All operations on keys and users of one gateway."""

    __slots__ = ("_gateway", "_locks")

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway
        self._locks = Locks()

    async def create(self, document: SessionDocument, options: WriteOptions = WriteOptions()) -> Written:
        """A new key with a random name."""
        if document.basic_auth_data.password:
            where = "POST it to /tyk/keys/{name}, /api/keys/{username} or /api/apis/keys/basic/{username}"
            raise Rejected(400, f"{_FAILED} - a basic-auth user needs a name", [where])
        org = self._org_of(document)
        if document.certificate:
            return await self._create_by_certificate(document, options, org)
        key = generate_key(org)
        self._must_grant(document, org, _NO_RIGHTS_CREATE)
        return await self._write(document, None, options, key, org, stored_name(org, key))

    async def _create_by_certificate(self, document: SessionDocument, options: WriteOptions, org: str) -> Written:
        """A session that the owner of a certificate uses. Its name is the fingerprint, its id as in Tyk."""
        document, fingerprint = self._certified(document, org)
        self._must_grant(document, org, _NO_RIGHTS_CREATE)
        name_hash = stored_name(org, fingerprint)
        async with self._locks.hold(name_hash):
            if await self._gateway.sessions.get_record(name_hash) is not None:
                raise Rejected(400, f"{_FAILED} - Key with given certificate already found:{org}{fingerprint}")
            return await self._write(document, None, options, org + fingerprint, org, name_hash)

    def _certified(self, document: SessionDocument, org: str) -> tuple[SessionDocument, str]:
        """The document with its certificate in the one spelling, and the fingerprint.

        An id must be that of a stored certificate; a bare fingerprint stands for itself.
        """
        text = document.certificate.strip()
        if fingerprint := fingerprint_of(text):
            return document.changed(certificate=fingerprint), fingerprint
        fingerprint = fingerprint_of(text[-64:])
        if not fingerprint or text[:-64] != org:
            details = [f"an id is the organisation, here {org!r}, and the SHA-256 of the certificate in hex"]
            raise Rejected(400, f"invalid certificate ID: {text}", details)
        identifier = org + fingerprint
        if not self._gateway.certificates.holds(identifier):
            raise Rejected(400, f"certificate not found: {text}", ["store it with POST /tyk/certs"])
        return document.changed(certificate=identifier), fingerprint

    async def put(self, name: Name, document: SessionDocument, options: WriteOptions = WriteOptions()) -> Written:
        """A key or user under a chosen name, made or overwritten. With a password it is a basic-auth user."""
        known = await find(self._gateway.sessions, replace(name, org=name.org or document.org_id or None))
        if known is None and name.hashed:
            raise Rejected(404, "Key is not found")
        org = known.org if known is not None else self._org_of(document)
        self._must_grant(document, org, _NO_RIGHTS_NAMED)
        kind = kind_of(document)
        if kind == "certificate":
            document, fingerprint = self._certified(document, org)
            if known is None or known.name_hash != stored_name(org, fingerprint):
                details = ["POST it to /tyk/keys, or use the name that this gave"]
                raise Rejected(400, f"{_FAILED} - a session by certificate is named by its certificate", details)
        text = new_name(org, name.text, kind) if known is None else spelled(known, name.text)
        mistake = name_mistake(text, kind) if known is None or known.kind != kind else ""
        if mistake:
            raise Rejected(400, f"{_FAILED} - {mistake}")
        name_hash = stored_name(org, text) if known is None else known.name_hash
        async with self._locks.hold(name_hash):
            existing = await self._gateway.sessions.get_record(name_hash)
            if existing is not None and existing.kind == "basic" and kind != "basic":
                details = ["send basic_auth_data.password, or use PUT, which keeps the password that is stored"]
                raise Rejected(
                    400, f"{_FAILED} - {existing.label!r} is a basic-auth user and needs a password", details
                )
            return await self._write(document, existing, options, text, org, name_hash)

    async def replace(self, name: Name, document: SessionDocument, options: WriteOptions = WriteOptions()) -> Written:
        """Replace the session of a record that exists; its kind, its creation date and an omitted password stay."""
        known = await self._known(replace(name, org=name.org or document.org_id or None), "Key is not found")
        self._must_grant(document, known.org, _NO_RIGHTS_NAMED)
        async with self._locks.hold(known.name_hash):
            existing = await self._gateway.sessions.get_record(known.name_hash)
            if existing is None:
                raise Rejected(404, "Key is not found")
            merged = document.keeping(parse_stored(existing.document))
            kind = kind_of(merged)
            if kind == existing.kind == "certificate":
                merged, fingerprint = self._certified(merged, existing.org)
                if stored_name(existing.org, fingerprint) != existing.name_hash:
                    raise Rejected(400, f"{_FAILED} - PUT does not change the certificate of a key")
            if kind != existing.kind:
                details = [f"a {existing.kind} record cannot become a {kind} record; make a new one under another name"]
                raise Rejected(400, f"{_FAILED} - PUT does not change the kind of a key", details)
            return await self._write(merged, existing, options, public_name(existing), existing.org, existing.name_hash)

    async def set_policies(self, name: Name, policy: str, policies: Sequence[str]) -> Written:
        """Give a record other policies; everything else stays."""
        known = await self._known(name, "Key not found")
        async with self._locks.hold(known.name_hash):
            existing = await self._gateway.sessions.get_record(known.name_hash)
            if existing is None:
                raise Rejected(404, "Key not found")
            named = tuple(policies) or ((policy,) if policy else ())
            document = parse_stored(existing.document).changed(
                apply_policies=named, apply_policy_id=named[0] if named else ""
            )
            self._must_grant(document, existing.org, _NO_RIGHTS_NAMED)
            name_shown = public_name(existing)
            return await self._write(document, existing, WriteOptions(), name_shown, existing.org, existing.name_hash)

    async def delete(self, name: Name, refusal: str = "There is no such key found") -> Record:
        """Revoke a key or user, its counters with it."""
        known = await self._known(name, refusal)
        async with self._locks.hold(known.name_hash):
            if not await self._gateway.sessions.delete(known.name_hash):
                raise Rejected(404, refusal)
            await self._gateway.store.counters.reset(_counters(self._session(known)))
        self._publish("TokenDeleted", known)
        return known

    async def reset_counters(self, name: Name) -> Record:
        """Start the rate and quota counters of a record anew."""
        known = await self._known(name, "Key not found")
        await self._gateway.store.counters.reset(_counters(self._session(known)))
        return known

    async def show(self, name: Name, *, raw: bool = False, refusal: str = "Key not found") -> Shown:
        """The effective session of a record: policies laid over it, counters read. `raw`: as it is stored."""
        return await self.view(await self._known(name, refusal), raw=raw)

    async def view(self, record: Record, *, raw: bool = False) -> Shown:
        """A record as it is shown."""
        document = parse_stored(record.document)
        session = self._session(record)
        if not raw:
            document = effective_document(document, self._policies)
        data = document.as_json()
        if not raw:
            self._unresolve(data, document)
            await self._fill_quotas(data, session)
        return Shown(record, data)

    def _unresolve(self, data: dict[str, Any], document: SessionDocument) -> None:
        """Show what policies brought as it is written in their files: a variable's value is in no reply."""
        for policy in map(self._policies.get, document.policy_ids):
            if policy is not None:
                meta = shown_meta(policy)
                data["meta_data"].update({key: meta[key] for key in policy.meta if key in meta})
                tags = dict(zip(policy.tags, policy.written.get("tags") or policy.tags, strict=False))
                data["tags"] = [tags.get(tag, tag) for tag in data["tags"]]

    def preview(self, document: SessionDocument) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The effective session of a document that is not stored, and what would stand in the way of storing it."""
        org = self._org_of(document)
        stamped = as_written(document.changed(org_id=org), None, self._policies, self._gateway.clock.now())
        effective = merge(stamped, org, self._policies)
        if isinstance(effective, PolicyProblem):
            return stamped.as_json(), (effective.reason,)
        data = effective.as_json()
        self._unresolve(data, effective)
        return data, self._warnings(effective, org)

    async def listing(
        self, *, org: str | None = None, api: str = "", prefix: str = "", page: int, size: int
    ) -> Listing:
        """Records in the order of their stored names. `api`: that grant this API, directly or by a policy.

        `prefix`: whose label begins so. `page` counts from 1; 0: everything.
        """
        if page < 1:
            return Listing([record async for record in self._records(org, api, prefix)], 0)
        # What the store can count by itself is not read to its end.
        total = (
            None if self._granting(api) else await self._gateway.sessions.count(org=org, api=api or None, prefix=prefix)
        )
        first = (page - 1) * size
        found: list[Record] = []
        seen = 0
        async for record in self._records(org, api, prefix):
            if first <= seen < first + size:
                found.append(record)
            seen += 1
            if total is not None and seen >= first + size:
                break
        return Listing(found, -(-(seen if total is None else total) // size))

    async def filtered(self, text: str, *, org: str | None = None, api: str = "") -> Sequence[Record]:
        """Records by Tyk's `filter`: an organisation, organisation and the beginning of a label, or that beginning."""
        sessions = self._gateway.sessions
        organisations = [org] if org is not None else list(await sessions.organisations())
        if not text:
            chosen = [(known, "") for known in organisations]
        elif text in organisations:
            chosen = [(text, "")]
        else:
            chosen = [(known, without_org(known, text)) for known in organisations]
        found = [record for known, prefix in chosen async for record in self._records(known, api, prefix)]
        return sorted(found, key=lambda record: record.name_hash)

    async def _records(self, org: str | None, api: str, prefix: str) -> AsyncIterator[Record]:
        # A store does not know what a policy grants: when one grants `api`, every record is looked at.
        granting = self._granting(api)
        in_store = api if api and not granting else None
        after = ""
        while True:
            records = await self._gateway.sessions.page(
                org=org, api=in_store, prefix=prefix, after=after, limit=_AT_A_TIME
            )
            for record in records:
                if not api or in_store or _grants(record, api, granting):
                    yield record
            if len(records) < _AT_A_TIME:
                return
            after = records[-1].name_hash

    @property
    def _policies(self) -> PolicySet:
        return self._gateway.current.table.policies

    def _org_of(self, document: SessionDocument) -> str:
        """The organisation of a new record: as it says, or that of the APIs and policies that it names."""
        org = document.org_id
        if not org:
            served = self._gateway.current.table.apis
            orgs = {served[api].definition.org for api in document.access_rights if api in served}
            orgs.update(policy.org for policy in map(self._policies.get, document.policy_ids) if policy is not None)
            if len(orgs) > 1:
                named = ", ".join(sorted(orgs))
                raise Rejected(
                    400, f"{_FAILED} - org_id is missing", [f"what the key names belongs to several: {named}"]
                )
            org = next(iter(orgs), DEFAULT_ORGANISATION)
        mistake = org_mistake(org)
        if mistake:
            raise Rejected(400, f"{_FAILED} - {mistake}")
        return org

    def _must_grant(self, document: SessionDocument, org: str, no_rights: str) -> None:
        """Refuse a document that could not be used: unknown policies, each one named, or no access rights at all."""
        missing = self._policies.missing(document.policy_ids)
        if missing:
            named = ", ".join(f'"{policy}"' for policy in missing)
            details = [f'policy "{policy}" does not exist' for policy in missing]
            raise Rejected(400, f"{_FAILED} - policy not found: {named}", details)
        if not document.access_rights and not document.policy_ids:
            details = ["give it access_rights, or a policy that grants some"]
            raise Rejected(400, no_rights, details)
        effective = merge(document, org, self._policies)
        if isinstance(effective, PolicyProblem):
            grants_nothing = not any(
                policy is not None and policy.access for policy in map(self._policies.get, document.policy_ids)
            )
            message = no_rights if grants_nothing else f"{_FAILED} - {effective.reason}"
            raise Rejected(400, message, [effective.reason])
        if not effective.access_rights:
            raise Rejected(400, no_rights)

    async def _write(
        self,
        document: SessionDocument,
        existing: Record | None,
        options: WriteOptions,
        name: str,
        org: str,
        name_hash: str,
    ) -> Written:
        """Hash the password, set what a write sets, store, and start anew the counters whose limit changed."""
        now = self._gateway.clock.now()
        stored = parse_stored(existing.document) if existing is not None else None
        kind = kind_of(document)
        document = await self._with_hash(document, stored, hashed=options.hashed)
        generated = generate_hmac_string() if needs_hmac_string(document) else ""
        if generated:
            document = document.changed(hmac_string=generated)
        document = as_written(document.changed(org_id=org), stored, self._policies, now)
        if options.keep and stored is not None:
            document = document.changed(quota_renews=stored.quota_renews, last_updated=stored.last_updated)
        record = Record(
            name_hash=name_hash,
            org=org,
            kind=kind,
            label=name if kind == "basic" else document.alias,
            document=document.stored(),
            revision=existing.revision + 1 if existing is not None else 1,
            delete_at=storage_deadline(document, now),
        )
        before = self._session(existing) if existing is not None else None
        await self._gateway.sessions.put(record)
        await self._gateway.store.counters.reset(_to_reset(before, self._session(record), options))
        self._publish("TokenCreated" if existing is None else "TokenUpdated", record)
        told = name if existing is None else public_name(record)
        warnings = self._warnings(effective_document(document, self._policies), org)
        return Written(told, record, warnings, generated)

    async def _with_hash(
        self, document: SessionDocument, stored: SessionDocument | None, *, hashed: bool
    ) -> SessionDocument:
        password = document.basic_auth_data.password
        if hashed:
            unusable = self._gateway.passwords.unusable(password)
            if unusable:
                raise Rejected(400, f"{_FAILED} - the password's hash cannot be used", [f"it is {unusable}"])
            return document.with_password(password)
        if not password or (stored is not None and password == stored.basic_auth_data.password):
            return document
        try:
            return document.with_password(await self._gateway.passwords.hash(password))
        except ValueError as mistake:
            raise Rejected(400, f"{_FAILED} - the password cannot be used", [str(mistake)]) from None

    def _warnings(self, document: SessionDocument, org: str) -> tuple[str, ...]:
        """What is stored as it was sent, but cannot be used now."""
        served = self._gateway.current.table.apis
        warnings = []
        for api in document.access_rights:
            if api not in served:
                warnings.append(f'API "{api}" is not loaded')
            elif served[api].definition.org != org:
                owner = served[api].definition.org
                warnings.append(f'API "{api}" belongs to organisation "{owner}", this key to "{org}"')
        return tuple(warnings)

    def _session(self, record: Record) -> Session | None:
        """The effective session of a record; None when its policies do not let it be used."""
        session = lay_over(parse_stored(record.document), record, self._policies)
        return None if isinstance(session, PolicyProblem) else session

    def _publish(self, name: str, record: Record) -> None:
        details = {"kind": record.kind, "label": record.label}
        now = self._gateway.clock.now()
        self._gateway.events.publish(Event(name, now, org=record.org, session=record.name_hash, details=details))

    async def _known(self, name: Name, refusal: str) -> Record:
        record = await find(self._gateway.sessions, name)
        if record is None:
            raise Rejected(404, refusal)
        if name.api and not _grants(record, name.api, self._granting(name.api)):
            raise Rejected(404, refusal)
        return record

    def _granting(self, api: str) -> frozenset[str]:
        return frozenset(policy.id for policy in self._policies if api in policy.access and policy.controls("access"))

    async def _fill_quotas(self, data: dict[str, Any], session: Session | None) -> None:
        """`quota_remaining` and `quota_renews` from the live counters, of the session and of each API's own limit."""
        now = self._gateway.clock.now()
        quotas = {
            api: grant.buckets[grant.quota]
            for api, grant in (session.grants.items() if session is not None else ())
            if grant.quota >= 0
        }
        keys = list(dict.fromkeys(bucket.key for bucket in quotas.values()))
        counters = dict(zip(keys, await self._gateway.store.counters.read(keys, now), strict=True)) if keys else {}

        def fill(limit: dict[str, Any], key: str | None) -> None:
            counter = counters.get(key) if key is not None and limit["quota_max"] > 0 else None
            limit["quota_remaining"] = limit["quota_max"]
            if counter is not None:
                limit["quota_remaining"] = max(0, limit["quota_max"] - counter.count)
            if counter is not None and counter.ends:
                limit["quota_renews"] = int(counter.ends)
            elif limit["quota_renewal_rate"] > 0 and limit["quota_renews"] <= now:
                limit["quota_renews"] = int(now) + limit["quota_renewal_rate"]

        for api, access in data["access_rights"].items():
            if "limit" in access:
                fill(access["limit"], quotas[api].key if api in quotas else None)
        shared = keys[0] if len(keys) == 1 else next((key for key in keys if key.startswith("quota::")), None)
        fill(data, shared)


def _grants(record: Record, api: str, granting: frozenset[str]) -> bool:
    """Whether a record grants an API: by itself, or by a policy of `granting` when it names policies."""
    policies = frozenset(parse_stored(record.document).policy_ids)
    return bool(policies & granting) if policies else api in granted_apis(record.document)


def _counters(session: Session | None) -> Sequence[str]:
    return counter_keys(session) if session is not None else ()


def _limits(session: Session | None) -> dict[str, tuple[int, float]]:
    grants: Iterable[Any] = session.grants.values() if session is not None else ()
    return {bucket.key: (bucket.limit, bucket.window) for grant in grants for bucket in grant.buckets}


def _to_reset(before: Session | None, after: Session | None, options: WriteOptions) -> Sequence[str]:
    """The counters that a write starts anew: those whose limit it changes, or all of them when asked to."""
    if options.keep and not options.reset:
        return ()
    old, new = _limits(before), _limits(after)
    return [key for key in {**old, **new} if options.reset or old.get(key) != new.get(key)]
