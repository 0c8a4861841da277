"""One request and its response, as the chain sees them.

The listener makes one `Exchange` per request; every step gets it as its only argument. What the client sent does not
change. What goes upstream is the client's request with the edits that steps leave here (`upstream_headers`,
`upstream_path`, …); what goes back is a `Response`, which `on_response` steps may edit before its head is written.

Nothing here is made before somebody asks for it: a plain request pays for one object with slots.
"""

from __future__ import annotations

import xml.sax.saxutils
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from aiogate.errors import Problem

if TYPE_CHECKING:
    from aiogate.chain.compile import CompiledApi
    from aiogate.credentials.certificates import ClientCertificate, Handshake
    from aiogate.domain.policy import PolicySet
    from aiogate.domain.session import Grant, Session
    from aiogate.proxy.tunnel import Upgrade

__all__ = ["BodyStream", "Exchange", "HeaderEdits", "RequestBody", "Response", "SameNames", "problem_response"]


class BodyTooLarge(Exception):
    """A body grew past the limit that its reader set."""


class BodyBroken(Exception):
    """A body ended before its announced end, or broke its framing."""


class BodyTimeout(Exception):
    """A body made no progress within its deadline."""


class BodyStream(Protocol):
    """Bytes that arrive over time, with back-pressure: nobody reads ahead of `read`."""

    @property
    def length(self) -> int | None:
        """Bytes in all, when announced; None for chunked and close-delimited bodies."""
        ...

    async def read(self) -> bytes:
        """The next piece, as large as is at hand; `b""` at the regular end.

        Raises `BodyBroken` on a truncated body and `BodyTimeout` when nothing came in time.
        """
        ...

    def close(self) -> None:
        """Give up on what has not been read. Safe to call at any time, more than once."""
        ...


class RequestBody(BodyStream, Protocol):
    """The client's body. It can be read once, as a stream, or whole by `read_all`, which may be repeated."""

    @property
    def present(self) -> bool:
        """Whether the request carries a body at all."""
        ...

    async def read_all(self, limit: int) -> bytes:
        """The whole body, kept so that it still goes upstream. Raises `BodyTooLarge` past `limit` bytes."""
        ...

    def cap(self, limit: int) -> None:
        """From now on reading raises `BodyTooLarge` past `limit` bytes in all. Of several caps the smallest holds."""
        ...


class HeaderEdits:
    """Changes to a request's headers on their way upstream: removed first, then set, then added."""

    __slots__ = ("added", "removed")

    def __init__(self) -> None:
        self.removed: set[str] = set()
        self.added: list[tuple[str, str]] = []

    def remove(self, name: str) -> None:
        """Drop every header of this name, whatever its case."""
        lowered = name.lower()
        self.removed.add(lowered)
        self.added = [pair for pair in self.added if pair[0].lower() != lowered]

    def set(self, name: str, value: str) -> None:
        """Replace every header of this name by one. Raises ValueError for a line break or NUL in the value."""
        self.remove(name)
        self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """One more header. Raises ValueError for a line break or NUL in the value."""
        check_header(name, value)
        self.added.append((name, value))


_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def check_header(name: str, value: str) -> None:
    """Raise ValueError unless name and value may stand in a header (RFC 9110 section 5.5)."""
    if not name or not _TOKEN.issuperset(name):
        raise ValueError(f"not a header name: {name!r}")
    if not value.isprintable() and any(char < " " and char != "\t" or char == "\x7f" for char in value):
        raise ValueError(f"control character in the value of header {name}")


class SameNames(dict[bytes, bool]):
    """Whether a header's name, in any case, is one of a few. Remembers a bounded number of spellings."""

    def __init__(self, *names: bytes) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, name: bytes) -> bool:
        same = name.lower() in self._names
        if len(self) < 1024 and len(name) <= 64:
            self[name] = same
        return same


