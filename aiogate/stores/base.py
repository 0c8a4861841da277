"""What every store must do. `tests/stores/contract.py` runs unchanged against each engine.

Four small protocols, because they have rules of durability of their own: a session, and a document of the vault, is on
disk before the call that wrote it returns; counters may lose their last 50 ms when the process is killed; decision
records are best effort and bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from aiogate.domain.limits import Bucket, Counter, Taken
    from aiogate.domain.session import Record
    from aiogate.telemetry.decisions import Decision

__all__ = [
    "CounterStore",
    "DecisionStore",
    "Listener",
    "Node",
    "Peers",
    "SessionStore",
    "Store",
    "StoreUnavailable",
    "VaultStore",
]


class StoreUnavailable(Exception):
    """The store cannot answer now. A request that needs an answer is refused with 503, never admitted."""


class SessionStore(Protocol):
    """Records by stored name."""

    async def get(self, name_hash: str) -> Record | None:
        """The record, or None. A record past its `delete_at` is as good as absent."""
        ...

    async def put(self, record: Record) -> None:
        """Write the record, durable when this returns."""
        ...

    async def delete(self, name_hash: str) -> bool:
        """Forget the record, durable when this returns. False: there was none."""
        ...

    async def page(
        self, *, org: str | None = None, api: str | None = None, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """Records in the order of their stored names, behind `after`, at most `limit`.

        `org`: only of that organisation. `api`: only those whose document grants that API id directly in
        `access_rights`. `prefix`: only those whose label begins so.
        """
        ...

    async def count(self, *, org: str | None = None, api: str | None = None, prefix: str = "") -> int:
        """How many records `page` would give in all."""
        ...

    async def organisations(self) -> Sequence[str]:
        """Every organisation that has a record, sorted."""
        ...


class CounterStore(Protocol):
    """Counters of rate limits and quotas.

    An engine that answers from memory returns the value itself; one that has to ask returns an awaitable. The limit
    step looks at `asks` once, while compiling.
    """

    @property
    def asks(self) -> bool:
        """Whether `take` returns an awaitable."""
        ...

    def take(self, buckets: Sequence[Bucket], now: float) -> Taken | Awaitable[Taken]:
        """Take all buckets or none, by `domain.limits.decide`, as one atomic step."""
        ...

    async def read(self, keys: Sequence[str], now: float) -> Sequence[Counter | None]:
        """The live counters under `keys`; None where no window is open."""
        ...

    async def reset(self, keys: Sequence[str]) -> None:
        """Forget the counters under `keys`."""
        ...


class DecisionStore(Protocol):
    """Decision records of refusals, bounded: the oldest go first."""

    def append(self, decision: Decision) -> None:
        """Remember a decision. Never blocks; what does not fit is dropped and counted in `dropped`."""
        ...

    async def get(self, request_id: str) -> Decision | None: ...

    async def latest(
        self, limit: int = 100, *, api: str | None = None, shadow: bool | None = None
    ) -> Sequence[Decision]:
        """The newest decisions first."""
        ...

    @property
    def dropped(self) -> int: ...


class VaultStore(Protocol):
    """Named documents with an end, for what plugins must not lose: clients, grants, one-time codes.

    A document is bytes, usually JSON. `groups` are names under which it can be listed. `until` is when it ends, in
    epoch seconds; 0: never. A document that has ended is as good as absent.
    """

    async def get(self, name: str) -> bytes | None: ...

    async def put(self, name: str, document: bytes, *, until: float = 0.0, groups: Sequence[str] = ()) -> None:
        """Write a document with its groups, whatever was there, durable when this returns."""
        ...

    async def swap(self, name: str, document: bytes, *, until: float = 0.0) -> bytes | None:
        """Replace a document and give what was there, as one atomic step. None: there was none, nothing is written.

        Of several callers at the same time exactly one gets what was there before them all. The groups stay.
        """
        ...

    async def take(self, name: str) -> bytes | None:
        """Give a document and forget it, as one atomic step: of several callers one gets it."""
        ...

    async def page(self, group: str, *, after: str = "", limit: int = 100) -> Sequence[tuple[str, bytes]]:
        """Names and documents of a group in the order of their names, behind `after`, at most `limit`."""
        ...


@dataclass(frozen=True, slots=True)
class Node:
    """A gateway on a store, as the others see it."""

    id: str
    host: str
    pid: int
    version: str
    generation: int
    started: float
    """Epoch seconds."""
    health: str
    """`serving`, `draining`, or `lost`: it has not been seen for some seconds."""
    last_reload_ok: bool
    control: str
    """Address of its control port, as it is bound there."""
    seen_seconds_ago: float = 0.0
    own: bool = False
    """Whether it is the one that answers."""


class Listener(Protocol):
    """What a gateway does about what others tell it."""

    def describe(self, id: str) -> Node:
        """What others see of this gateway."""
        ...

    def forget(self, name_hash: str) -> None:
        """A session was written or revoked elsewhere."""
        ...

    def distrust(self) -> None:
        """Something may have been missed: nothing that is cached is believed."""
        ...

    def reload(self) -> None:
        """Another gateway calls for a reload."""
        ...


class Peers(Protocol):
    """The gateways that share a store."""

    def begin(self, listener: Listener) -> None:
        """Listen to the others, and be seen by them."""
        ...

    def written(self, name_hash: str) -> None:
        """Tell the others that a session was written or revoked. Never waits, and may get lost."""
        ...

    async def reload(self) -> None:
        """Tell the others to reload. Raises `StoreUnavailable`."""
        ...

    async def nodes(self) -> Sequence[Node]:
        """All gateways, those included that were lost not long ago. Raises `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Be seen no more."""
        ...


class Store(Protocol):
    """One engine: the four protocols on one connection, opened and closed together."""

    @property
    def sessions(self) -> SessionStore: ...

    @property
    def counters(self) -> CounterStore: ...

    @property
    def decisions(self) -> DecisionStore: ...

    @property
    def vault(self) -> VaultStore: ...

    @property
    def name(self) -> str:
        """`memory`, `sqlite`, …, for `status`."""
        ...

    @property
    def peers(self) -> Peers | None:
        """The other gateways on this store; None: it serves one."""
        ...

    @property
    def trouble(self) -> str:
        """Why it does not do what it should at the moment; empty when it does."""
        ...

    @property
    def needed(self) -> bool:
        """Whether a gateway whose store does not answer now should get no requests."""
        ...

    async def open(self) -> None:
        """Make it ready. Raises `StoreUnavailable` with the reason."""
        ...

    async def close(self) -> None:
        """Write behind what is left, and let go."""
        ...
