"""Policies: templates that are laid over a session at read time, in memory, and never written back.

The merge is that of current Tyk (spec/session.md section 5), closed where Tyk is open: any policy that is missing or of
another organisation refuses the session (differences.md). It goes in two steps that can be read apart:

* `merge` lays the policies over the document and gives a document again: what reads of a key show;
* `lay_over` does the same and compiles the result to the `Session` that requests share: patterns and buckets.

What 0 means. In a policy or a limit, 0 says nothing and is the weakest of all; a negative value says unlimited and is
the strongest; so a policy that is silent about the quota never lifts the quota of another. What is still silent when
all policies are laid over is unlimited, as in Tyk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal

from aiogate.domain.account import is_name_hash, stored_name
from aiogate.domain.limits import Bucket
from aiogate.domain.session import (
    AccessDefinition,
    AllowedUrl,
    Grant,
    Limit,
    PathRule,
    Record,
    Session,
    SessionDocument,
    compile_path,
)

__all__ = ["Partition", "Policy", "PolicyProblem", "PolicySet", "as_written", "effective_document", "lay_over", "merge"]

Partition = Literal["rate", "quota", "access", "complexity"]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy, whole, as Tyk has it (spec/session.md section 5).

    `rate` requests per `per` seconds; `quota_max` per `quota_renewal_rate` seconds; for both 0 says nothing and a
    negative number says unlimited. `key_expires_in` seconds are the lifetime of a key that is made with it; 0: none.
    `partitions` empty: the whole policy applies. `per_api`: each API has its own limits; it excludes partitions.
    """

    id: str
    name: str = ""
    org: str = ""
    access: Mapping[str, AccessDefinition] = field(default_factory=dict)
    rate: float = 0.0
    per: float = 0.0
    throttle_interval: float = 0.0
    throttle_retry_limit: int = 0
    quota_max: int = 0
    quota_renewal_rate: int = 0
    partitions: frozenset[Partition] = frozenset()
    per_api: bool = False
    inactive: bool = False
    active: bool = True
    """Shown to Dashboard clients; the gateway ignores it, as Tyk does."""
    hmac_enabled: bool = False
    enable_http_signature_validation: bool = False
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    key_expires_in: int = 0
    post_expiry_action: Literal["", "retain", "delete"] = ""
    post_expiry_grace_period: int = 0
    last_updated: str = ""
    date_created: str = ""
    file: str = ""
    """Where it was declared."""
    written: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The declaration as it stands in the file, `${…}` unresolved: the only form of its texts that is ever shown."""

    @property
    def limit(self) -> Limit:
        """Its limits in the shape of a per-API limit."""
        return Limit.model_construct(
            rate=self.rate,
            per=self.per,
            throttle_interval=self.throttle_interval,
            throttle_retry_limit=self.throttle_retry_limit,
            quota_max=self.quota_max,
            quota_renewal_rate=self.quota_renewal_rate,
        )

    def controls(self, partition: Partition) -> bool:
        """Whether this part of a session is the policy's to set."""
        return not self.partitions or partition in self.partitions


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """Why a session cannot be used with its policies. `reason` is private: for `why` and for control replies."""

    reason: str