class Response:
    """What goes back to the client.

    `body` is bytes, or a `BodyStream` that the listener relays with back-pressure. `headers` is a case-insensitive
    multi-dictionary that is made from the upstream's raw pairs when somebody first asks for it; `set` and `remove` are
    cheaper when that is all there is to do.
    """

    __slots__ = ("_edits", "_headers", "body", "raw_headers", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes | BodyStream = b"",
        headers: Mapping[str, str] | None = None,
        raw_headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.raw_headers: list[tuple[bytes, bytes]] = [] if raw_headers is None else raw_headers
        self._headers: CIMultiDict[str] | None = None
        self._edits: dict[str, tuple[str, str | None]] | None = None
        if headers is not None:
            self._headers = CIMultiDict(headers)

    @property
    def headers(self) -> CIMultiDict[str]:
        """All headers, to read and to change."""
        if self._headers is None:
            made: CIMultiDict[str] = CIMultiDict()
            for name, value in self.raw_headers:
                made.add(name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
            for edit, value_or_none in (self._edits or {}).values():
                made.popall(edit, None)
                if value_or_none is not None:
                    made.add(edit, value_or_none)
            self.raw_headers = []
            self._edits = None
            self._headers = made
        return self._headers

    def set(self, name: str, value: str) -> None:
        """Replace every header of this name by one. Raises ValueError for a line break or NUL in the value."""
        check_header(name, value)
        if self._headers is not None:
            self._headers[name] = value
        else:
            if self._edits is None:
                self._edits = {}
            self._edits[name.lower()] = (name, value)

    def put(self, same: SameNames, *pairs: tuple[bytes, bytes]) -> None:
        """Replace the headers of these names. For what we made ourselves: nothing is looked at for line breaks."""
        if self._headers is not None or self._edits:
            for name, value in pairs:
                self.set(name.decode("latin-1"), value.decode("latin-1"))
            return
        raw = self.raw_headers
        for name, _ in raw:
            if same[name]:
                raw = [pair for pair in raw if not same[pair[0]]]
                break
        self.raw_headers = [*raw, *pairs]

    def remove(self, name: str) -> None:
        """Drop every header of this name."""
        if self._headers is not None:
            self._headers.popall(name, None)
        else:
            if self._edits is None:
                self._edits = {}
            self._edits[name.lower()] = (name, None)

    def wire_headers(self) -> list[tuple[bytes, bytes]]:
        """The pairs as they are written, framing headers excluded by the writer."""
        if self._headers is not None:
            pairs = []
            for name, value in self._headers.items():
                check_header(name, value)
                pairs.append((name.encode("latin-1"), value.encode("utf-8", "surrogateescape")))
            return pairs
        if not self._edits:
            return self.raw_headers
        edited = {lowered.encode("latin-1") for lowered in self._edits}
        pairs = [pair for pair in self.raw_headers if pair[0].lower() not in edited]
        for name, value_or_none in self._edits.values():
            if value_or_none is not None:
                pairs.append((name.encode("latin-1"), value_or_none.encode("utf-8", "surrogateescape")))
        return pairs

    def __repr__(self) -> str:
        size = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "stream"
        return f"<Response {self.status} {size}>"


class Exchange:
    """One request on its way through the gateway.

    Fixed by the listener: `method`, `path` (canonical, percent-encoded, begins with `/`), `query` (raw, without
    `?`), `headers`, `raw_headers`, `version_1_1`, `handshake` (of TLS; None: plain), `peer` (address of the
    socket's other end), `client_ip` (behind trusted proxies), `scheme`, `host`, `request_id`, `body`, `started`
    (monotonic seconds), `upgrade` (the other protocol that the client asks for, such as WebSocket; None: none).

    Fixed by the route: `policies` and `generation` that the request started with, `api`, `version` (name, or None while
    undecided), `tail` (canonical path behind the listen path, and behind the version's segment where that is stripped;
    begins with `/`).

    Left by steps: `open` (the request needs no credential), `session` and its `grant` at this API, `credential_kind`,
    `upstream_path` (None: derived from `tail`), `upstream_query`, `upstream_headers`, `upstream_timeout` (seconds
    above zero that the upstream has until the head of its response, connecting and a second attempt included; None:
    what `upstream:` says), `upstream_seconds` (until the head of the response; None: the upstream was not asked),
    `problem`, and `state`, where a plugin keeps what belongs to this request under its own name.
    """

    __slots__ = (
        "_state",
        "_upstream_headers",
        "api",
        "body",
        "client_ip",
        "credential_kind",
        "generation",
        "grant",
        "handshake",
        "headers",
        "host",
        "method",
        "open",
        "path",
        "peer",
        "policies",
        "problem",
        "query",
        "quota_shown",
        "raw_headers",
        "request_id",
        "scheme",
        "session",
        "started",
        "tail",
        "trusted_peer",
        "upgrade",
        "upstream_path",
        "upstream_query",
        "upstream_seconds",
        "upstream_timeout",
        "version",
        "version_1_1",
        "version_problem",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: CIMultiDictProxy[str],
        raw_headers: tuple[tuple[bytes, bytes], ...],
        body: RequestBody,
        host: str,
        scheme: str,
        peer: str,
        client_ip: str,
        trusted_peer: bool,
        version_1_1: bool,
        request_id: str,
        started: float,
        policies: PolicySet,
        generation: int = 0,
        handshake: Handshake | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.raw_headers = raw_headers
        self.body = body
        self.host = host
        self.scheme = scheme
        self.peer = peer
        self.client_ip = client_ip
        self.trusted_peer = trusted_peer
        self.version_1_1 = version_1_1
        self.request_id = request_id
        self.started = started
        self.policies = policies
        self.generation = generation
        self.handshake = handshake
        self.upgrade: Upgrade | None = None
        self.grant: Grant | None = None
        self.api: CompiledApi | None = None
        self.version: str | None = None
        self.version_problem: Problem | None = None
        self.tail = path
        self.open = False
        self.session: Session | None = None
        self.credential_kind = ""
        self.upstream_path: str | None = None
        self.upstream_query: str | None = None
        self.upstream_timeout: float | None = None
        self.upstream_seconds: float | None = None
        self.problem: Problem | None = None
        self.quota_shown: tuple[int, int, int] | None = None
        self._upstream_headers: HeaderEdits | None = None
        self._state: dict[str, Any] | None = None

    @property
    def client_certificate(self) -> ClientCertificate | None:
        """What the client proved in the TLS handshake; None: it showed no certificate, or came over plain HTTP."""
        return self.handshake.certificate if self.handshake is not None else None

    @property
    def upstream_headers(self) -> HeaderEdits:
        """Edits of the request's headers on their way upstream."""
        if self._upstream_headers is None:
            self._upstream_headers = HeaderEdits()
        return self._upstream_headers

    @property
    def header_edits(self) -> HeaderEdits | None:
        """The edits made so far, or None: for the forwarder, which must not make an empty object."""
        return self._upstream_headers

    @property
    def state(self) -> dict[str, Any]:
        """A place for plugins, one key each: the plugin's name."""
        if self._state is None:
            self._state = {}
        return self._state

    def __repr__(self) -> str:
        return f"<Exchange {self.request_id} {self.method} {self.path}>"


_XML_TYPES: Final = ("application/xml", "text/xml", "application/soap+xml")


def problem_response(problem: Problem, request_id: str, request_content_type: str = "") -> Response:
    """The refusal as the client sees it: one-line JSON, or XML when the request's Content-Type is XML."""
    if problem.fields:
        body = orjson.dumps({**dict(problem.fields), "request_id": request_id})
        kind = b"application/json"
    elif request_content_type.partition(";")[0].strip().lower() in _XML_TYPES:
        text = xml.sax.saxutils.escape(problem.message)
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<error><message>{text}</message><code>{problem.code}</code><request_id>{request_id}</request_id></error>"
        ).encode()
        kind = b"application/xml"
    else:
        body = orjson.dumps({"error": problem.message, "code": problem.code, "request_id": request_id})
        kind = b"application/json"
    raw = [(b"Content-Type", kind)]
    for name, value in problem.headers:
        raw.append((name.encode("latin-1"), value.encode("utf-8", "surrogateescape")))
    return Response(problem.status, body, raw_headers=raw)
