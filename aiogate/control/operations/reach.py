"""Where a definition that came over HTTP leads to, judged when it is saved. The connection judges again."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from aiogate.config.addresses import UpstreamUrl, parse_upstream_url
from aiogate.config.definition import Definition
from aiogate.config.source import Path, show_path
from aiogate.domain.reach import forbidden_address, forbidden_host, is_listener

__all__ = ["judge"]

_URL: Final = re.compile(r"\s*https?://", re.IGNORECASE)
_PATIENCE: Final = 1.0
"""Seconds to wait for a name: one that does not resolve now is judged when it is connected to."""


async def judge(definition: Definition, control: tuple[str, int], *, private: bool) -> Sequence[str]:
    """Why the definition is refused: one sentence per place that holds a URL which leads where it may not.

    Every URL counts, those of plugins too. `control` is where the control API is bound; `private`: whether private and
    loopback addresses may be reached.
    """
    found = []
    for path, url in _urls(definition.source.value, ()):
        reason = forbidden_host(url.host, private=private) or await _resolved(url, control, private=private)
        if reason:
            from_variable = "${" in str(definition.source.written(path))
            found.append(f"{show_path(path)}: {'leads where it may not' if from_variable else reason}")
    return found


def _urls(value: Any, path: Path) -> Iterator[tuple[Path, UpstreamUrl]]:
    """Every text that is a URL, with its place. One that is none was refused where it must be one."""
    if isinstance(value, str) and _URL.match(value):
        try:
            yield path, parse_upstream_url(value)
        except ValueError:
            return
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _urls(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _urls(inner, (*path, index))


async def _resolved(url: UpstreamUrl, control: tuple[str, int], *, private: bool) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            answers = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return ""
    for *_, address in answers:
        told = str(address[0])
        if is_listener(told, url.port, control):
            return f"{url.host} leads to the control API"
        reason = forbidden_address(told, private=private)
        if reason:
            return reason if told == url.host else f"{url.host}: {reason}"
    return ""
