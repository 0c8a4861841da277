"""Which API takes a request: host first, then the longest listen path, on whole segments.

A table is immutable and holds everything of one generation that a request needs. A reload makes a new table and puts it
into `Current`; a request keeps the table that it read first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from aiogate.proxy.tls import TlsSet
from aiogate.turns import rest

if TYPE_CHECKING:
    from aiogate.chain.compile import CompiledApi
    from aiogate.domain.policy import PolicySet

__all__ = ["Current", "RouteTable"]

_PATHS_REMEMBERED: Final = 4096
"""And two for each API."""
_LONGEST_REMEMBERED: Final = 256


class _Paths:
    """Listen paths without their last slash, and how many segments the deepest of them has."""

    __slots__ = ("_known", "apis", "depth")

    def __init__(self) -> None:
        self.apis: dict[str, CompiledApi] = {}
        self.depth = 0
        # Paths that were asked for before: most clients ask for few. Bounded, and gone with the table.
        self._known: dict[str, CompiledApi] = {}

    def add(self, api: CompiledApi) -> None:
        key = api.listen_path.rstrip("/")
        if key in self.apis:
            raise ValueError(f"the APIs {self.apis[key].id} and {api.id} listen on the same path {api.listen_path}")
        self.apis[key] = api
        self.depth = max(self.depth, key.count("/"))

    def match(self, path: str) -> CompiledApi | None:
        known = self._known.get(path)
        if known is not None:
            return known
        # Splitting no deeper than the deepest listen path keeps a path of thousands of segments cheap.
        segments = path.split("/", self.depth + 1)
        for length in range(min(len(segments), self.depth + 1), 0, -1):
            api = self.apis.get("/".join(segments[:length]))
            if api is not None:
                if len(self._known) < _PATHS_REMEMBERED + 2 * len(self.apis) and len(path) <= _LONGEST_REMEMBERED:
                    self._known[path] = api
                return api
        return None


class RouteTable:
    """The APIs and policies of one generation. `made_at` is epoch seconds.

    `own` are the gateway's, matched like all others and not listed in `apis`.
    """

    __slots__ = ("_anywhere", "_by_host", "apis", "generation", "made_at", "own", "policies")

    def __init__(
        self,
        generation: int,
        apis: Sequence[CompiledApi],
        policies: PolicySet,
        made_at: float,
        own: Sequence[CompiledApi] = (),
    ) -> None:
        self.own = own
        self.generation = generation
        self.policies = policies
        self.made_at = made_at
        self.apis: Mapping[str, CompiledApi] = MappingProxyType({api.id: api for api in apis})
        self._anywhere = _Paths()
        self._by_host: dict[str, _Paths] = {}
        for api in (*apis, *own):
            rest()
            if api.host:
                self._by_host.setdefault(api.host.lower(), _Paths()).add(api)
            else:
                self._anywhere.add(api)

    def match(self, host: str, path: str) -> CompiledApi | None:
        """The API for a canonical path. `host` is lower case and without a port.

        `/login-api` matches a listen path `/login-api/`; `/login-apis` does not.
        """
        if self._by_host:
            paths = self._by_host.get(host)
            if paths is not None:
                api = paths.match(path)
                if api is not None:
                    return api
        return self._anywhere.match(path)

    def __repr__(self) -> str:
        return f"<RouteTable generation {self.generation}, {len(self.apis)} APIs>"


class Current:
    """The one place that a reload changes. `tls` is what handshakes are made with from now on."""

    __slots__ = ("table", "tls")

    def __init__(self, table: RouteTable, tls: TlsSet | None = None) -> None:
        self.table = table
        self.tls = tls or TlsSet()
