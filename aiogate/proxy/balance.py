"""Upstreams with several targets: which one takes a request, and which ones are left alone for a while.

Round robin is smooth and weighted: each target collects its weight, the richest is chosen and pays the sum, so that
weights 2 and 1 make A B A and not A A B. Fewest requests first compares requests in progress per weight.

A target that fails several times in a row is ejected for a time that doubles with each ejection. Then one request
tries it: when that fails, the target stays away, and an answer to any request brings it back. The last target is never
ejected: when it fails as well, all are in use again, and the first that answers ends that; the others are tried one
request at a time. Nothing runs for any of this in the background, and while all targets are well it costs a request
two comparisons.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiogate.clock import Clock
    from aiogate.proxy.pool import Pool

__all__ = ["EjectionRule", "Group", "Groups", "Target"]

_log = logging.getLogger("aiogate.upstream")
_MOST_DOUBLINGS: Final = 30


class Target:
    """One server: its connections, and what the head of a request to it says.

    `base_path` begins with `/` or is empty; `base_query` is without `?`.
    """

    __slots__ = (
        "base_path",
        "base_query",
        "credit",
        "ejections",
        "failures",
        "host",
        "pool",
        "probe",
        "repeated",
        "returned",
        "until",
        "weight",
    )

    def __init__(self, pool: Pool, host: str, base_path: str = "", base_query: str = "", *, weight: int = 1) -> None:
        self.pool = pool
        self.host = host
        self.base_path = base_path
        self.base_query = base_query
        self.weight = weight
        self.credit = 0
        self.failures = 0
        """In a row."""
        self.until = 0.0
        """When its ejection ends, by the monotonic clock; 0: it is not ejected."""
        self.probe: object = None
        """The request that is trying it out; None: there is none."""
        self.ejections = 0
        """Since the process began."""
        self.repeated = 0
        """How often in a row it was ejected, without being well for long in between."""
        self.returned = -inf

    def __str__(self) -> str:
        return f"{self.pool.origin}{self.base_path}"


@dataclass(frozen=True, slots=True)
class EjectionRule:
    """After `failures` in a row (0: never) a target is left alone for `period` seconds, at most for `at_most`.

    Responses with one of `statuses` are failures too.
    """

    failures: int = 3
    period: float = 10.0
    at_most: float = 300.0
    statuses: frozenset[int] = frozenset()


class Group:
    """The targets of one upstream. `name` is what the log and the metrics call it: the API, and the version if any."""

    __slots__ = ("_choose", "_clock", "_failing", "_out", "_rule", "_serving", "api", "targets", "version")

    def __init__(
        self,
        targets: Sequence[Target],
        clock: Clock,
        *,
        least_requests: bool = False,
        rule: EjectionRule | None = None,
        api: str = "",
        version: str = "",
    ) -> None:
        self.targets = tuple(targets)
        self.api = api
        self.version = version
        self._clock = clock
        self._rule = rule or EjectionRule()
        self._choose = _fewest_requests if least_requests else _round_robin
        self._serving: Sequence[Target] = self.targets
        self._out: Sequence[Target] = ()
        self._failing = False

    def choose(self, request: object) -> Target:
        """The target for a request. What becomes of it must be told: `answered`, `failed` or `undecided`."""
        if self._out:
            now = self._clock.monotonic()
            for target in self._out:
                if target.until <= now and target.probe is None:
                    target.probe = request
                    return target
        return self._choose(self._serving)

    def another(self, tried: Target) -> Target | None:
        """A target for the second attempt of a request; None: there is none but the one that was tried."""
        others = [target for target in self._serving if target is not tried]
        return self._choose(others) if others else None

    def answered(self, target: Target, status: int, request: object) -> None:
        """The target gave this request a response. A late one is one."""
        if status in self._rule.statuses:
            self.failed(target, f"status {status}", request)
        elif target.failures:
            self._recovered(target)

    def undecided(self, target: Target, request: object) -> None:
        """Whether the target is well was not found out: the client left, or all connections were in use."""
        if target.probe is request:
            target.probe = None

    def failed(self, target: Target, reason: str, request: object) -> None:
        """The target gave this request no response, or one that cannot be used.

        What was sent before the target was ejected and fails only now is no news.
        """
        probed = target.probe is request
        if probed:
            target.probe = None
        elif target.until:
            return
        target.failures += 1
        if self._failing or not self._rule.failures:
            return
        if probed or target.failures >= self._rule.failures:
            self._eject(target, reason)

    def states(self) -> Sequence[tuple[Target, float]]:
        """Each target with the seconds that it is still left alone; 0: it takes requests."""
        now = self._clock.monotonic()
        return [(target, max(target.until - now, 0.001) if target.until else 0.0) for target in self.targets]

    def __str__(self) -> str:
        return f"API {self.api}" + (f", version {self.version}" if self.version else "")

    def _eject(self, target: Target, reason: str) -> None:
        if len(self._serving) == 1 and self._serving[0] is target:
            self._failing = True
            for each in self.targets:
                each.until = 0.0
            self._sort()
            _log.warning("%s: no target answers, all %d are tried again: %s", self, len(self.targets), reason)
            return
        now = self._clock.monotonic()
        rule = self._rule
        last = rule.period * 2 ** min(max(target.repeated - 1, 0), _MOST_DOUBLINGS)
        if target.repeated and not target.until and now - target.returned > min(last, rule.at_most):
            target.repeated = 0
        period = min(rule.period * 2 ** min(target.repeated, _MOST_DOUBLINGS), rule.at_most)
        target.repeated += 1
        target.ejections += 1
        target.until = now + period
        self._sort()
        _log.warning("%s: the target %s is left alone for %g s: %s", self, target, period, reason)

    def _recovered(self, target: Target) -> None:
        now = self._clock.monotonic()
        was_out, target.until, target.failures, target.probe = bool(target.until), 0.0, 0, None
        if self._failing or was_out:
            target.returned = now
        if self._failing:
            self._failing = False
            for other in self.targets:
                if other is not target and other.failures:
                    other.until = now
            self._sort()
            _log.info("%s: the target %s answers again", self, target)
        elif was_out:
            self._sort()
            _log.info("%s: the target %s answers again and is back", self, target)

    def _sort(self) -> None:
        self._serving = tuple(target for target in self.targets if not target.until)
        self._out = tuple(target for target in self.targets if target.until)
        for target in self._out:
            target.credit = 0


def _round_robin(targets: Sequence[Target]) -> Target:
    chosen = targets[0]
    total = 0
    for target in targets:
        total += target.weight
        target.credit += target.weight
        if target.credit > chosen.credit:
            chosen = target
    chosen.credit -= total
    return chosen


def _fewest_requests(targets: Sequence[Target]) -> Target:
    fewest: list[Target] = []
    least = inf
    for target in targets:
        load = target.pool.busy / target.weight
        if load < least:
            least = load
            fewest = [target]
        elif load == least:
            fewest.append(target)
    return fewest[0] if len(fewest) == 1 else _round_robin(fewest)


class Groups:
    """The groups in use: shared by the versions of an API, and carried over a reload that does not change them."""

    __slots__ = ("_leases", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[Hashable, tuple[Group, int]] = {}

    def lease(self, key: Hashable, make: Callable[[], Group]) -> Group:
        """The group of this key, made when nobody has it yet."""
        with self._lock:
            group, leases = self._leases.get(key) or (make(), 0)
            self._leases[key] = (group, leases + 1)
            return group

    def release(self, key: Hashable) -> None:
        """Give a lease back."""
        with self._lock:
            group, leases = self._leases[key]
            if leases > 1:
                self._leases[key] = (group, leases - 1)
            else:
                del self._leases[key]

    def listed(self) -> Sequence[Group]:
        """Every group; of those of one API and version the newest comes last."""
        with self._lock:
            return [group for group, _ in self._leases.values()]
