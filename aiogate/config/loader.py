"""All definitions and policies of a gateway, read and checked as one set.

A mistake in one file hides nothing in another: every file is read, every mistake is told. Files whose bytes and
variables did not change are taken over from the previous load without being parsed. The set is then checked as a whole:
an id or a listen path that two files claim, a policy that names an API that is not there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from aiogate.config import files, trust
from aiogate.config.definition import BrokenDefinition, Definition, read_definition
from aiogate.config.diagnose import did_you_mean
from aiogate.config.policy import read_policy
from aiogate.config.source import Source, examine
from aiogate.config.variables import Variables, expand, without_echo
from aiogate.domain.policy import Policy, PolicySet
from aiogate.errors import Diagnostic, DiagnosticsFound
from aiogate.turns import rest

__all__ = ["Declared", "Folders", "NotLoaded", "load"]

_SAMPLE: Final = "make it and put a file such as `hello.yaml` into it: listen: /hello/, auth: none, upstream: http://…"


class Folders(Protocol):
    """Where declarations are; `Settings` has them."""

    @property
    def apis(self) -> Path: ...

    @property
    def policies(self) -> Path: ...


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


@dataclass(frozen=True, slots=True)
class _Read(Generic[T]):
    """One file as it was read, to be taken over while it does not change."""

    source: Source
    thing: T


@dataclass(frozen=True, slots=True)
class Declared:
    """Everything that was declared. `policies` is the previous set itself while no policy changed.

    `definitions` are in the order of their files' names and hold those with `active: false` too. `warnings` refuse
    nothing.
    """

    definitions: tuple[Definition, ...] = ()
    policies: PolicySet = field(default_factory=PolicySet)
    warnings: tuple[Diagnostic, ...] = ()
    secrets: frozenset[Path] = frozenset()
    """The files that values come from, by `${file:…}`, and those of certificates and keys."""
    _apis: Mapping[str, _Read[Definition]] = field(default_factory=dict, repr=False, compare=False)
    _policies: Mapping[str, _Read[Policy]] = field(default_factory=dict, repr=False, compare=False)

    def parts(self) -> list[object]:
        """The files, each as it was read."""
        return [*self._apis.values(), *self._policies.values()]

    def policy_sources(self) -> Iterator[tuple[Policy, Source]]:
        """Each policy with the file that declares it."""
        for read in self._policies.values():
            yield read.thing, read.source

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file's bytes, by its name."""
        return {file: read.source.digest for reads in (self._apis, self._policies) for file, read in reads.items()}


class NotLoaded(DiagnosticsFound):
    """A load found mistakes. Plugins may find more, to be told in the same breath.

    `declared` holds what is free of mistakes so far, `broken` the definitions that are not, with the entries that could
    be read; without those whose variables have no value, where a plugin could only complain about `${NAME}`.
    """

    def __init__(
        self, diagnostics: Iterable[Diagnostic], declared: Declared, broken: Iterable[BrokenDefinition]
    ) -> None:
        super().__init__(diagnostics)
        self.declared = declared
        self.broken = tuple(broken)


def load(
    folders: Folders,
    previous: Declared | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    instead: Mapping[Path, bytes | None] | None = None,
) -> Declared:
    """Read and check everything. Raises `NotLoaded`, a `DiagnosticsFound`, with the mistakes of all files.

    `environ` resolves variables; None: the process's own. `instead` has bytes to be read in place of a file's own, and
    None for a file to be passed over: the set as it would be after a write that has not happened yet.
    """
    previous = previous or Declared()
    variables = Variables(os.environ if environ is None else environ, files.read_secret)
    instead = instead or {}
    apis = _Folder(variables, instead, read_definition, previous._apis)
    apis.read(folders.apis, required=True)
    policies = _Folder(variables, instead, _read_policy, previous._policies)
    policies.read(folders.policies, required=False)

    definitions = tuple(read.thing for read in apis.read_files.values())
    found = [*apis.found, *policies.found]
    found.extend(_shared_ids(apis.read_files.values()))
    found.extend(_shared_ids(policies.read_files.values()))
    found.extend(_shared_listen_paths(definitions))
    if not apis.unlisted:
        found.extend(_grants(policies.read_files.values(), definitions, apis.broken_ids))
    kept = (
        previous.policies
        if policies.read_files == previous._policies
        else PolicySet(_by_id(policies.read_files.values()).values())
    )
    own = [warning for definition in definitions for warning in definition.warnings]
    warnings = tuple(sorted([*apis.warnings, *policies.warnings, *own]))
    secrets = frozenset(_secret_files([*apis.read_files.values(), *policies.read_files.values()]))
    secrets |= {Path(path) for definition in definitions for path, _ in definition.files}
    declared = Declared(definitions, kept, warnings, secrets, apis.read_files, policies.read_files)
    if found:
        raise NotLoaded(found, declared, apis.broken)
    return declared


