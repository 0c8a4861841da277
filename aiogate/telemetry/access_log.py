"""The access log: one line per request, written in batches by a thread of its own.

A request leaves a tuple in a bounded queue and goes on; lines are made and written four times a second. When the disk
is full or slow the queue fills up, what does not fit is dropped and counted, and requests notice nothing. Nothing of a
credential reaches the queue: no header that carries one, no query unless asked for, and then without the values of
credentials.
"""

from __future__ import annotations

import logging
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Set
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

import orjson

__all__ = ["AccessLog", "Line", "redacted"]

_log = logging.getLogger("aiogate.access")

INTERVAL: Final = 0.25
"""Seconds between two batches."""
CAPACITY: Final = 16_384
"""Lines that wait at most."""
STDOUT: Final = "-"
_END: Final = 2.0
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_QUOTED: Final = {**_CONTROL, ord('"'): "\\x22", ord("\\"): "\\x5c"}
_SECRET: Final = re.compile(
    r"(.*[_.-])?(key|api_?key|token|secret|pass|passwd|password|pwd|auth|authorization|credentials?|code|sig|signature"
    r"|jwt|session|sid|assertion)",
    re.IGNORECASE,
)


class Line(NamedTuple):
    """One request. Times are epoch seconds and seconds; `sent` is bytes of the body; `code` is a refusal's."""

    at: float
    request_id: str
    client_ip: str
    method: str
    path: str
    query: str
    status: int
    sent: int
    seconds: float
    upstream: float | None
    api: str
    version: str
    session: str
    label: str
    code: str
    generation: int
    protocol: str
    referer: str
    agent: str


def redacted(query: str, credentials: Set[str]) -> str:
    """The query with `-` for the value of each parameter that is, or by its name could be, a credential."""
    parts = []
    for part in query.split("&"):
        name, equals, _ = part.partition("=")
        plain = unquote_plus(name)
        secret = plain in credentials or _SECRET.fullmatch(plain)
        parts.append(f"{name}=-" if equals and secret else part)
    return "&".join(parts)


def as_json(line: Line) -> bytes:
    """One JSON object."""
    shown: dict[str, object] = {
        "time": _time(line.at, "%Y-%m-%dT%H:%M:%S") + f".{int(line.at % 1 * 1000):03d}Z",
        "request_id": line.request_id,
        "client_ip": line.client_ip,
        "method": _clean(line.method),
        "path": _clean(line.path),
        "status": line.status,
        "bytes": line.sent,
        "duration": round(line.seconds, 6),
        "upstream": None if line.upstream is None else round(line.upstream, 6),
        "api": line.api,
        "version": line.version,
        "session": line.session,
        "label": _clean(line.label),
        "code": line.code,
        "generation": line.generation,
    }
    if line.query:
        shown["query"] = _clean(line.query)
    return orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE)


def as_combined(line: Line) -> bytes:
    """The combined format of Apache and nginx."""
    target = f"{line.path}?{line.query}" if line.query else line.path
    request = f"{line.method} {target} {line.protocol}"
    user = line.label.replace(" ", "_")
    return (
        f"{line.client_ip or '-'} - {_clean(user, _QUOTED) or '-'} [{_time(line.at, '%d/%b/%Y:%H:%M:%S +0000')}] "
        f'"{_clean(request, _QUOTED)}" {line.status} {line.sent} '
        f'"{_clean(line.referer, _QUOTED) or "-"}" "{_clean(line.agent, _QUOTED) or "-"}"\n'
    ).encode()


def _time(at: float, shape: str) -> str:
    return time.strftime(shape, time.gmtime(at))


def _clean(text: str, escapes: dict[int, str] = _CONTROL) -> str:
    """Text that stays on its line and is Unicode, whatever bytes it was made of."""
    if text.isascii() and text.isprintable() and escapes is _CONTROL:
        return text
    return text.encode("utf-8", "backslashreplace").decode().translate(escapes)


class AccessLog:
    """The queue, the thread and the file. `file` is a path, or `-` for standard output.

    `combined`: the combined format instead of JSON. `query`: queries are logged, credentials in them redacted.
    """

    def __init__(self, file: str, *, combined: bool = False, query: bool = False, capacity: int = CAPACITY) -> None:
        self.combined = combined
        self.query = query
        self.dropped = 0
        self._file = file
        self._capacity = capacity
        self._format: Callable[[Line], bytes] = as_combined if combined else as_json
        self._lines: deque[Line] = deque()
        self._lost = 0
        self._failing = False
        self._broken_off = False
        self._reopen = threading.Event()
        self._wake = threading.Event()
        self._stopping = False
        self._descriptor = -1
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def start(self) -> None:
        """Begin to write. Raises OSError when the file cannot be made or opened; a pipe may find its reader later."""
        if self._file != STDOUT and not Path(self._file).is_fifo():
            self._descriptor = self._opened()
        self._thread.start()

    def append(self, line: Line) -> None:
        """Leave a line to be written. Never waits; what does not fit is counted in `dropped`."""
        if len(self._lines) < self._capacity:
            self._lines.append(line)
        else:
            self.dropped += 1

    @property
    def lost(self) -> int:
        """Lines that were not written: there was no room for them, or the disk refused them."""
        return self.dropped + self._lost

    def reopen(self) -> None:
        """Write to the file of that name from the next batch on: the old one was moved away."""
        self._reopen.set()
        self._wake.set()

    def close(self) -> None:
        """Write what waits, for at most two seconds."""
        self._stopping = True
        self._wake.set()
        self._thread.join(_END)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            self._batch()
        self._batch()
        if self._file != STDOUT and self._descriptor >= 0:
            os.close(self._descriptor)

    def _batch(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        reopen = self._reopen.is_set()
        if not lines and not reopen:
            return
        try:
            if reopen:
                self._reopen.clear()
                self._renew()
            if lines:
                self._write(b"".join(map(self._format, lines)))
            self._failing = False
        except OSError as error:
            self._lost += len(lines)
            if not self._failing:
                self._failing = True
                _log.error("the access log %s cannot be written, lines are dropped: %s", self._file, error)

    def _renew(self) -> None:
        if self._file == STDOUT:
            return
        # The old one is kept where the new one cannot be had.
        fresh = self._opened()
        old, self._descriptor = self._descriptor, fresh
        self._broken_off = False
        if old >= 0:
            os.close(old)

    def _opened(self) -> int:
        return os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _write(self, data: bytes) -> None:
        if self._file == STDOUT:
            self._descriptor = 1
        elif self._descriptor < 0:
            self._descriptor = self._opened()
        left = memoryview(b"\n" + data if self._broken_off else data)
        whole = len(left)
        try:
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])
        finally:
            # After a disk that filled up in the middle of a line the next one begins anew.
            self._broken_off = 0 < len(left) < whole
