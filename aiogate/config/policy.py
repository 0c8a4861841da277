"""A policy as it is declared: one file in `policies.d/`, as the domain's `Policy`.

id: gold
access: {login: {versions: [v1], paths: [{path: ^/users/.*, methods: [GET]}]}, portal: {}}
rate: 1000/1m
quota: 100000/30d
key_lifetime: 90d
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from aiogate.config.definition import DEFAULT_ORGANISATION, Identifier, parse_identifier
from aiogate.config.diagnose import diagnostics_of
from aiogate.config.match import Method
from aiogate.config.model import Model, mistake
from aiogate.config.source import Source
from aiogate.config.units import Duration, Pattern, Rate
from aiogate.config.upstream import Wait
from aiogate.domain.policy import Policy
from aiogate.domain.session import AccessDefinition, AllowedUrl, Limit
from aiogate.errors import Diagnostic, DiagnosticsFound

__all__ = ["Access", "PathRule", "PolicyDeclaration", "Throttle", "read_policy"]


def _whole_seconds(seconds: float) -> float:
    if seconds != int(seconds) or seconds < 1:
        raise mistake("invalid_value", "should be whole seconds, at least one", "such as `1s`", show=True)
    return seconds


def _whole_window(rate: Rate) -> Rate:
    _whole_seconds(rate.window)
    return rate


WholeSeconds = Annotated[Duration, AfterValidator(_whole_seconds)]
Quota = Annotated[Rate, AfterValidator(_whole_window)]
"""A rate over whole seconds: what Tyk's clients read of a quota's window is an integer."""


class Throttle(Model):
    """What happens to a request over the rate: it is tried again, instead of refused at once."""

    interval: Wait
    """Seconds between two tries."""
    retries: Annotated[int, Field(ge=1, le=1000, strict=True)]
    """How often a request is tried again."""


class PathRule(Model):
    """A pattern over the path behind the listen path, and the methods it opens."""

    path: Pattern
    methods: tuple[Method, ...] = ()
    """Empty: all."""


class Access(Model):
    """What the policy opens at one API, and that API's own limits."""

    versions: tuple[Identifier, ...] = ()
    """Empty: all."""
    paths: tuple[PathRule, ...] = ()
    """Empty: all."""
    rate: Rate | None = None
    quota: Quota | None = None
    throttle: Throttle | None = None


class PolicyDeclaration(Model):
    """A policy as it is written. The field names of Tyk are in `docs/policies.md`."""

    id: Identifier | None = None
    """By default the file's stem."""
    name: str = ""
    org: Identifier = DEFAULT_ORGANISATION
    access: Mapping[Identifier, Access] = Field(default_factory=dict)
    rate: Rate | None = None
    """None: the policy says nothing about the rate."""
    quota: Quota | None = None
    """None: the policy says nothing about the quota."""
    throttle: Throttle | None = None
    key_lifetime: WholeSeconds | None = None
    """How long a key lives that is made with this policy; None: for ever."""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = Field(default_factory=dict)
    partitions: tuple[Literal["rate", "quota", "access"], ...] | None = None
    """The parts of a session that are the policy's to set; None: all."""
    per_api: bool = False
    """Whether each API has limits of its own; excludes `partitions`."""
    inactive: bool = False
    """Whether keys with this policy are refused."""


_UNLIMITED_WORDS: Final = "leave `partitions` out, or `per_api`"


def read_policy(source: Source) -> Policy:
    """The policy that a file declares. Raises `DiagnosticsFound` with every mistake in it."""
    found: list[Diagnostic] = []
    declared: PolicyDeclaration | None = None
    try:
        declared = PolicyDeclaration.model_validate(source.value)
    except ValidationError as error:
        found.extend(diagnostics_of(error, source))
    stem = PurePath(source.file).stem
    if "id" not in source.value:
        found.extend(_unusable_stem(source, stem))
    if declared is not None:
        found.extend(_contradictions(declared, source))
    if found or declared is None:
        raise DiagnosticsFound(found)
    return _policy(declared, declared.id or stem, source)


def _unusable_stem(source: Source, stem: str) -> list[Diagnostic]:
    try:
        parse_identifier(stem)
    except ValueError:
        message = f"the file's name `{stem}` cannot be the id"
        return [Diagnostic.at(source.locate(()), "invalid_id", message, "add `id:`")]
    return []


def _contradictions(declared: PolicyDeclaration, source: Source) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    if declared.partitions is not None and declared.per_api:
        message = "`partitions` and `per_api` exclude each other"
        found.append(
            Diagnostic.at(source.locate(("partitions",)), "policy_partitions", message, _UNLIMITED_WORDS, "partitions")
        )
    if declared.partitions is not None and not declared.partitions:
        message = "`partitions` is an empty list"
        found.append(
            Diagnostic.at(
                source.locate(("partitions",)), "policy_partitions", message, "leave it out for all", "partitions"
            )
        )
    return found


def _policy(declared: PolicyDeclaration, identifier: str, source: Source) -> Policy:
    limit = _limit(declared.rate, declared.quota, declared.throttle)
    return Policy(
        id=identifier,
        name=declared.name or identifier,
        org=declared.org,
        access={api: _access(api, access) for api, access in declared.access.items()},
        rate=limit.rate,
        per=limit.per,
        throttle_interval=limit.throttle_interval,
        throttle_retry_limit=limit.throttle_retry_limit,
        quota_max=limit.quota_max,
        quota_renewal_rate=limit.quota_renewal_rate,
        partitions=frozenset(declared.partitions or ()),
        per_api=declared.per_api,
        inactive=declared.inactive,
        tags=declared.tags,
        meta=declared.meta,
        key_expires_in=int(declared.key_lifetime or 0),
        file=source.file,
        written=source.raw,
    )


def _access(api: str, access: Access) -> AccessDefinition:
    return AccessDefinition(
        api_id=api,
        versions=access.versions,
        allowed_urls=tuple(AllowedUrl(url=rule.path.text, methods=rule.methods) for rule in access.paths),
        limit=_limit(access.rate, access.quota, access.throttle),
    )


def _limit(rate: Rate | None, quota: Rate | None, throttle: Throttle | None) -> Limit:
    """Our units in Tyk's fields, where 0 says nothing."""
    return Limit(
        rate=float(rate.limit) if rate is not None else 0.0,
        per=rate.window if rate is not None else 0.0,
        quota_max=quota.limit if quota is not None else 0,
        quota_renewal_rate=int(quota.window) if quota is not None else 0,
        throttle_interval=throttle.interval if throttle is not None else 0.0,
        throttle_retry_limit=throttle.retries if throttle is not None else 0,
    )
