"""The middleware of Tyk's definitions as entries under `plugins:` (spec/api-definition.md sections 8, 9 and 13).

What belongs to a version in Tyk becomes an entry with `match: {versions: […]}`, or one for all where every version says
the same. Tyk searches a path's pattern anywhere in the path; so do the patterns that are written here. A reply of Tyk's
lists comes before authentication: it is a `mock` on an open path.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeGuard

from pydantic_core import PydanticCustomError

from aiogate.config.units import Rate, format_duration, format_size, parse_pattern

__all__ = ["Fields", "api_plugins", "rate_of", "version_plugins"]

Object = Mapping[str, Any]
Plugin = dict[str, Any]


class Fields(Protocol):
    """The JSON object that is translated, and the verdicts on its fields."""

    def get(self, *path: str) -> Any: ...

    def refuse(self, field: str, note: str) -> None: ...

    def ignore(self, field: str, note: str) -> None: ...


def api_plugins(fields: Fields) -> list[Plugin]:
    """The entries for what Tyk says about an API as a whole."""
    plugins: list[Plugin] = []
    limit = _object(fields.get("global_rate_limit"))
    if limit.get("disabled") is not True:
        rate = rate_of(fields, "global_rate_limit.rate", limit.get("rate"), limit.get("per"))
        if rate:
            plugins.append({"rate_limit": rate})
    if fields.get("ip_access_control_disabled") is not True:
        lists = {
            ours: networks
            for ours, theirs in (("allow", "allowed_ips"), ("deny", "blacklisted_ips"))
            if (networks := _networks(fields, theirs))
        }
        if lists:
            plugins.append({"ip_filter": lists})
    cors = _object(fields.get("CORS"))
    if cors.get("enable") is True:
        plugins.append({"cors": _cors(fields, cors)})
    plugins += _processors(fields)
    return plugins


def version_plugins(fields: Fields, entries: Object, *, versioned: bool) -> list[Plugin]:
    """The entries for what Tyk says about versions; `entries` are these by name."""
    found = {name: list(_of_version(fields, name, _object(entry))) for name, entry in entries.items()}
    if not found:
        return []
    first = next(iter(found.values()))
    if not versioned or all(plugins == first for plugins in found.values()):
        return first
    return [
        {**plugin, "match": {**plugin.get("match", {}), "versions": [name]}}
        for name, plugins in found.items()
        for plugin in plugins
    ]


def rate_of(fields: Fields, field: str, limit: Any, window: Any) -> str:
    """`100/1s` of a count and its seconds; empty for no limit."""
    if not isinstance(limit, (int, float)) or isinstance(limit, bool) or limit <= 0:
        return ""
    if limit != int(limit) or limit >= 10**18:
        fields.refuse(field, "should be a whole number")
        return ""
    if not _is_number(window) or not 0.000001 <= window < 10**9:
        fields.refuse(field, "a limit needs its window of time")
        return ""
    return str(Rate(int(limit), float(window)))


def _object(value: Any) -> Object:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _networks(fields: Fields, field: str) -> list[str]:
    networks = []
    for index, text in enumerate(_texts(fields.get(field))):
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            fields.refuse(f"{field}.{index}", "should be an address or a network")
            continue
        networks.append(str(network) if "/" in text else str(network.network_address))
    return networks


_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\*\.)?[a-z0-9_.-]+(?::[0-9]{1,5})?", re.ASCII)
_METHOD: Final = re.compile(r"[A-Z][A-Z-]*", re.ASCII)


def _cors(fields: Fields, cors: Object) -> Object:
    """Tyk's defaults are ours, but for the origins: none means any."""
    origins = [one.lower().rstrip("/") for one in _texts(cors.get("allowed_origins"))]
    if not origins or "*" in origins:
        origins = ["*"]
    for index, origin in enumerate(origins):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            fields.refuse(f"CORS.allowed_origins.{index}", "should be an origin, such as https://*.example.com")
    config: dict[str, Any] = {"origins": origins}
    for ours, theirs in (("methods", "allowed_methods"), ("headers", "allowed_headers"), ("expose", "exposed_headers")):
        if values := _texts(cors.get(theirs)):
            config[ours] = ["*"] if "*" in values else [one.upper() for one in values] if ours == "methods" else values
    if cors.get("allow_credentials") is True:
        if origins == ["*"]:
            fields.refuse("CORS.allow_credentials", "with any origin every page could act for its visitor")
        config["credentials"] = True
    max_age = cors.get("max_age")
    if _is_number(max_age) and 0 < max_age < 10**9:
        config["max_age"] = format_duration(float(int(max_age)))
    elif _is_number(max_age) and max_age:
        fields.refuse("CORS.max_age", "should be seconds above zero")
    if cors.get("options_passthrough") is True:
        config["passthrough"] = True
    return config


def _processors(fields: Fields) -> Iterator[Plugin]:
    for place, one in _items(fields, "response_processors", fields.get("response_processors"), {"name", "options"}):
        options = _object(one.get("options"))
        if one.get("name") == "header_injector" and options.keys() <= {"add_headers", "remove_headers"}:
            edits = _edits(fields, f"{place}.options", options.get("add_headers"), options.get("remove_headers"))
            if edits:
                yield {"response_headers": edits}
        elif one.get("name") in ("response_body_transform", "response_body_transform_jq") and not options:
            fields.ignore(place, "what it would process is refused by its own name")
        else:
            fields.refuse(place, "this processing of responses")


