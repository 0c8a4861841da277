"""Where Tyk's definitions send requests, as our `upstream:` (spec/api-definition.md sections 12 and 13).

Tyk gives a target more weight by naming it more than once. Certificates are files here: one of Tyk's store must be
saved to a file first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiogate.config.addresses import UpstreamUrl, parse_upstream_url
from aiogate.control.operations.tyk_plugins import Fields

__all__ = ["TLS_1_3", "upstream_of"]

TLS_1_2: Final = 771
TLS_1_3: Final = 772
"""Versions of TLS as Go numbers them."""
_HEAVIEST: Final = 256
_TARGETS: Final = "proxy.target_list"
_CERTIFICATES: Final = "upstream_certificates"
_OURS: Final = "x_aiogate.upstream"

Object = Mapping[str, Any]


def upstream_of(fields: Fields, overriding: str) -> Any:
    """The value of `upstream`, or None. `overriding` is the `override_target` of an API without versions."""
    further = dict(_object(fields.get("x_aiogate", "upstream")))
    if "url" in further or "preserve_host" in further:
        fields.refuse(_OURS, "proxy.target_url and proxy.preserve_host_header say this")
    native: dict[str, Any] = {}
    url = overriding or _text(fields.get("proxy", "target_url"))
    instead = "override_target" if overriding else ""
    if fields.get("proxy", "enable_load_balancing") is True:
        instead = "proxy.target_list"
        native["targets"] = _targets(fields)
        if overriding or _overridden(fields):
            fields.refuse("proxy.enable_load_balancing", "a version has an override_target, which Tyk does not look at")
        if "targets" in further:
            fields.refuse(_OURS, "proxy.target_list says this")
    elif "targets" in further:
        instead = _OURS
    elif url:
        native["url"] = url
    if instead and fields.get("proxy", "target_url"):
        fields.ignore("proxy.target_url", f"{instead} stands in its place")
    addresses = [url for url in map(_address, _addresses({**native, **further})) if url is not None]
    tls = _tls(fields, [url for url in addresses if url.scheme == "https"])
    if tls and "tls" in further:
        fields.refuse(_OURS, "proxy.transport and upstream_certificates say this")
    if tls:
        native["tls"] = tls
    if fields.get("proxy", "preserve_host_header") is True:
        native["preserve_host"] = True
    native.update(further)
    return native["url"] if native.keys() == {"url"} else native or None


def _targets(fields: Fields) -> list[Any]:
    listed = fields.get("proxy", "target_list")
    if not isinstance(listed, list) or not listed or not all(isinstance(url, str) and url for url in listed):
        fields.refuse(_TARGETS, "should be a list of URLs")
        return []
    counted = Counter(listed)
    if max(counted.values()) > _HEAVIEST:
        fields.refuse(_TARGETS, f"holds a URL more than {_HEAVIEST} times")
    return [url if count == 1 else {"url": url, "weight": count} for url, count in counted.items()]


def _overridden(fields: Fields) -> bool:
    entries = _object(fields.get("version_data", "versions"))
    return any(_object(entry).get("override_target") for entry in entries.values())


def _addresses(native: Object) -> Sequence[Any]:
    targets = native.get("targets") or [native]
    if not isinstance(targets, list):
        return []
    return [target.get("url") if isinstance(target, Mapping) else target for target in targets]


def _address(value: Any) -> UpstreamUrl | None:
    """None for what is none, which is told when the file is read, and for what a variable says."""
    try:
        return parse_upstream_url(value)
    except ValueError:
        return None


def _tls(fields: Fields, secure: Sequence[UpstreamUrl]) -> Object:
    transport = _object(fields.get("proxy", "transport"))
    tls: dict[str, Any] = {}
    if certificate := _certificate(fields, secure):
        tls["certificate"] = certificate
    oldest, newest = transport.get("ssl_min_version"), transport.get("ssl_max_version")
    if newest and newest != TLS_1_3:
        fields.refuse("proxy.transport.ssl_max_version", "the newest version of TLS is always spoken")
    elif newest:
        fields.ignore("proxy.transport.ssl_max_version", "the newest version of TLS is always spoken")
    if not secure:
        for name in ("ssl_insecure_skip_verify", "ssl_min_version"):
            if transport.get(name):
                fields.ignore(f"proxy.transport.{name}", "the upstream is not spoken to over TLS")
        return {}
    if transport.get("ssl_insecure_skip_verify") is True:
        tls["verify"] = False
    if oldest == TLS_1_3:
        tls["min_version"] = "1.3"
    elif oldest and oldest != TLS_1_2:
        fields.ignore("proxy.transport.ssl_min_version", "no TLS before 1.2 is spoken")
    return tls


def _certificate(fields: Fields, secure: Sequence[UpstreamUrl]) -> str:
    """The one file that is shown to all targets; Tyk chooses by the host, with its port or without, or by `*`."""
    entries = fields.get(_CERTIFICATES)
    if not entries or fields.get("upstream_certificates_disabled") is True:
        return ""
    if not isinstance(entries, Mapping) or not all(isinstance(file, str) for file in entries.values()):
        fields.refuse(_CERTIFICATES, "should be an object of texts")
        return ""
    if not secure:
        fields.ignore(_CERTIFICATES, "the upstream is not spoken to over TLS")
        return ""
    shown = {
        next((str(entries[name]) for name in (f"{url.host}:{url.port}", url.host, "*") if entries.get(name)), "")
        for url in secure
    }
    file = shown.pop() if len(shown) == 1 else ""
    if "/" not in file or set(entries.values()) != {file}:
        fields.refuse(_CERTIFICATES, "should be one file for all targets; an id of Tyk's store is not known here")
        return ""
    return file


def _object(value: Any) -> Object:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
