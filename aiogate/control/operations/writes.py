"""APIs and policies written through the control API: checked with the whole set, then put into a file.

Nothing is served before the next reload. What a write would break is refused, what was broken before is told; a file
that somebody wrote by hand stays as it is unless the caller insists. Writes go one after another, so that each is
checked against what the one before left behind.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiogate.config.definition import DEFAULT_ORGANISATION, Definition, parse_identifier
from aiogate.config.loader import Declared
from aiogate.config.provenance import THROUGH_API, is_untouched
from aiogate.control.operations import reach
from aiogate.control.operations.definition_files import check_text, holds_secret, remove_file, replace_file, strings
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.names import public_name
from aiogate.control.operations.translate import (
    DEEPEST,
    Translation,
    deeper,
    translate_api,
    translate_policy,
    yaml_text,
)
from aiogate.control.operations.turns import Turns
from aiogate.domain.policy import Policy
from aiogate.errors import Diagnostic, DiagnosticsFound, Rejected

__all__ = ["Saved", "Wish", "Writes"]

_log = logging.getLogger("aiogate.control")
_MOST_NAMED: Final = 20

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks for beside the body.

    `id` is the one in the path, empty for none. `org`: the caller's own organisation, which overrides what the body
    says; None: the body's. `native`: the body is in our format, not Tyk's. `force`: overwrite what was written by hand,
    and delete what keys still name. `exists`: whether the thing must be there already (True), must not (False), or may
    be (None).
    """

    id: str = ""
    org: str | None = None
    native: bool = False
    force: bool = False
    exists: bool | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a write did. `ignored` are fields that change nothing here, `warnings` what stands in a reload's way."""

    id: str
    ignored: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Kind:
    """What differs between an API and a policy."""

    noun: str
    is_api: bool
    translate: Callable[[Object], Translation]
    missing: str
    bad_id: str
    mismatch: str
    refused: str
    taken: str


