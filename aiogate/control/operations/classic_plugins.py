"""Entries under `plugins:` as the fields of Tyk's definitions that say the same; the way back of `tyk_plugins`.

An entry that Tyk has no field for, in shadow mode or with a variable in it, is kept as it was written, and with it
every later one of its name, so that their order stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from aiogate.config.definition import Definition, PluginUse
from aiogate.config.match import glob_expression
from aiogate.config.units import parse_duration, parse_rate, parse_size

__all__ = ["render_plugins"]

Fields = dict[str, Any]


def render_plugins(definition: Definition, shown: Fields, raw: Callable[[Iterable[str | int]], Any]) -> list[Any]:
    """Put the plugins into `shown`, which has its versions already. Returns the entries that are kept as ours."""
    kept: list[Any] = []
    names: set[str] = set()
    for use in definition.plugins:
        entry = raw(use.path[:2])
        if use.mode != "enforce" or use.name in names or "${" in repr(entry) or not _put(use, raw(use.path), shown):
            kept.append(entry)
            names.add(use.name)
    return kept


def _put(use: PluginUse, config: Any, shown: Fields) -> bool:
    """Whether Tyk has fields for an entry; then they are in `shown`."""
    match = use.match
    versions: Mapping[str, Fields] = shown["version_data"]["versions"]
    if match is not None and match.versions:
        versions = {name: version for name, version in versions.items() if name in match.versions}
    by_path = match is not None and bool(match.paths or match.methods)
    try:
        if by_path:
            assert match is not None
            places = [
                {"path": path, "method": method}
                for path in [tyk_path(path) for path in match.paths] or ["/"]
                for method in sorted(match.methods) or [""]
            ]
            name, fields = _BY_PATH[use.name](config)
            for version in versions.values():
                listed = version.setdefault("extended_paths", {}).setdefault(name, [])
                entries = [{**place, **fields, "disabled": False} for place in places]
                # Of timeouts the last of ours holds, and the first of Tyk's.
                listed[:] = [*entries, *listed] if name == "hard_timeouts" else [*listed, *entries]
            return True
        if use.name == "paths":
            return _paths(config, versions)
        if use.name in _OF_VERSION:
            fields = _OF_VERSION[use.name](config)
            if any(key in version for version in versions.values() for key in fields):
                return False
            for version in versions.values():
                version.update(fields)
            return True
        fields = _OF_API[use.name](config)
        if (match is not None and match.versions) or any(key in shown for key in fields):
            return False
        shown.update(fields)
    except (ValueError, TypeError, KeyError):
        return False
    return True


def tyk_path(path: str) -> str:
    """A glob, or a pattern that begins with `^`, as a pattern of Tyk's, which searches.

    Raises ValueError where Tyk would read it as something else: it knows names in braces, and `/*`.
    """
    if path.startswith("^") and ("{" in path or "/*" in path):
        raise ValueError("has no equal")
    if not path.startswith("^"):
        return "^" + re.sub(r"\\([^.+*?()\[\]{}|^$\\])", r"\1", glob_expression(path)) + "$"
    found = path.removeprefix("^.*")
    return found if found != path and found and "|" not in found else path


def _paths(config: Any, versions: Mapping[str, Fields]) -> bool:
    lists = _only(config, "open", "block", "allow")
    if any("white_list" in version.get("extended_paths", {}) for version in versions.values()) and lists.get("allow"):
        return False
    rendered = {
        theirs: [_entry(one) for one in lists[ours]]
        for ours, theirs in (("open", "ignored"), ("block", "black_list"), ("allow", "white_list"))
        if lists.get(ours)
    }
    for version in versions.values():
        extended = version.setdefault("extended_paths", {})
        for name, entries in rendered.items():
            extended[name] = [*extended.get(name, []), *entries]
    return True


def _entry(one: Any) -> Fields:
    path = one if isinstance(one, str) else _only(one, "path", "methods")["path"]
    methods = () if isinstance(one, str) else one.get("methods") or ()
    actions = {method: {"action": "no_action", "code": 200, "data": "", "headers": {}} for method in methods}
    return {"path": tyk_path(path), "method": "", "ignore_case": False, "method_actions": actions, "disabled": False}


def _only(config: Any, *keys: str) -> Mapping[str, Any]:
    if not isinstance(config, Mapping) or not set(config) <= set(keys):
        raise ValueError("has no equal")
    return config


def _bare(config: Any, key: str) -> Any:
    """What a bare value stands for, or what stands under `key`."""
    return _only(config, key)[key] if isinstance(config, Mapping) else config


def _rate_limit(config: Any) -> Fields:
    rate = parse_rate(_bare(config, "rate"))
    return {"global_rate_limit": {"rate": rate.limit, "per": rate.window, "disabled": False}}


def _ip_filter(config: Any) -> Fields:
    lists = _only(config, "allow", "deny")
    allowed: Sequence[Any] = lists.get("allow") or ()
    denied: Sequence[Any] = lists.get("deny") or ()
    return {
        "enable_ip_whitelisting": bool(allowed),
        "allowed_ips": list(allowed),
        "enable_ip_blacklisting": bool(denied),
        "blacklisted_ips": list(denied),
    }


def _cors(config: Any) -> Fields:
    told = _only(config, "origins", "methods", "headers", "expose", "credentials", "max_age", "passthrough")
    max_age = parse_duration(told["max_age"]) if told.get("max_age") is not None else 0.0
    if max_age % 1 or "://[" in str(told["origins"]) or told.get("methods") == [] or told.get("headers") == []:
        raise ValueError("has no equal")
    return {
        "CORS": {
            "enable": True,
            "allowed_origins": list(told["origins"]),
            "allowed_methods": list(told.get("methods") or ()),
            "allowed_headers": list(told.get("headers") or ()),
            "exposed_headers": list(told.get("expose") or ()),
            "allow_credentials": told.get("credentials", False),
            "max_age": int(max_age),
            "options_passthrough": told.get("passthrough", False),
            "debug": False,
        }
    }


def _size_limit(config: Any) -> Fields:
    return {"global_size_limit": _above_zero(parse_size(_bare(config, "limit")))}


def _above_zero(size: int) -> int:
    """Zero is no limit to Tyk, and lets nothing through here."""
    if size < 1:
        raise ValueError("has no equal")
    return size


def _request_headers(config: Any) -> Fields:
    edits = _only(config, "set", "remove")
    return {"global_headers": dict(edits.get("set", {})), "global_headers_remove": list(edits.get("remove", ()))}


def _response_headers(config: Any) -> Fields:
    return {name.replace("global_", "global_response_"): value for name, value in _request_headers(config).items()}


def _transform(config: Any) -> Fields:
    edits = _only(config, "set", "remove")
    return {"add_headers": dict(edits.get("set", {})), "delete_headers": list(edits.get("remove", ()))}


def _rate(config: Any) -> Fields:
    rate = parse_rate(_bare(config, "rate"))
    return {"rate": rate.limit, "per": rate.window}


_OF_API: Final[Mapping[str, Callable[[Any], Fields]]] = {
    "rate_limit": _rate_limit,
    "ip_filter": _ip_filter,
    "cors": _cors,
}
_OF_VERSION: Final[Mapping[str, Callable[[Any], Fields]]] = {
    "size_limit": _size_limit,
    "request_headers": _request_headers,
    "response_headers": _response_headers,
}
_BY_PATH: Final[Mapping[str, Callable[[Any], tuple[str, Fields]]]] = {
    "timeout": lambda config: ("hard_timeouts", {"timeout": parse_duration(_bare(config, "limit"))}),
    "size_limit": lambda config: (
        "size_limits",
        {"size_limit": _above_zero(parse_size(_bare(config, "limit")))},
    ),
    "request_headers": lambda config: ("transform_headers", _transform(config)),
    "response_headers": lambda config: ("transform_response_headers", _transform(config)),
    "rate_limit": lambda config: ("rate_limit", _rate(config)),
}
