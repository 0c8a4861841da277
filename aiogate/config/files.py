"""The only place in this room that touches the disk: a file's bytes within bounds, and the files of a folder."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from aiogate.config.source import MAX_BYTES, too_large
from aiogate.errors import Diagnostic, DiagnosticsFound
from aiogate.turns import rest

__all__ = [
    "below",
    "code",
    "declarations",
    "read_bytes",
    "read_certificate",
    "read_secret",
    "stamp",
    "stamps",
    "sync",
    "unread",
]

_LARGEST_SECRET: Final = 64 * 1024


def read_bytes(path: Path) -> bytes:
    """A declaration's bytes. Its size is looked at first: a file of 100 MB is refused without being read.

    Raises `DiagnosticsFound`.
    """
    try:
        data = _bounded(path, MAX_BYTES)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiagnosticsFound([Diagnostic(str(path), 0, 0, "file_unreadable", f"cannot be read: {reason}")]) from error
    if data is None:
        raise DiagnosticsFound([too_large(str(path))])
    return data


def read_secret(path: str) -> bytes:
    """The content of a file named by `${file:…}`. Raises OSError, also for one over 64 KiB."""
    data = _bounded(Path(path), _LARGEST_SECRET)
    if data is None:
        raise OSError(0, "it is larger than 64 KiB")
    return data


def read_certificate(path: Path) -> bytes:
    """The content of a file of certificates or of a key. Raises OSError, also for one over 1 MiB."""
    data = _bounded(path, MAX_BYTES)
    if data is None:
        raise OSError(0, "it is larger than 1 MiB")
    return data


def _bounded(path: Path, limit: int) -> bytes | None:
    """The bytes of a regular file, or None for one past `limit`. Never waits for a pipe's other end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is not a regular file")
        if status.st_size > limit:
            return None
        data = file.read(limit + 1)
    return data if len(data) <= limit else None


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk when this returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def declarations(folder: Path) -> list[Path]:
    """The `.yaml` and `.yml` files of a folder, by name; not those that begin with `.` or `_`. Raises OSError."""
    return _named(folder, (".yaml", ".yml"))


def unread(folder: Path) -> list[Path]:
    """The `.json` files of a folder: nothing reads them, and who comes from Tyk may think that something does."""
    return _named(folder, (".json",))


def _named(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(endings) and not entry.is_dir()]
    found: list[Path] = []
    for name in sorted(names):
        rest()
        if not name.startswith((".", "_")):
            found.append(folder / name)
    return found


def code(folder: Path) -> list[Path]:
    """The Python files of a folder of plugins and below it, by name; not those of hidden folders or Python's caches."""
    return sorted(path for path in below(folder) if path.suffix == ".py")


def below(folder: Path) -> Iterator[Path]:
    """The files of a folder and below it; not hidden ones, and not Python's caches."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in listed:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        path = folder / entry.name
        # A symbolic link to a folder above would never end.
        if entry.is_dir(follow_symlinks=False) or (
            entry.is_dir() and not folder.resolve().is_relative_to(path.resolve())
        ):
            yield from below(path)
        else:
            yield path


def stamp(declared: Iterable[Path], plugins: Path, single: Iterable[Path]) -> bytes:
    """Equal while nothing changes: the declarations in folders, the code of plugins, and files by themselves.

    It follows symbolic links, so that a folder whose links are moved to new files has another stamp. It looks at what a
    file cannot keep when it is written (the time of the last change of its inode), never into the file.
    """
    digest = hashlib.sha256()
    for folder in declared:
        try:
            paths = [*declarations(folder), *unread(folder)]
        except OSError:
            paths = []
            digest.update(b"\0")
        _stamp(digest, paths)
    _stamp(digest, code(plugins))
    _stamp(digest, single)
    return digest.digest()


def stamps(paths: Iterable[Path]) -> dict[Path, bytes]:
    """A stamp of each file by itself."""
    found: dict[Path, bytes] = {}
    for path in paths:
        digest = hashlib.sha256()
        _stamp(digest, (path,))
        found[path] = digest.digest()
    return found


def _stamp(digest: hashlib._Hash, paths: Iterable[Path]) -> None:
    for path in paths:
        rest()
        digest.update(os.fsencode(path))
        try:
            found = path.stat()
        except OSError:
            digest.update(b"\0")
            continue
        parts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(b"\0%d %d %d %d %d\n" % parts)
    digest.update(b"\0\0")