def _read_policy(source: Source, _: str) -> Policy:
    return read_policy(source)


class _Folder(Generic[T]):
    """The files of one folder, each read on its own."""

    def __init__(
        self,
        variables: Variables,
        instead: Mapping[Path, bytes | None],
        read: Callable[[Source, str], T],
        previous: Mapping[str, _Read[T]],
    ) -> None:
        self.read_files: dict[str, _Read[T]] = {}
        self.found: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.broken: list[BrokenDefinition] = []
        self.broken_ids: set[str] = set()
        self.unlisted = False
        self._variables = variables
        self._instead = instead
        self._read = read
        self._previous = previous

    def read(self, folder: Path, *, required: bool) -> None:
        for path in self._paths(folder, required=required):
            rest()
            data = b""
            try:
                replaced = self._instead.get(path)
                data = replaced if replaced is not None else files.read_bytes(path)
                self.read_files[str(path)] = self._one(str(path), data)
            except DiagnosticsFound as mistakes:
                self.found.extend(mistakes.diagnostics)
                self.broken_ids.update(_likely_ids(path, data))

    def _paths(self, folder: Path, *, required: bool) -> list[Path]:
        extra = {path for path, data in self._instead.items() if path.parent == folder and data is not None}
        try:
            listed = set(files.declarations(folder))
            self.warnings.extend(
                Diagnostic(
                    str(path),
                    0,
                    0,
                    "file_ignored",
                    "is not read",
                    "`aiogate import tyk` makes YAML of it",
                    severity="warning",
                )
                for path in files.unread(folder)
            )
        except FileNotFoundError:
            listed = set()
            if required and not extra:
                self.unlisted = True
                self.found.append(Diagnostic(str(folder), 0, 0, "file_unreadable", "there is no such folder", _SAMPLE))
        except OSError as error:
            listed = set()
            self.unlisted = True
            message = f"cannot be listed: {error.strerror or error}"
            self.found.append(Diagnostic(str(folder), 0, 0, "file_unreadable", message))
        removed = {path for path, data in self._instead.items() if data is None}
        # As text: paths compare themselves part by part, which for thousands takes milliseconds.
        return sorted((listed | extra) - removed, key=str)

    def _one(self, file: str, data: bytes) -> _Read[T]:
        """One file, taken over from the previous load where nothing that it depends on has changed."""
        known = self._previous.get(file)
        if (
            known is not None
            and known.source.digest == hashlib.sha256(data).hexdigest()
            and self._variables.unchanged(known.source.variables)
            and (not isinstance(known.thing, Definition) or trust.unchanged(known.thing.files))
        ):
            return known
        source, found = examine(file, data)
        missing: list[Diagnostic] = []
        if b"${" in data:
            source, missing = expand(source, self._variables)
        try:
            thing = self._read(source, _digest(source))
        except DiagnosticsFound as mistakes:
            if isinstance(mistakes, BrokenDefinition) and not missing:
                self.broken.append(mistakes)
            raise DiagnosticsFound(without_echo(mistakes.diagnostics, [*found, *missing])) from mistakes
        if found or missing:
            raise DiagnosticsFound([*found, *missing])
        return _Read(source, thing)