def _items(fields: Fields, field: str, value: Any, known: set[str]) -> Iterator[tuple[str, Object]]:
    """Each object of a list that is not disabled, with its place. What stands in it and is not known is refused."""
    for index, one in enumerate(value if isinstance(value, list) else []):
        place = f"{field}.{index}"
        if not isinstance(one, Mapping):
            fields.refuse(place, "should be an object")
        elif one.get("disabled") is True or one.get("enabled") is False:
            fields.ignore(place, "is disabled")
        else:
            for key, inner in one.items():
                if key not in known | {"disabled", "enabled"} and inner not in (None, False, 0, "", [], {}):
                    fields.refuse(f"{place}.{key}", "unknown field")
            yield place, one


class _Version:
    """One version while it is read: where its paths go, and what is found wrong on the way."""

    def __init__(self, fields: Fields, name: str, entry: Object) -> None:
        self.fields = fields
        self.place = f"version_data.versions.{name}"
        self.entry = entry
        self.extended = _object(entry.get("extended_paths")) if entry.get("use_extended_paths") is True else {}
        self.any_case = entry.get("ignore_endpoint_case") is True
        self.listen = str(fields.get("proxy", "listen_path") or "").rstrip("/")

    def items(self, name: str, *known: str) -> Iterator[tuple[str, Object]]:
        place = f"{self.place}.extended_paths.{name}"
        return _items(self.fields, place, self.extended.get(name), {"path", "method", *known})

    def pattern(self, place: str, path: Any, *, any_case: bool = False) -> str:
        """Tyk's path as a pattern of ours; empty when there is none."""
        text = path if isinstance(path, str) else ""
        if not text:
            self.fields.refuse(place, "names no path")
            return ""
        if re.search(r"\{[0-9]+(?:,[0-9]*)?\}", text):
            # To Tyk these braces hold a name: the rule that is in force there is not the one that was meant.
            self.fields.refuse(place, "braces are a name to Tyk, not a repetition; write the pattern without them")
            return ""
        text = re.sub(r"\{[^}]+\}", "[^/]+", text)
        text = text.replace("/*/", "/[^/]+/").replace("/*", "/.*")
        if any_case or self.any_case:
            text = f"^(?i:{text[1:] if text.startswith('^') else f'.*(?:{text})'})"
        elif not text.startswith("^"):
            text = f"^.*(?:{text})" if "|" in text else f"^.*{text}"
        try:
            return parse_pattern(text).text
        except PydanticCustomError as error:
            self.fields.refuse(place, f"the pattern {error.message()}")
            return ""

    def patterns(self, place: str, path: Any, *, any_case: bool) -> list[str]:
        """The same for a list of access, which Tyk looks up with the listen path before it, too."""
        found = self.pattern(place, path, any_case=any_case)
        bare = path.removeprefix("^") if isinstance(path, str) else ""
        behind = [bare.removeprefix(self.listen)] if self.listen and bare.startswith(f"{self.listen}/") else []
        further = [self.pattern(place, f"^{text}", any_case=any_case) for text in behind]
        return [one for one in (found, *further) if one]

    def method(self, place: str, method: Any) -> list[str]:
        """The list of one method; none means all."""
        text = method.upper() if isinstance(method, str) else ""
        if method and not _METHOD.fullmatch(text):
            self.fields.refuse(f"{place}.method", "should be a method")
        return [text] if text else []

    def match(self, place: str, one: Object) -> Object:
        match: dict[str, Any] = {"paths": [self.pattern(place, one.get("path"))]}
        if methods := self.method(place, one.get("method")):
            match["methods"] = methods
        return match


_LISTS: Final = (("open", "ignored"), ("block", "black_list"), ("allow", "white_list"))


def _of_version(fields: Fields, name: str, entry: Object) -> Iterator[Plugin]:
    version = _Version(fields, name, entry)
    rules: dict[str, list[Any]] = {ours: [] for ours, _ in _LISTS}
    mocks: list[Plugin] = []
    if entry.get("use_extended_paths") is True:
        for ours, theirs in _LISTS:
            for place, one in version.items(theirs, "ignore_case", "method_actions"):
                _access(version, place, one, ours, rules, mocks)
    else:
        for ours, theirs in _LISTS:
            for index, path in enumerate(_texts(_object(entry.get("paths")).get(theirs))):
                rules[ours] += version.patterns(f"{version.place}.paths.{theirs}.{index}", path, any_case=False)
    for place, one in version.items("mock_response", "code", "body", "headers"):
        patterns = version.patterns(place, one.get("path"), any_case=False)
        mocks += _mock(version, place, patterns, version.method(place, one.get("method")), one, "body", rules)
    if any(rules.values()):
        yield {"paths": {ours: _once(entries) for ours, entries in rules.items() if entries}}
    yield from _sizes(version)
    yield from _headers(version)
    for place, one in version.items("rate_limit", "rate", "per"):
        if rate := rate_of(fields, f"{place}.rate", one.get("rate"), one.get("per")):
            yield {"rate_limit": rate, "match": version.match(place, one)}
    timeouts = []
    for place, one in version.items("hard_timeouts", "timeout"):
        limit = one.get("timeout")
        if _is_number(limit) and 0.001 <= limit < 10**9:
            timeouts.append({"timeout": format_duration(float(limit)), "match": version.match(place, one)})
        else:
            fields.refuse(f"{place}.timeout", "should be seconds above zero")
    # The first of Tyk's that matches holds, and the last of ours.
    yield from reversed(timeouts)
    yield from mocks


