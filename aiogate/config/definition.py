"""An API as it is declared: one file in `apis.d/`, as a frozen value.

    id: login
    listen: /login-api/
    upstream: http://127.0.0.1:9001/
    auth: [basic: {realm: Login}, key]
    plugins:
      - rate_limit: 1000/1m

`read_definition` reads each part on its own, so that a mistake in one does not hide those in another. What stands under
a plugin's key is kept as it is: the plugin's own model reads it when the API is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError

from aiogate.config.addresses import HostName, ListenPath
from aiogate.config.diagnose import diagnostics_of, did_you_mean
from aiogate.config.match import Match, MatchDeclaration
from aiogate.config.model import Model, mistake
from aiogate.config.source import MAX_DIAGNOSTICS, Path, Source, show_path
from aiogate.config.trust import FileDigest, Trust, read_trust
from aiogate.config.units import Timestamp
from aiogate.config.upstream import Upstream, UpstreamTimeouts
from aiogate.config.websocket import Protocol, WebSocket
from aiogate.errors import Diagnostic, DiagnosticsFound, Position

__all__ = [
    "Auth",
    "BrokenDefinition",
    "Declaration",
    "Definition",
    "Identifier",
    "Listen",
    "Match",
    "PluginUse",
    "SessionLimits",
    "Upstream",
    "UpstreamTimeouts",
    "VersionDeclaration",
    "Versions",
    "parse_identifier",
    "read_definition",
]

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_IDENTIFIER_WORDS: Final = "up to 64 letters, digits, `.`, `_` or `-`, the first a letter or digit"
_AUTH_WORDS: Final = "say how clients prove who they are, such as `auth: key`; an open API says `auth: none`"
_ENTRY_WORDS: Final = "write `- name` or `- name: {…}`"
_SIBLINGS: Final = ("match", "mode")
DEFAULT_ORGANISATION: Final = "default"
DEFAULT_VERSION_HEADER: Final = "X-Api-Version"


def parse_identifier(value: Any) -> str:
    """An id of an API, a policy, an organisation or a version; also one that YAML took for a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise mistake("invalid_id", "is a number here", f"quote it: '{value}'", show=True)
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be text", _IDENTIFIER_WORDS)
    if _IDENTIFIER.fullmatch(value) is None:
        raise mistake("invalid_id", "is not an id", _IDENTIFIER_WORDS, show=True)
    return value


Identifier = Annotated[
    str, BeforeValidator(parse_identifier), Field(json_schema_extra={"pattern": f"^{_IDENTIFIER.pattern}$"})
]
"""`[A-Za-z0-9][A-Za-z0-9._-]{0,63}`."""


class Listen(Model):
    """Where an API is found. The longest path wins; APIs with a host come before those without."""

    shorthand: ClassVar[str | None] = "path"

    path: ListenPath
    """Canonical, begins and ends with `/`."""
    host: HostName | None = None
    """Lower case, without a port; None: every host."""


class VersionDeclaration(Model):
    """One version of an API."""

    expires: Timestamp | None = None
    """Epoch seconds from which on the version is refused; None: never."""
    upstream: Upstream | None = None
    """Where this version's requests go; None: where the API's go."""


class Versions(Model):
    """How the version of a request is found, and which there are."""

    by: Literal["header", "query", "path"]
    name: str = ""
    """The header or query parameter; by header `X-Api-Version` unless given. By path the first segment decides."""
    default: str | None = None
    """The version of a request that names none; None: such a request is refused."""
    strip: bool = False
    """By path only: whether the version's segment is removed on the way upstream."""
    list: Annotated[Mapping[Identifier, VersionDeclaration], Field(min_length=1)]


class SessionLimits(Model):
    """Which limits of a session count at this API."""

    rate: bool = True
    quota: bool = True


@dataclass(frozen=True, slots=True)
class PluginUse:
    """One entry under `auth` or `plugins`.

    `config` is the raw YAML value under the plugin's key. `path` leads to it in the source, `position` is the place of
    the key.
    """

    name: str
    config: Any
    path: Path
    position: Position
    match: Match | None = None
    mode: Literal["enforce", "shadow"] = "enforce"