class PolicySet:
    """The policies of one generation, by id. Immutable; sessions are cached per set, so keep a set that did not change.

    It also keeps what many sessions have in common: combinations of policies, path rules, version sets.
    """

    __slots__ = ("_by_id", "_combined", "_paths", "_versions")

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        by_id: dict[str, Policy] = {}
        for policy in policies:
            if policy.id in by_id:
                raise ValueError(f"two policies have the id {policy.id!r}")
            by_id[policy.id] = policy
        self._by_id: Mapping[str, Policy] = MappingProxyType(by_id)
        self._combined: dict[tuple[object, ...], _Combined | PolicyProblem] = {}
        self._paths: dict[tuple[tuple[str, tuple[str, ...]], ...], tuple[PathRule, ...]] = {}
        self._versions: dict[tuple[str, ...], frozenset[str]] = {}

    def get(self, policy_id: str) -> Policy | None:
        return self._by_id.get(policy_id)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._by_id)

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def missing(self, policy_ids: Iterable[str]) -> tuple[str, ...]:
        """Those of `policy_ids` that do not exist, in order."""
        return tuple(policy_id for policy_id in policy_ids if policy_id not in self._by_id)

    def agrees_with(self, other: PolicySet, policy_ids: Iterable[str]) -> bool:
        """Whether both sets hold the same under `policy_ids`: a session that names only those is the same in both."""
        for policy_id in policy_ids:
            mine, theirs = self._by_id.get(policy_id), other._by_id.get(policy_id)
            if mine is not theirs and mine != theirs:
                return False
        return True

    def combined(self, org: str, policy_ids: tuple[str, ...], root: Limit) -> _Combined | PolicyProblem:
        """What these policies make of a session of `org` with the limits `root`; sessions alike share it."""
        key = (
            org,
            policy_ids,
            root.rate,
            root.per,
            root.throttle_interval,
            root.throttle_retry_limit,
            root.quota_max,
            root.quota_renewal_rate,
        )
        known = self._combined.get(key)
        if known is None:
            try:
                known = _combine(root, tuple(_named(self, policy_ids, org)))
            except _RefusedError as refused:
                known = PolicyProblem(str(refused))
            if len(self._combined) < _SHARED:
                self._combined[key] = known
        return known

    def path_rules(self, urls: tuple[AllowedUrl, ...]) -> tuple[PathRule, ...]:
        """The compiled rules of `allowed_urls`; equal lists share one tuple. Raises `re2.error`."""
        if not urls:
            return ()
        key = tuple((rule.url, rule.methods) for rule in urls)
        rules = self._paths.get(key)
        if rules is None:
            rules = tuple(
                PathRule(compile_path(rule.url), frozenset(method.upper() for method in rule.methods)) for rule in urls
            )
            if len(self._paths) < _SHARED:
                self._paths[key] = rules
        return rules

    def version_names(self, versions: tuple[str, ...]) -> frozenset[str]:
        """The versions as a set; equal lists share one."""
        names = self._versions.get(versions)
        if names is None:
            names = frozenset(versions)
            if len(self._versions) < _SHARED:
                self._versions[versions] = names
        return names


_SHARED: Final = 10_000
"""Distinct lists that a policy set shares at most: sessions with a list of their own each must not fill it."""


def merge(document: SessionDocument, org: str, policies: PolicySet) -> SessionDocument | PolicyProblem:
    """The document of a session of organisation `org` with its policies laid over it, or why that cannot be."""
    if not document.policy_ids:
        merged = document.changed(access_rights=_apart(_scoped(document.access_rights), document.limit))
    else:
        combined = policies.combined(org, document.policy_ids, document.limit)
        if isinstance(combined, PolicyProblem):
            return combined
        merged = _overlaid(document, combined)
    if not merged.access_rights:
        return PolicyProblem("the session grants no API, by itself or by a policy")
    return merged


def effective_document(document: SessionDocument, policies: PolicySet) -> SessionDocument:
    """The document with its policies laid over it, as reads of a key show it.

    Where the policies cannot be laid over it, the document as it is: reading a key must help to find that out.
    """
    merged = merge(document, document.org_id, policies)
    return document if isinstance(merged, PolicyProblem) else merged


def lay_over(document: SessionDocument, record: Record, policies: PolicySet) -> Session | PolicyProblem:
    """The session that requests meet: the effective document, compiled."""
    effective = merge(document, record.org, policies)
    if isinstance(effective, PolicyProblem):
        return effective
    return Session(
        name_hash=record.name_hash,
        org=record.org,
        kind=record.kind,
        label=record.label,
        grants=_grants(effective, document.counts_under or record.name_hash, policies),
        inactive=effective.is_inactive,
        expires=float(effective.expires),
        inactive_reason=_inactive_reason(document, policies) if effective.is_inactive else "",
        password=document.basic_auth_data.password,
        password_kind=document.basic_auth_data.hash_type,
        secret=_secret(document, record),
        rsa_certificate_id=document.rsa_certificate_id,
        certificate=document.certificate,
        policies=document.policy_ids,
        tags=effective.tags,
        meta=effective.meta_data,
        alias=document.alias,
    )


def _secret(document: SessionDocument, record: Record) -> str:
    if record.kind == "jwt":
        return document.jwt_data.secret
    return document.hmac_string if record.kind == "hmac" else ""