def _digest(source: Source) -> str:
    """Equal for a file that declares the same: its name, its bytes and the values of its variables."""
    digest = hashlib.sha256()
    for part in (source.file, source.digest, *(text for pair in source.variables for text in pair)):
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


_ID_LINE: Final = re.compile(rb"""^id:[ \t]*["']?([A-Za-z0-9][A-Za-z0-9._-]{0,63})""", re.MULTILINE)


def _likely_ids(path: Path, data: bytes) -> Iterator[str]:
    """What a broken file would be called: it is there, so whoever names it is not to blame."""
    yield path.stem
    for found in _ID_LINE.finditer(data):
        yield found[1].decode("ascii")


def _secret_files(reads: Iterable[_Read[Definition] | _Read[Policy]]) -> Iterator[Path]:
    for read in reads:
        for reference, _ in read.source.variables:
            if reference.startswith("file:"):
                yield Path(reference.removeprefix("file:"))


def _by_id(reads: Iterable[_Read[Policy]]) -> dict[str, Policy]:
    """By id, the first file of two that claim one: such a set is refused anyway."""
    by_id: dict[str, Policy] = {}
    for read in reads:
        by_id.setdefault(read.thing.id, read.thing)
    return by_id


def _shared_ids(reads: Iterable[_Read[T]]) -> Iterator[Diagnostic]:
    first: dict[str, str] = {}
    for read in reads:
        rest()
        identifier, file = read.thing.id, read.source.file
        if identifier in first:
            message = f"the id `{identifier}` is taken by {first[identifier]}"
            yield Diagnostic.at(read.source.locate(("id",)), "id_conflict", message, "choose another `id`", "id")
        first.setdefault(identifier, file)


def _shared_listen_paths(definitions: Iterable[Definition]) -> Iterator[Diagnostic]:
    first: dict[tuple[str | None, str], str] = {}
    for definition in definitions:
        rest()
        if not definition.active:
            continue
        place = (definition.listen.host, definition.listen.path)
        if place in first:
            where = f"{place[0] or ''}{place[1]}"
            message = f"`{where}` is taken by {first[place]}"
            position = definition.source.locate(("listen", "path"))
            hint = "choose another path or host, or set one of them `active: false`"
            yield Diagnostic.at(position, "listen_conflict", message, hint, "listen")
        first.setdefault(place, definition.file)


def _grants(
    reads: Iterable[_Read[Policy]], definitions: Iterable[Definition], broken: set[str]
) -> Iterator[Diagnostic]:
    """What policies say about APIs. APIs whose files are broken are not known, and nothing is said about them."""
    known = {definition.id: definition for definition in definitions}
    for read in reads:
        policy, source = read.thing, read.source
        for api in policy.access:
            position, path = source.locate_key(("access", api)), f"access.{api}"
            if api in known and known[api].org != policy.org:
                message = (
                    f"the API `{api}` belongs to the organisation `{known[api].org}`, the policy to `{policy.org}`"
                )
                yield Diagnostic.at(position, "policy_org_mismatch", message, "a policy opens APIs of its own", path)
            elif api not in known and api not in broken:
                message = f"there is no API `{api}`"
                yield Diagnostic.at(position, "policy_unknown_api", message, did_you_mean(api, known), path)
            elif api in known:
                yield from _versions(policy, source, known[api])


def _versions(policy: Policy, source: Source, definition: Definition) -> Iterator[Diagnostic]:
    """Versions that a policy opens and the API does not have. An API without versions has none to be named."""
    if definition.versions is None:
        return
    for index, version in enumerate(policy.access[definition.id].versions):
        if version not in definition.versions.list:
            path = ("access", definition.id, "versions", index)
            message = f"the API `{definition.id}` has no version `{version}`"
            hint = did_you_mean(version, definition.versions.list)
            yield Diagnostic.at(source.locate(path), "invalid_value", message, hint, ".".join(map(str, path)))