_API: Final = _Kind(
    noun="API",
    is_api=True,
    translate=translate_api,
    missing="API not found",
    bad_id="Invalid API ID",
    mismatch="Request APIID does not match that in Definition! For Update operations these must match.",
    refused="Validation of API Definition failed. Reason: {}.",
    taken="Found API with the same ID",
)
_POLICY: Final = _Kind(
    noun="policy",
    is_api=False,
    translate=translate_policy,
    missing="Policy not found",
    bad_id="Invalid Policy ID: Allowed characters: a-z, A-Z, 0-9, ., _, -",
    mismatch="Request ID does not match that in policy! For Update operations these must match.",
    refused="Validation of policy failed. Reason: {}.",
    taken="Found policy with the same ID",
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a thing stands, or would stand. `org` is None where nothing that can be read stands there."""

    file: Path
    org: str | None
    data: bytes | None = field(repr=False)

    @property
    def by_hand(self) -> bool:
        return self.file.is_symlink() or (self.data is not None and not is_untouched(self.data))


class Writes:
    """Writes of APIs and policies of one gateway."""

    __slots__ = ("_gateway", "_turns")

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway
        self._turns = Turns()

    async def save_api(self, body: Object, wish: Wish) -> Saved:
        """Write an API. Raises `Rejected` with every reason, and then nothing was written."""
        return await self._save(_API, body, wish)

    async def save_policy(self, body: Object, wish: Wish) -> Saved:
        """Write a policy. Raises `Rejected` with every reason, and then nothing was written."""
        return await self._save(_POLICY, body, wish)

    async def delete_api(self, wish: Wish) -> Saved:
        """Delete an API that no policy names, and, unless forced, no key either."""
        return await self._delete(_API, wish)

    async def delete_policy(self, wish: Wish) -> Saved:
        """Delete a policy. Keys that name it are refused from the next reload on."""
        return await self._delete(_POLICY, wish)

    async def policy_named(self, name: str, org: str) -> Policy | None:
        """The policy of this name in an organisation, written or served."""
        declared = await self._gateway.declared()
        return next((policy for policy in declared.policies if policy.name == name and policy.org == org), None)

    async def _save(self, kind: _Kind, body: Object, wish: Wish) -> Saved:
        native, ignored, identifier = _native(kind, body, wish)
        if wish.org is not None:
            native = {"id": identifier, "org": wish.org, **_without(native, "id", "org")}
        if not wish.native:
            native = _spare(native)
        async with self._turn(kind):
            place = await self._place(kind, identifier)
            self._may_write(kind, identifier, place, wish)
            standing = strings(place.data)
            native = _variables(native, standing, escape=not wish.native)
            if named := [
                path for path, file in _files(native, "") if not isinstance(file, str) or file not in standing
            ]:
                raise _no_file(named)
            text = yaml_text(native, "from Tyk's classic JSON" if not wish.native else "in our format", THROUGH_API)
            try:
                definition = check_text(place.file, text, is_api=kind.is_api)
            except DiagnosticsFound as mistakes:
                raise _invalid(kind, [_told(found) for found in mistakes.diagnostics]) from None
            if isinstance(definition, Definition):
                settings = self._gateway.settings
                unreachable = await reach.judge(
                    definition, self._gateway.control_listener, private=settings.control.private_upstreams
                )
                if unreachable:
                    raise _invalid(kind, unreachable)
            own, others, before = await self._rehearse(place.file, text.encode())
            if own or others:
                raise _invalid(kind, [*map(_told, own), *map(str, others)])
            await _on_disk(replace_file, place.file, text, secret=holds_secret(native), force=wish.force)
        _log.info("%s %s was written to %s", kind.noun, identifier, place.file)
        return Saved(identifier, ignored, before)

    async def _delete(self, kind: _Kind, wish: Wish) -> Saved:
        async with self._turn(kind):
            place = await self._place(kind, _identifier(kind, wish.id, status=404))
            if place.data is None or (wish.org is not None and place.org != wish.org):
                raise Rejected(404, kind.missing)
            if place.by_hand and not wish.force:
                raise _hand_written(kind, wish.id, place)
            if kind.is_api:
                await self._must_be_unused(wish)
            _, others, before = await self._rehearse(place.file, None)
            if others:
                raise Rejected(409, f"The {kind.noun} is in use", [str(found) for found in others])
            await _on_disk(remove_file, place.file)
        _log.info("%s %s was deleted with %s", kind.noun, wish.id, place.file)
        return Saved(wish.id, warnings=before)

    @asynccontextmanager
    async def _turn(self, kind: _Kind) -> AsyncIterator[None]:
        """Be the only one who writes. An API may not go while a policy comes that names it: both folders are held."""
        settings = self._gateway.settings
        own, other = (settings.apis, settings.policies) if kind.is_api else (settings.policies, settings.apis)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._turns.hold(own, (other,)))
            except OSError as error:
                raise _unwritable(own, error) from error
            yield

    async def _place(self, kind: _Kind, identifier: str) -> _Place:
        declared = await self._gateway.declared()
        found = _declared(declared, kind, identifier)
        folder = self._gateway.settings.apis if kind.is_api else self._gateway.settings.policies
        if found is not None:
            file = Path(found.file)
        else:
            # A file with mistakes declares nothing that could be found by its id; its name is the next best thing.
            spellings = (folder / f"{identifier}.yaml", folder / f"{identifier}.yml")
            file = next((path for path in spellings if path.is_symlink() or path.exists()), spellings[0])
        data = await asyncio.to_thread(_content, file)
        return _Place(file, found.org if found is not None else None, data)

    def _may_write(self, kind: _Kind, identifier: str, place: _Place, wish: Wish) -> None:
        foreign = wish.org is not None and place.data is not None and place.org != wish.org
        if wish.exists is True and (place.data is None or foreign):
            raise Rejected(404, kind.missing)
        if foreign or (wish.exists is False and place.data is not None):
            raise Rejected(409, kind.taken)
        if place.by_hand and (not wish.force or place.file.is_symlink()):
            raise _hand_written(kind, identifier, place)

    async def _must_be_unused(self, wish: Wish) -> None:
        """Refuse to delete an API that policies or keys name, with the list."""
        declared = await self._gateway.declared()
        using = [f"policy {policy.id}" for policy in declared.policies if wish.id in policy.access]
        sessions = self._gateway.sessions
        if not wish.force:
            records = await sessions.page(api=wish.id, limit=_MOST_NAMED)
            using += [f"{'user' if record.kind == 'basic' else 'key'} {public_name(record)}" for record in records]
            count = await sessions.count(api=wish.id)
            if count > len(records):
                using.append(f"{count - len(records)} more keys and users")
        if using:
            raise Rejected(409, f"API {wish.id} is in use", using)

    async def _rehearse(
        self, file: Path, data: bytes | None
    ) -> tuple[Sequence[Diagnostic], Sequence[Diagnostic], Sequence[str]]:
        """What a reload would say of this file, what it would newly say of others, and what it says anyway."""
        found = _errors(await self._gateway.rehearse({file: data}))
        own = [one for one in found if Path(one.file) == file]
        others = [one for one in found if Path(one.file) != file]
        if not others:
            return own, (), ()
        before = set(_errors(await self._gateway.rehearse({})))
        standing = [f"a reload is refused: {one}" for one in others if one in before]
        return own, [one for one in others if one not in before], standing


def _native(kind: _Kind, body: Object, wish: Wish) -> tuple[Object, Sequence[str], str]:
    """The body in our format with its id, and the fields that were ignored."""
    ignored: Sequence[str] = ()
    if wish.native:
        if deeper(body, DEEPEST):
            raise _invalid(kind, [f"nested deeper than {DEEPEST} levels"])
        native, given = body, body.get("id")
    else:
        translation = kind.translate(body)
        if translation.refused:
            raise _invalid(kind, list(translation.refused))
        native, ignored, given = translation.native, translation.ignored, translation.id
    if given is not None and not isinstance(given, str):
        raise _invalid(kind, ["id: should be text"])
    if wish.id and given and given != wish.id:
        raise Rejected(400, kind.mismatch)
    identifier = _identifier(kind, wish.id or given or (uuid.uuid4().hex if kind.is_api else ""))
    return {"id": identifier, **_without(native, "id")}, ignored, identifier


def _identifier(kind: _Kind, text: str, *, status: int = 400) -> str:
    if not text and not kind.is_api:
        raise Rejected(400, "Unable to create policy without id.")
    try:
        return parse_identifier(text)
    except ValueError:
        if status == 404:
            raise Rejected(404, kind.missing) from None
        details = ["up to 64 letters, digits, `.`, `_` or `-`, the first a letter or digit"]
        raise Rejected(400, kind.bad_id, details) from None


def _without(native: Object, *keys: str) -> dict[str, Any]:
    return {name: value for name, value in native.items() if name not in keys}


def _spare(native: Object) -> Object:
    """Without what stands there anyway: `GET` shows every field, and its `PUT` should change nothing."""
    defaults = {"name": native["id"], "org": DEFAULT_ORGANISATION}
    return {key: value for key, value in native.items() if key not in defaults or value != defaults[key]}


def _declared(declared: Declared, kind: _Kind, identifier: str) -> Definition | Policy | None:
    if not kind.is_api:
        return declared.policies.get(identifier)
    return next((definition for definition in declared.definitions if definition.id == identifier), None)


def _variables(value: Any, standing: frozenset[str], *, escape: bool) -> Any:
    """The value with its `${…}` made harmless: a text that does not stand in the file already is not to be resolved.

    `escape`: it becomes literal, because Tyk has no such variables. Otherwise `${NAME}` is a variable as in every file,
    but a file of the machine cannot be named: a caller would read it in the answers of an API.
    """
    if isinstance(value, str):
        if "${" not in value or value in standing:
            return value
        if escape:
            return value.replace("${", "$${")
        if "${file:" in value.replace("$${", ""):
            raise Rejected(
                400, "A file cannot be named through the control API", [value.partition("${file:")[0] or value]
            )
        return value
    if isinstance(value, Mapping):
        return {key: _variables(inner, standing, escape=escape) for key, inner in value.items()}
    return [_variables(inner, standing, escape=escape) for inner in value] if isinstance(value, list) else value


def _files(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every file of the machine that a declaration names, with its place: those of TLS to upstreams."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{path}.{key}" if path else str(key)
            if key == "tls" and isinstance(inner, Mapping):
                yield from ((f"{place}.{name}", text) for name, text in inner.items() if name in _TLS_FILES and text)
            else:
                yield from _files(inner, place)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _files(inner, f"{path}.{index}")


_TLS_FILES: Final = ("ca", "certificate", "key")


def _no_file(places: Sequence[str]) -> Rejected:
    """What a caller may not read or use: an operator of the machine writes it into the file."""
    details = [f"{place}: only who may write into the folder names files" for place in places]
    return Rejected(400, "A file of the machine cannot be named through the control API", details)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unwritable(file, error) from error


async def _on_disk(do: Callable[..., None], file: Path, *arguments: Any, **further: Any) -> None:
    try:
        await asyncio.to_thread(do, file, *arguments, **further)
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> Rejected:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Rejected(507 if full else 503, f"The file {file.name} cannot be written", [error.strerror or str(error)])


def _hand_written(kind: _Kind, identifier: str, place: _Place) -> Rejected:
    if place.file.is_symlink():
        return Rejected(409, f"The {kind.noun} {identifier} is a link to another file", [str(place.file)])
    hint = "force=1 in the query writes it anyway, without its comments"
    return Rejected(409, f"The {kind.noun} {identifier} was written by hand", [f"it stands in {place.file}", hint])


def _invalid(kind: _Kind, reasons: Sequence[str]) -> Rejected:
    return Rejected(400, kind.refused.format(reasons[0].rstrip(".")), reasons)


def _told(found: Diagnostic) -> str:
    """A mistake in what the caller sent: the place in the file that was not written helps nobody."""
    hint = f" ({found.hint})" if found.hint else ""
    return f"{found.path}: {found.message}{hint}" if found.path else f"{found.message}{hint}"


def _errors(found: Sequence[Diagnostic]) -> Sequence[Diagnostic]:
    return [one for one in found if one.severity == "error"]