def as_written(
    document: SessionDocument, stored: SessionDocument | None, policies: PolicySet, now: float
) -> SessionDocument:
    """The document as it is to be stored, with the fields that a write sets (spec/session.md section 3).

    `stored` is what it replaces, None when it is new. An `expires` that has passed gives way to the stored one, a
    policy with `key_expires_in` limits the life of a new key (the last such policy wins), and the times of creation,
    of this write and of the next renewal are set.
    """
    expires = document.expires
    if 1 < expires <= now:
        expires = stored.expires if stored is not None else 0
    if stored is None:
        for policy_id in document.policy_ids:
            policy = policies.get(policy_id)
            if policy is not None and policy.key_expires_in > 0:
                expires = min(int(now) + policy.key_expires_in, _INT64)
    created = stored.date_created if stored is not None else ""
    renewal = document.quota_renewal_rate
    return document.changed(
        expires=expires,
        date_created=created or _rfc3339(now),
        last_updated=str(int(now)),
        # Access tokens: like keys, they are kept as hashes.
        oauth_keys={
            client: token if is_name_hash(token) else stored_name(document.org_id, token)
            for client, token in document.oauth_keys.items()
        },
        quota_renews=min(int(now) + renewal, _INT64) if renewal > 0 else document.quota_renews,
    )


_INT64: Final = 2**63 - 1
"""The largest number that is read back."""


class _RefusedError(Exception):
    """The policies of a session cannot be laid over it; the text is the private reason."""


@dataclass(frozen=True, slots=True)
class _Combined:
    """Policies laid over each other and over the limits of a session."""

    policies: tuple[Policy, ...]
    root: Limit
    access: dict[str, AccessDefinition]


def _named(policies: PolicySet, policy_ids: tuple[str, ...], org: str) -> Iterator[Policy]:
    missing = policies.missing(policy_ids)
    if missing:
        raise _RefusedError(f"policy not found: {', '.join(missing)}")
    per_api = partitioned = ""
    for policy_id in policy_ids:
        policy = policies.get(policy_id)
        assert policy is not None
        if policy.org != org:
            raise _RefusedError(f"policy {policy.id} belongs to organisation {policy.org!r}, the session to {org!r}")
        if policy.per_api and policy.partitions:
            raise _RefusedError(f"policy {policy.id} has per_api and partitions, which exclude each other")
        if any(limit.rate > 0 and limit.per <= 0 for limit in _limits(policy)):
            raise _RefusedError(f"policy {policy.id} has a rate without a window")
        if policy.per_api and policy.access:
            per_api = policy.id
        if policy.partitions:
            partitioned = policy.id
        yield policy
    if per_api and partitioned:
        raise _RefusedError(
            "cannot apply multiple policies when some have per_api set and some are partitioned: "
            f"{per_api} and {partitioned}"
        )


def _limits(policy: Policy) -> Iterator[Limit]:
    yield policy.limit
    for access in policy.access.values():
        yield access.limit


class _Right:
    """What the policies seen so far say about one API."""

    __slots__ = ("access", "granted", "limit", "quota", "rate", "scope", "set_by", "urls", "versions")

    def __init__(self, access: AccessDefinition) -> None:
        self.access = access
        self.granted = False
        self.rate = False
        self.quota = False
        self.versions: list[str] = []
        self.urls: dict[str, list[str]] = {}
        self.limit = Limit()
        self.scope = ""
        self.set_by = ""

    def grant(self, access: AccessDefinition) -> None:
        """Add versions and paths; the same pattern in two policies allows the methods of both."""
        if not self.granted:
            self.access = access
        self.granted = True
        self.versions = _union(self.versions, access.versions)
        for rule in access.allowed_urls:
            known = self.urls.get(rule.url)
            if known is None:
                self.urls[rule.url] = list(rule.methods)
            elif not known or not rule.methods:
                self.urls[rule.url] = []  # no methods: all of them
            else:
                self.urls[rule.url] = _union(known, rule.methods)

    def definition(self, limit: Limit, scope: str) -> AccessDefinition:
        urls = tuple(AllowedUrl.model_construct(url=url, methods=tuple(methods)) for url, methods in self.urls.items())
        return self.access.model_copy(
            update={
                "versions": tuple(self.versions),
                "allowed_urls": urls,
                "limit": limit,
                "allowance_scope": scope,
            }
        )


def _combine(root: Limit, named: tuple[Policy, ...]) -> _Combined:
    root = _cleared(root, named)
    rights: dict[str, _Right] = {}
    for policy in named:
        if policy.per_api:
            _apply_per_api(policy, rights)
        else:
            root = _apply(policy, rights, root)
    granted = {api: right for api, right in rights.items() if right.granted}
    if not granted:
        raise _RefusedError(f"no policy of {', '.join(policy.id for policy in named)} grants an API")
    # Several policies that grant: each counts by itself, under its own id.
    scoped = len({right.set_by for right in granted.values()}) > 1
    access = {
        api: right.definition(_inherited(right, root), right.scope or (right.set_by if scoped else ""))
        for api, right in granted.items()
    }
    limited = [api for api, right in rights.items() if right.rate and right.quota]
    if len(limited) == 1 and limited[0] in access and len(rights) == 1:
        root = access[limited[0]].limit  # clients that know no per-API limits read the root
    return _Combined(named, root, _apart(access, root))


