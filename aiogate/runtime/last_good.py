"""`<state>/last-good`: the declared files of the last accepted load, for `serve --keep-last-good`.

Files are kept under the SHA-256 of their bytes, so that a reload writes what is new and nothing else; `manifest.json`,
replaced in one step when they are on the disk, says which of them make up the generation. What is restored is checked
against those sums: a copy that is not whole is no copy. Files are kept as they are written, with every `${…}`
unresolved, for their owner only.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from aiogate.config import files
from aiogate.errors import Diagnostic
from aiogate.runtime.reload import stamp
from aiogate.turns import in_small_turns, rest

if TYPE_CHECKING:
    from aiogate.config.settings import Settings
    from aiogate.runtime.gateway import Gateway
    from aiogate.runtime.reload import Generation

__all__ = ["Fallback", "Restored", "changed_since", "keep", "keep_each", "keep_served", "restore"]

_log = logging.getLogger("aiogate.reload")
FOLDER: Final = "last-good"
SETTINGS: Final = "aiogate.yaml"
FOLDERS: Final = {"apis": "apis.d", "policies": "policies.d", "plugins": "plugins"}
LARGEST: Final = 16 * 1024 * 1024
"""Bytes from which on a file beside the code of a plugin is not kept."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Kept files in their places.

    `at` is when they were accepted, in epoch seconds; `settings` is the settings file, if there was one.
    """

    at: float
    folder: Path
    settings: Path | None

    def serves(self, settings: Settings) -> Settings:
        """These settings with the folders of the kept files."""
        return settings.model_copy(update={name: self.folder / kept for name, kept in FOLDERS.items()})


@dataclass(frozen=True, slots=True)
class Fallback:
    """A start on kept files: the settings in force, those that say where the files are, and why."""

    settings: Settings
    restored: Restored
    mistakes: tuple[Diagnostic, ...]

    def __str__(self) -> str:
        accepted = datetime.fromtimestamp(self.restored.at, UTC).isoformat(" ", "seconds")
        return f"the last good generation, of {accepted}, kept in {self.restored.folder}"


async def keep_each(gateway: Gateway) -> None:
    """Keep what each accepted load declared, until cancelled."""
    while True:
        await gateway.accepted.wait()
        gateway.accepted.clear()
        if gateway.fallback is None:
            await keep_served(gateway)


async def keep_served(gateway: Gateway) -> None:
    """Keep what is served. What cannot be written is told, and harms nothing.

    Whoever holds a generation when it is replaced frees all of it at once, in the way of requests: not for long, here.
    """
    generation, settings = gateway.generation, gateway.settings
    assert generation is not None
    writing = asyncio.ensure_future(asyncio.to_thread(keep, settings, generation, gateway.clock.now()))
    try:
        with in_small_turns():
            await asyncio.shield(writing)
    except asyncio.CancelledError:
        # A thread cannot be stopped, and nothing may be written once the gateway has ended.
        await asyncio.wait((writing,))
        raise
    except OSError as error:
        _log.warning("generation %d could not be kept as the last good one: %s", generation.number, error)


def changed_since(settings: Settings) -> bool:
    """Whether the declared files are others than those that were kept. Raises OSError."""
    try:
        kept = orjson.loads((settings.state / FOLDER / "manifest.json").read_bytes())["files"]
    except (FileNotFoundError, orjson.JSONDecodeError):
        return False
    for name, paths in _files(settings):
        digests = {relative: hashlib.sha256(path.read_bytes()).hexdigest() for relative, path in paths.items()}
        if digests != kept.get(name, {}):
            return True
    return False


def keep(settings: Settings, generation: Generation, now: float) -> bool:
    """Write what is new of this generation's files. False: they changed since, and nothing was kept. Raises OSError."""
    home = settings.state / FOLDER
    blobs = home / "files"
    for folder in (home, blobs):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = {entry.name for entry in os.scandir(blobs)}
    written: list[Path] = []
    manifest: dict[str, dict[str, str]] = {}
    for name, paths, known in _declared(settings, generation):
        manifest[name] = {}
        for relative, path in paths.items():
            rest()
            digest = known.get(str(path), "")
            if not digest or digest not in there:
                data = path.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                if digest not in there:
                    _write(blobs / digest, data)
                    written.append(blobs / digest)
                    there.add(digest)
            manifest[name][relative] = digest
    if stamp(settings) != generation.stamp:
        return False
    text = orjson.dumps({"at": now, "files": manifest}, option=orjson.OPT_SORT_KEYS)
    # All at once, in the end: the first of them makes the file system write what it would write for the others, too.
    for path in (*written, blobs):
        rest()
        files.sync(path)
    _write(home / "manifest.json", text)
    for path in (home / "manifest.json", home):
        files.sync(path)
    for name in there - {digest for kept in manifest.values() for digest in kept.values()}:
        (blobs / name).unlink(missing_ok=True)
    return True


def restore(state: Path, into: str = "serving") -> Restored | None:
    """The kept files, written into `<state>/last-good/<into>`; None: there are none, or they are not whole."""
    home = state / FOLDER
    serving = home / into
    try:
        read = orjson.loads((home / "manifest.json").read_bytes())
        at, kept = float(read["at"]), read["files"]
        shutil.rmtree(serving, ignore_errors=True)
        serving.mkdir(mode=0o700)
        for folder in FOLDERS.values():
            (serving / folder).mkdir(mode=0o700)
        for name, entries in kept.items():
            for relative, digest in entries.items():
                data = (home / "files" / digest).read_bytes()
                if hashlib.sha256(data).hexdigest() != digest:
                    raise ValueError(f"the copy of {relative} is damaged")
                place = serving / FOLDERS.get(name, "") / relative
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write(place, data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.error("the last good generation in %s cannot be used: %s", home, error)
        return None
    return Restored(at, serving, serving / SETTINGS if kept.get("settings") else None)


def _declared(
    settings: Settings, generation: Generation
) -> Iterable[tuple[str, Mapping[str, Path], Mapping[str, str]]]:
    """Each folder's name, its files by their relative name, and the sums that are known of them."""
    known = generation.declared.digests()
    for name, paths in _files(settings):
        yield name, paths, known if name in ("apis", "policies") else {}


def _files(settings: Settings) -> Iterable[tuple[str, Mapping[str, Path]]]:
    """Each folder's name, and its files by their relative name."""
    yield "settings", ({SETTINGS: settings.file} if settings.file is not None else {})
    for name in ("apis", "policies"):
        folder: Path = getattr(settings, name)
        yield name, {path.name: path for path in files.declarations(folder)} if folder.is_dir() else {}
    plugins = [path for path in files.below(settings.plugins) if path.is_file() and path.stat().st_size <= LARGEST]
    yield "plugins", {str(path.relative_to(settings.plugins)): path for path in plugins}


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step, mode 0600. Raises OSError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    aside.replace(path)
