"""What can be served and is probably not meant: the warnings of `aiogate check`.

They need the set as a whole, or today's date, and no request is the worse for them: a start and a reload do not ask.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiogate.config.source import Path, show_path
from aiogate.config.units import format_timestamp
from aiogate.errors import Diagnostic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiogate.config.definition import Definition
    from aiogate.config.listening import Listen
    from aiogate.config.loader import Declared
    from aiogate.config.source import Source

__all__ = ["advice"]

SOON: Final = 30 * 86400.0
"""Seconds ahead of which an expiry is told."""


def advice(declared: Declared, listens: Sequence[Listen], now: float | None = None) -> tuple[Diagnostic, ...]:
    """Every warning about a set without mistakes, behind these listeners.

    `now` is epoch seconds; None: the machine's clock.
    """
    now = time.time() if now is None else now
    active = [definition for definition in declared.definitions if definition.active]
    found = [
        *_shadowed(active),
        *_policies(declared, {definition.id: definition for definition in declared.definitions}),
    ]
    asked_for = any(listen.tls is not None and listen.tls.client_ca is not None for listen in listens)
    for definition in active:
        found.extend(_open(definition))
        if not asked_for:
            found.extend(_without_certificates(definition))
        found.extend(_expiries(definition, now))
    return tuple(sorted(found))


def _warning(source: Source, path: Path, code: str, message: str, hint: str, *, key: bool = False) -> Diagnostic:
    position = source.locate_key(path) if key else source.locate(path)
    return replace(Diagnostic.at(position, code, message, hint, show_path(path)), severity="warning")


def _shadowed(definitions: Iterable[Definition]) -> Iterator[Diagnostic]:
    """APIs without a host that another API is asked before."""
    hosted: dict[str, dict[str, Definition]] = {}
    for definition in definitions:
        if definition.listen.host is not None:
            hosted.setdefault(definition.listen.path, {}).setdefault(definition.listen.host, definition)
    for definition in definitions if hosted else ():
        path = definition.listen.path
        if definition.listen.host is not None:
            continue
        own = hosted.get(path, {})
        for above in _above(path):
            taking = {host: other for host, other in hosted.get(above, {}).items() if host not in own}
            if taking:
                host, other = next(iter(taking.items()))
                message = f"`{path}` is never reached at the host {host}: `{above}` of {other.file} is asked first"
                hint = (
                    f"an API with a host goes before all without; give this one `host: {host}` if it is meant there too"
                )
                yield _warning(definition.source, ("listen", "path"), "listen_shadows", message, hint)
                break


def _above(path: str) -> Iterator[str]:
    """The listen paths that take this one's requests too: `/a/b/` is below `/a/` and `/`."""
    while path != "/":
        path = path[: path.rstrip("/").rindex("/") + 1]
        yield path


def _open(definition: Definition) -> Iterator[Diagnostic]:
    upstreams = [definition.upstream]
    if definition.versions is not None:
        upstreams.extend(version.upstream for version in definition.versions.list.values())
    if definition.auth.mode == "none" and any(upstreams):
        message = "whoever reaches the gateway reaches this upstream"
        yield _warning(definition.source, ("auth",), "api_open", message, "ignore this if the API is meant to be open")


def _without_certificates(definition: Definition) -> Iterator[Diagnostic]:
    """The method `mtls` where no client is ever asked for a certificate."""
    auth = definition.auth
    for method in auth.methods:
        if method.name == "mtls":
            others = auth.mode == "any" and len(auth.methods) > 1
            message = (
                f"`mtls` lets nobody in{' by itself' if others else ''}: no listener asks for a client certificate"
            )
            hint = "name the authorities that sign them as `client_ca` under a listener's `tls`"
            found = Diagnostic.at(method.position, "certificate_unasked", message, hint, show_path(method.path))
            yield replace(found, severity="warning")


def _expiries(definition: Definition, now: float) -> Iterator[Diagnostic]:
    expiries: dict[Path, float | None] = {("expires",): definition.expires}
    if definition.versions is not None:
        expiries |= {
            ("versions", "list", name, "expires"): one.expires for name, one in definition.versions.list.items()
        }
    for path, expires in expiries.items():
        if expires is None or expires > now + SOON:
            continue
        what = f"version {path[2]}" if len(path) > 1 else f"API {definition.id}"
        if expires <= now:
            yield _warning(definition.source, path, "expired", f"{what} has expired", "every request is refused")
        else:
            days = int((expires - now) / 86400)
            message = f"{what} expires in {days} day{'' if days == 1 else 's'}, at {format_timestamp(expires)}"
            yield _warning(definition.source, path, "expires_soon", message, "from then on every request is refused")


def _policies(declared: Declared, definitions: Mapping[str, Definition]) -> Iterator[Diagnostic]:
    for policy, source in declared.policy_sources():
        if policy.partitions and "access" not in policy.partitions:
            continue
        if not policy.access:
            message = f"the policy {policy.id} opens no API"
            yield _warning(
                source, (), "policy_unused", message, "name APIs under `access`, or leave it out of `partitions`"
            )
        elif not any(definitions[api].active for api in policy.access):
            message = f"the policy {policy.id} opens only APIs that are not active"
            yield _warning(source, ("access",), "policy_unused", message, "", key=True)