def _cleared(root: Limit, named: tuple[Policy, ...]) -> Limit:
    """The session's own limits without the parts that a policy controls."""
    if any(policy.controls("quota") for policy in named):
        root = root.model_copy(update={"quota_max": 0, "quota_remaining": 0})
    if any(policy.controls("rate") for policy in named):
        root = root.model_copy(update={"rate": 0.0, "per": 0.0, "throttle_interval": 0.0, "throttle_retry_limit": 0})
    return root


def _apply_per_api(policy: Policy, rights: dict[str, _Right]) -> None:
    for api, access in policy.access.items():
        own = not access.limit.empty
        limit = access.limit if own else policy.limit
        right = _Right(access)
        right.grant(access)
        right.rate = right.quota = True
        right.scope = right.set_by = api if own else policy.id
        seen = rights.get(api)
        right.limit = limit if seen is None else _larger_quota(_faster(limit, seen.limit), seen.limit)
        rights[api] = right


def _apply(policy: Policy, rights: dict[str, _Right], root: Limit) -> Limit:
    for api, access in policy.access.items():
        right = rights.setdefault(api, _Right(access))
        if policy.controls("access"):
            right.grant(access)
            right.set_by = policy.id
        for limit in (access.limit, policy.limit):
            if policy.controls("quota"):
                right.limit = _larger_quota(right.limit, limit)
            if policy.controls("rate"):
                right.limit = _longer_throttle(_faster(right.limit, limit), limit)
        right.quota = right.quota or policy.controls("quota")
        right.rate = right.rate or policy.controls("rate")
    if policy.controls("quota"):
        root = _larger_quota(root, policy.limit) if policy.access else _quota_of(policy.limit, root)
    if policy.controls("rate"):
        if policy.access:
            root = _longer_throttle(_faster(root, policy.limit), policy.limit)
        else:
            root = _rate_of(policy.limit, root)
    return root


def _inherited(right: _Right, root: Limit) -> Limit:
    """The limit of one API, with what no policy set for it taken from the session's root."""
    limit = right.limit
    if not right.rate:
        limit = _rate_of(root, limit)
    if not right.quota:
        limit = _quota_of(root, limit)
    return limit


def _rate_of(source: Limit, limit: Limit) -> Limit:
    return limit.model_copy(
        update={
            "rate": source.rate,
            "per": source.per,
            "throttle_interval": source.throttle_interval,
            "throttle_retry_limit": source.throttle_retry_limit,
        }
    )


def _quota_of(source: Limit, limit: Limit) -> Limit:
    return limit.model_copy(update={"quota_max": source.quota_max, "quota_renewal_rate": source.quota_renewal_rate})


def _pace(limit: Limit) -> float:
    """Seconds between two requests: 0 for unlimited, infinite for a limit that is silent about the rate."""
    if limit.rate < 0:
        return 0.0
    return limit.per / limit.rate if limit.rate else math.inf


def _faster(limit: Limit, other: Limit) -> Limit:
    if _pace(other) < _pace(limit):
        return limit.model_copy(update={"rate": other.rate, "per": other.per})
    return limit


def _larger_quota(limit: Limit, other: Limit) -> Limit:
    """The larger quota and, by itself, the longer renewal, as Tyk has it; any negative quota is the largest."""
    most = max(limit.quota_max, other.quota_max) if min(limit.quota_max, other.quota_max) >= 0 else -1
    renewal = max(limit.quota_renewal_rate, other.quota_renewal_rate)
    if most == limit.quota_max and renewal == limit.quota_renewal_rate:
        return limit
    return limit.model_copy(update={"quota_max": most, "quota_renewal_rate": renewal})


def _longer_throttle(limit: Limit, other: Limit) -> Limit:
    return limit.model_copy(
        update={
            "throttle_interval": max(limit.throttle_interval, other.throttle_interval),
            "throttle_retry_limit": max(limit.throttle_retry_limit, other.throttle_retry_limit),
        }
    )