@dataclass(frozen=True, slots=True)
class Auth:
    """How clients are authenticated: not at all, by any of the methods, or by all of them.

    `session_from` names the method that supplies the session under `all`; None: the first.
    """

    mode: Literal["none", "any", "all"]
    methods: tuple[PluginUse, ...] = ()
    session_from: str | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """One API. Equal digests mean equal definitions: the digest covers the file's name, its bytes, its variables and
    the files that it names.

    `trust` is how TLS is spoken to the upstream of each version that has its own, and to the API's own under an empty
    name, where they have a `tls`. `files` are the files that were read for it. `warnings` refuse nothing.
    """

    id: str
    name: str
    org: str
    listen: Listen
    upstream: Upstream | None
    strip_listen_path: bool
    active: bool
    auth: Auth
    versions: Versions | None
    expires: float | None
    plugins: tuple[PluginUse, ...]
    session_limits: SessionLimits
    strip_credentials: bool
    websocket: WebSocket
    upgrades: tuple[str, ...]
    labels: Mapping[str, str]
    file: str
    digest: str
    source: Source = field(repr=False, compare=False)
    written_by_api: bool = False
    """Whether it came over HTTP, not from the operator: where it may lead to is limited (`domain.reach`)."""
    trust: Mapping[str, Trust] = field(default_factory=dict)
    files: tuple[FileDigest, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()


class BrokenDefinition(DiagnosticsFound):
    """A file with mistakes. `auth` and `plugins` hold the entries that could be read: their plugins may find more."""

    def __init__(self, diagnostics: Iterable[Diagnostic], source: Source, auth: Auth, plugins: tuple[PluginUse, ...]):
        super().__init__(diagnostics)
        self.source = source
        self.auth = auth
        self.plugins = plugins


class Declaration(Model):
    """The parts of a file that are no plugins. `auth` and `plugins` are read by hand: their keys are plugins' names."""

    id: Identifier | None = None
    name: str = ""
    org: Identifier = DEFAULT_ORGANISATION
    listen: Listen
    upstream: Upstream | None = None
    strip_listen_path: bool = True
    active: bool = True
    auth: Any = None
    versions: Versions | None = None
    expires: Timestamp | None = None
    plugins: Any = None
    session_limits: SessionLimits = SessionLimits()
    strip_credentials: bool = False
    websocket: WebSocket = WebSocket()
    upgrades: tuple[Protocol, ...] = ()
    labels: Mapping[str, str] = Field(default_factory=dict)


def read_definition(source: Source, digest: str = "") -> Definition:
    """The API that a file declares. Raises `BrokenDefinition`, a `DiagnosticsFound`, with every mistake in it."""
    found: list[Diagnostic] = []
    declared: Declaration | None = None
    try:
        declared = Declaration.model_validate(source.value)
    except ValidationError as error:
        found.extend(diagnostics_of(error, source, ()))
    identifier = declared.id if declared is not None and declared.id is not None else _stem(source, found)
    versions = _versions(declared.versions, source, found) if declared is not None else None
    reader = _Trusts(source, found)
    if declared is not None:
        reader.read("", declared.upstream, ("upstream",))
        for name, version in (versions.list if versions is not None else {}).items():
            reader.read(name, version.upstream, ("versions", "list", name, "upstream"))
    auth = _Entries(source, found).auth()
    plugins = _Entries(source, found).plugins()
    if found or declared is None:
        raise BrokenDefinition(found, source, auth, plugins)
    return Definition(
        id=identifier,
        name=declared.name or identifier,
        org=declared.org,
        listen=declared.listen,
        upstream=declared.upstream,
        strip_listen_path=declared.strip_listen_path,
        active=declared.active,
        auth=auth,
        versions=versions,
        expires=declared.expires,
        plugins=plugins,
        session_limits=declared.session_limits,
        strip_credentials=declared.strip_credentials,
        websocket=declared.websocket,
        upgrades=declared.upgrades,
        labels=declared.labels,
        file=source.file,
        digest="|".join((digest, *(content for _, content in reader.files))),
        source=source,
        written_by_api=source.by_api,
        trust=reader.trust,
        files=tuple(reader.files),
        warnings=tuple(reader.warnings),
    )


def _stem(source: Source, found: list[Diagnostic]) -> str:
    """The id of a file that gives none: its name without the ending."""
    stem = PurePath(source.file).stem
    if _IDENTIFIER.fullmatch(stem) is None and "id" not in source.value:
        message = f"the file's name `{stem}` cannot be the id"
        found.append(Diagnostic.at(source.locate(()), "invalid_id", message, f"add `id:`; {_IDENTIFIER_WORDS}"))
    return stem


class _Trusts:
    """The `tls` of each upstream of a definition, with the files that it names."""

    def __init__(self, source: Source, found: list[Diagnostic]) -> None:
        self.trust: dict[str, Trust] = {}
        self.files: list[FileDigest] = []
        self.warnings: list[Diagnostic] = []
        self._source = source
        self._found = found

    def read(self, name: str, upstream: Upstream | None, path: Path) -> None:
        """Take up one upstream; `path` leads to it."""
        if upstream is None or upstream.tls is None:
            return
        path = (*path, "tls")
        if not upstream.secure:
            self._refuse(path, "invalid_value", "`tls` is about https, and no URL here begins so", "write https://…")
            return

        def refuse(key: str, message: str, hint: str) -> None:
            place = (*path, key)
            self._refuse(place, "certificate_invalid", f"`{self._source.written(place)}` {message}", hint)

        trust, files = read_trust(upstream.tls, refuse)
        self.files.extend(files)
        if trust is not None:
            self.trust[name] = trust
        if not upstream.tls.verify:
            place = (*path, "verify")
            message = "the upstream's certificate is not verified: whoever stands in between can read and change all"
            hint = "name its authority: `ca: FILE`"
            warning = Diagnostic.at(self._source.locate(place), "tls_unverified", message, hint, show_path(place))
            self.warnings.append(replace(warning, severity="warning"))

    def _refuse(self, path: Path, code: str, message: str, hint: str) -> None:
        self._found.append(Diagnostic.at(self._source.locate(path), code, message, hint, show_path(path)))


def _versions(versions: Versions | None, source: Source, found: list[Diagnostic]) -> Versions | None:
    """The versions with what one key says about another."""
    if versions is None:
        return None

    def refuse(key: str, code: str, message: str, hint: str) -> None:
        path = ("versions", key)
        found.append(Diagnostic.at(source.locate(path), code, message, hint, show_path(path)))

    if versions.default is not None and versions.default not in versions.list:
        hint = did_you_mean(versions.default, versions.list)
        refuse(
            "default",
            "version_default_unknown",
            f"`{source.written(('versions', 'default'))}` is not in the list",
            hint,
        )
    if versions.by == "path":
        if versions.name:
            refuse("name", "invalid_value", "a version by path has no name", "the first segment of the path decides")
        return versions
    if versions.strip:
        refuse("strip", "invalid_value", "only a version by path can be stripped", "leave `strip` out")
    if versions.by == "header" and not versions.name:
        return versions.model_copy(update={"name": DEFAULT_VERSION_HEADER})
    if not versions.name:
        refuse("name", "missing_key", "`name` is missing", "name the query parameter that holds the version")
    elif versions.by == "header" and _TOKEN.fullmatch(versions.name) is None:
        refuse("name", "invalid_value", f"`{versions.name}` is not a header name", "such as `X-Api-Version`")
    return versions


class _Entries:
    """The lists whose keys are plugins' names, read from the raw values."""

    def __init__(self, source: Source, found: list[Diagnostic]) -> None:
        self.source = source
        self.found = found
        declared = source.value.get("versions")
        listed = declared.get("list") if isinstance(declared, dict) else None
        # None where the versions themselves are wrong: what they would have been is not known.
        self.versions: frozenset[str] | None = frozenset(listed) if isinstance(listed, dict) else None
        if declared is None:
            self.versions = frozenset()

    def refuse(self, path: Path, code: str, message: str, hint: str = "", *, key: bool = False) -> None:
        if len(self.found) >= MAX_DIAGNOSTICS:
            return
        position = self.source.locate_key(path) if key else self.source.locate(path)
        self.found.append(Diagnostic.at(position, code, message, hint, show_path(path)))

    def plugins(self) -> tuple[PluginUse, ...]:
        value = self.source.value.get("plugins")
        if value is None:
            return ()
        if not isinstance(value, list):
            self.refuse(("plugins",), "wrong_type", "`plugins` should be a list", "begin each entry with `- `")
            return ()
        uses = (self.entry(entry, ("plugins", index), _SIBLINGS) for index, entry in enumerate(value))
        return tuple(use for use in uses if use is not None)

    def auth(self) -> Auth:
        value = self.source.value.get("auth")
        if value is None or value in ([], {}):
            self.refuse(("auth",), "auth_missing", "the API does not say how it is protected", _AUTH_WORDS)
            return Auth("none")
        if value == "none":
            return Auth("none")
        if isinstance(value, dict) and ("all" in value or "session_from" in value):
            return self.all_of(value)
        if isinstance(value, list):
            return Auth("any", self.methods(value, ("auth",)))
        use = self.method(value, ("auth",))
        return Auth("any", (use,) if use is not None else ())

    def all_of(self, value: dict[str, Any]) -> Auth:
        for key in value:
            if key not in ("all", "session_from"):
                hint = "methods stand in the list under `all`"
                self.refuse(("auth", key), "unknown_key", f"`{key}` is not a known key", hint, key=True)
        listed = value.get("all")
        if not isinstance(listed, list) or not listed:
            self.refuse(("auth", "all"), "invalid_value", "`all` should be a list of methods", "such as `[key, basic]`")
            return Auth("all")
        methods = self.methods(listed, ("auth", "all"))
        session_from = value.get("session_from")
        names = [use.name for use in methods]
        if session_from is not None and names.count(session_from) != 1 and len(methods) == len(listed):
            hint = did_you_mean(str(session_from), dict.fromkeys(names))
            self.refuse(("auth", "session_from"), "invalid_value", "`session_from` names one of the methods", hint)
        return Auth("all", methods, session_from)

    def methods(self, listed: list[Any], path: Path) -> tuple[PluginUse, ...]:
        uses = (self.method(entry, (*path, index)) for index, entry in enumerate(listed))
        return tuple(use for use in uses if use is not None)

    def method(self, entry: Any, path: Path) -> PluginUse | None:
        """One method of authentication. It takes no `match`, and a method in shadow mode would leave the API open."""
        use = self.entry(entry, path, ("mode",))
        if use is None:
            return None
        if use.name == "none":
            self.refuse(path, "invalid_value", "`none` stands alone", "an open API says `auth: none`")
            return None
        if use.mode == "shadow":
            hint = "remove it; an open API says `auth: none`"
            self.refuse((*path, "mode"), "shadow_not_allowed", "authentication cannot run in shadow mode", hint)
        return use

    def entry(self, entry: Any, path: Path, siblings: tuple[str, ...]) -> PluginUse | None:
        """`name`, or `{name: config}` with `match` and `mode` beside it."""
        if isinstance(entry, str) and entry:
            return PluginUse(entry, None, path, self.source.locate(path))
        if not isinstance(entry, dict):
            self.refuse(path, "wrong_type", "an entry is a plugin's name, or a mapping with it", _ENTRY_WORDS)
            return None
        names = [key for key in entry if key not in siblings]
        if not names:
            self.refuse(path, "missing_key", "the entry names no plugin", _ENTRY_WORDS)
            return None
        # `match` under `auth` is no plugin either; the first key that could be one is.
        name = next((key for key in names if key not in _SIBLINGS), names[0])
        for other in names:
            if other != name:
                self.refuse_second(name, other, (*path, other), siblings)
        match = self.match(entry.get("match"), (*path, "match")) if "match" in siblings and "match" in entry else None
        mode = self.mode(entry, path)
        place = (*path, name)
        return PluginUse(name, entry[name], place, self.source.locate_key(place), match, mode)

    def refuse_second(self, name: str, other: str, path: Path, siblings: tuple[str, ...]) -> None:
        near = did_you_mean(other, siblings)
        if other in _SIBLINGS:
            self.refuse(path, "unknown_key", f"`{other}` is not a known key", "authentication has no `match`", key=True)
        elif near.startswith("did you mean"):
            self.refuse(path, "unknown_key", f"`{other}` is not a known key", near, key=True)
        else:
            message = f"`{name}` and `{other}` stand in one entry"
            self.refuse(path, "invalid_value", message, "one entry holds one plugin; begin another with `- `", key=True)

    def mode(self, entry: dict[str, Any], path: Path) -> Literal["enforce", "shadow"]:
        mode = entry.get("mode", "enforce")
        if mode not in ("enforce", "shadow"):
            self.refuse((*path, "mode"), "invalid_value", "`mode` should be `enforce` or `shadow`")
            return "enforce"
        return "shadow" if mode == "shadow" else "enforce"

    def match(self, value: Any, path: Path) -> Match | None:
        named = value.get("versions") if isinstance(value, dict) else None
        for index, version in enumerate(named if isinstance(named, list) else ()):
            if isinstance(version, str) and self.versions is not None and version not in self.versions:
                place = (*path, "versions", index)
                hint = did_you_mean(version, sorted(self.versions)) or "the API declares no versions"
                message = f"there is no version `{self.source.written(place)}`"
                self.refuse(place, "invalid_value", message, hint)
        try:
            declared = MatchDeclaration.model_validate(value)
        except ValidationError as error:
            self.found.extend(diagnostics_of(error, self.source, path))
            return None
        if declared == MatchDeclaration():
            self.refuse(path, "invalid_value", "`match` is empty", "leave it out, or give paths, methods or versions")
        return Match.of(declared)