def _access(
    version: _Version, place: str, one: Object, ours: str, rules: dict[str, list[Any]], mocks: list[Plugin]
) -> None:
    """One entry of the lists of access."""
    patterns = version.patterns(place, one.get("path"), any_case=one.get("ignore_case") is True)
    actions = _object(one.get("method_actions"))
    if not actions:
        rules[ours] += _entries(patterns, version.method(place, one.get("method")))
    for method, action in actions.items():
        told = _object(action)
        at = f"{place}.method_actions.{method}"
        if told.get("action") in ("no_action", "", None):
            rules[ours] += _entries(patterns, version.method(at, method))
        elif told.get("action") == "reply":
            if ours == "allow":
                rules[ours] += _entries(patterns, version.method(at, method))
            mocks += _mock(version, at, patterns, version.method(at, method), told, "data", rules)
        else:
            version.fields.refuse(at, "this action")


def _entries(patterns: Sequence[str], methods: Sequence[str]) -> list[Any]:
    return [{"path": pattern, "methods": list(methods)} if methods else pattern for pattern in patterns]


def _once(entries: Sequence[Any]) -> list[Any]:
    return list({repr(entry): entry for entry in entries}.values())


def _mock(
    version: _Version,
    place: str,
    patterns: Sequence[str],
    methods: Sequence[str],
    told: Object,
    body: str,
    rules: dict[str, list[Any]],
) -> Iterator[Plugin]:
    status = told.get("code") or 200
    if not _is_number(status) or not 200 <= status <= 599 or status != int(status):
        version.fields.refuse(f"{place}.code", "should be a status from 200 to 599")
        return
    config: dict[str, Any] = {"status": int(status)}
    if told.get(body):
        config["body"] = told[body]
    if told.get("headers"):
        config["headers"] = dict(_object(told["headers"]))
    rules["open"] += _entries(patterns, methods)
    if patterns:
        yield {"mock": config, "match": {"paths": list(patterns), **({"methods": list(methods)} if methods else {})}}


def _sizes(version: _Version) -> Iterator[Plugin]:
    fields, entry = version.fields, version.entry
    limits: list[tuple[str, Any, Object | None]] = [
        (f"{version.place}.global_size_limit", entry.get("global_size_limit"), None)
    ]
    if entry.get("global_size_limit_disabled") is True:
        limits = []
    limits += [
        (f"{place}.size_limit", one.get("size_limit"), version.match(place, one))
        for place, one in version.items("size_limits", "size_limit")
    ]
    for field, limit, match in limits:
        if _is_number(limit) and 0 < limit < 10**15 and limit == int(limit):
            yield {"size_limit": format_size(int(limit)), **({"match": match} if match else {})}
        elif _is_number(limit) and limit <= 0:
            if limit:
                fields.ignore(field, "no limit")
        elif limit is not None:
            fields.refuse(field, "should be a number of bytes")


def _headers(version: _Version) -> Iterator[Plugin]:
    fields, entry = version.fields, version.entry
    for plugin, everywhere, by_path in (
        ("request_headers", "global_headers", "transform_headers"),
        ("response_headers", "global_response_headers", "transform_response_headers"),
    ):
        added, removed = (
            None if entry.get(f"{name}_disabled") is True else entry.get(name)
            for name in (everywhere, f"{everywhere}_remove")
        )
        if edits := _edits(fields, f"{version.place}.{everywhere}", added, removed):
            yield {plugin: edits}
        for place, one in version.items(by_path, "add_headers", "delete_headers", "act_on"):
            if edits := _edits(fields, place, one.get("add_headers"), one.get("delete_headers")):
                yield {plugin: edits, "match": version.match(place, one)}


def _edits(fields: Fields, place: str, added: Any, removed: Any) -> Object:
    """`{set, remove}` of Tyk's two lists, without what is empty."""
    edits: dict[str, Any] = {}
    if removed:
        edits["remove"] = _texts(removed)
        if not isinstance(removed, list) or len(edits["remove"]) != len(removed):
            fields.refuse(place, "should be names of headers")
    if added:
        edits["set"] = dict(_object(added))
        if not isinstance(added, Mapping) or not all(isinstance(value, str) for value in added.values()):
            fields.refuse(place, "should be headers and their texts")
        elif any(re.search(r"\$(?:tyk_|secret_)", value) for value in added.values()):
            fields.refuse(place, "a value that Tyk fills in for each request")
    return edits