def _overlaid(document: SessionDocument, combined: _Combined) -> SessionDocument:
    named, root = combined.policies, combined.root
    fields: dict[str, Any] = {
        "rate": root.rate,
        "per": root.per,
        "throttle_interval": root.throttle_interval,
        "throttle_retry_limit": root.throttle_retry_limit,
        "quota_max": root.quota_max,
        "quota_renewal_rate": root.quota_renewal_rate,
        "access_rights": combined.access,
        "is_inactive": document.is_inactive or any(policy.inactive for policy in named),
        "hmac_enabled": document.hmac_enabled or any(policy.hmac_enabled for policy in named),
        "enable_http_signature_validation": document.enable_http_signature_validation
        or any(policy.enable_http_signature_validation for policy in named),
        "last_updated": max(document.last_updated, *(policy.last_updated for policy in named)),
    }
    tags: list[str] = []
    meta = dict(document.meta_data)
    for policy in named:
        tags = _union(tags, policy.tags)
        meta.update(policy.meta)
        if policy.post_expiry_action:
            fields["post_expiry_action"] = policy.post_expiry_action
            fields["post_expiry_grace_period"] = policy.post_expiry_grace_period
    fields["tags"] = tuple(_union(tags, document.tags))
    fields["meta_data"] = meta
    if any(policy.controls("rate") for policy in named):
        fields["allowance"] = root.rate
    return document.changed(**fields)


def _union(first: Iterable[str], second: Iterable[str]) -> list[str]:
    return list(dict.fromkeys((*first, *second)))


def _scoped(access_rights: Mapping[str, AccessDefinition]) -> dict[str, AccessDefinition]:
    """Rights without policies: an API with limits of its own counts under its id, all others together."""
    return {
        api: access.model_copy(update={"allowance_scope": "" if access.limit.empty else api})
        for api, access in access_rights.items()
    }


def _apart(access_rights: dict[str, AccessDefinition], root: Limit) -> dict[str, AccessDefinition]:
    """Count apart where one scope would count against different limits.

    Two windows of different length cannot share a counter. Partitioned policies can bring that about: then the APIs of
    that scope count each by itself, under `scope/api`.
    """
    limits: dict[str, set[tuple[float, float, int, int]]] = {}
    for access in access_rights.values():
        limit = _limit_of(access, root)
        pair = (limit.rate, limit.per, limit.quota_max, limit.quota_renewal_rate)
        limits.setdefault(access.allowance_scope, set()).add(pair)
    shared = {scope for scope, pairs in limits.items() if len(pairs) > 1}
    return {
        api: access.model_copy(update={"allowance_scope": f"{access.allowance_scope}/{api}"})
        if access.allowance_scope in shared
        else access
        for api, access in access_rights.items()
    }


def _limit_of(access: AccessDefinition, root: Limit) -> Limit:
    return root if access.limit.empty else access.limit


def _grants(document: SessionDocument, counted: str, policies: PolicySet) -> dict[str, Grant]:
    root = document.limit
    by_scope: dict[str, tuple[Bucket, ...]] = {}
    grants: dict[str, Grant] = {}
    for api, access in document.access_rights.items():
        limit = _limit_of(access, root)
        scope = access.allowance_scope
        buckets = by_scope.get(scope)
        if buckets is None:
            buckets = by_scope[scope] = tuple(buckets_of(limit, scope, counted))
        grants[api] = Grant(
            versions=policies.version_names(access.versions),
            paths=policies.path_rules(access.allowed_urls),
            buckets=buckets,
            quota=next((index for index, bucket in enumerate(buckets) if bucket.kind == "quota"), -1),
            throttle_interval=max(0.0, limit.throttle_interval),
            throttle_retries=max(0, limit.throttle_retry_limit) if limit.throttle_interval > 0 else 0,
        )
    return grants


def buckets_of(limit: Limit, scope: str, counted: str) -> Iterator[Bucket]:
    """The buckets of a limit, rate first, counted for one record in one scope."""
    if limit.rate > 0:
        # A bucket counts whole requests: 0.5 per 1 s becomes 1 per 2 s, 2.5 per 1 s becomes 2 per 0.8 s.
        whole = max(1, math.floor(limit.rate))
        yield Bucket(f"rate:{scope}:{counted}", whole, limit.per * whole / limit.rate, "rate")
    if limit.quota_max > 0:
        renewal = float(max(0, limit.quota_renewal_rate))
        yield Bucket(f"quota:{scope}:{counted}", limit.quota_max, renewal, "quota")


def _inactive_reason(document: SessionDocument, policies: PolicySet) -> str:
    if document.is_inactive:
        return "the session has is_inactive set"
    inactive = (policy for policy in map(policies.get, document.policy_ids) if policy is not None and policy.inactive)
    return f"policy {', '.join(policy.id for policy in inactive)} is inactive"


def _rfc3339(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
