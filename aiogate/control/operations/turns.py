"""One writer of declarations at a time: of this process, of all workers, and of all machines that share the folders.

Among processes it is a lock of the operating system (flock(2), on a network drive its server's) on a file that is there
while somebody writes. The kernel gives it up with the process that holds it. Its name begins with a dot, so it declares
nothing; whoever is done takes it away, and whoever gets a lock on a file that was taken away tries again.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from aiogate.errors import Rejected

__all__ = ["LOCK", "Turns"]

LOCK: Final = ".aiogate.lock"
PATIENCE: Final = 30.0
"""Seconds after which a writer is told that others write."""
_LOOK: Final = 0.02
_NOT_OURS: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
"""Nobody here writes into such a folder."""


class Turns:
    """Writers of one process, who wait for each other and for those of others."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        self._own = asyncio.Lock()

    @asynccontextmanager
    async def hold(self, folder: Path, others: Sequence[Path] = ()) -> AsyncIterator[None]:
        """Be the only one who writes into `folder`, which is made, and into `others` as far as we could.

        Raises `Rejected` 503 when others do not come to an end, and OSError when `folder` cannot be written.
        """
        async with self._own, AsyncExitStack() as stack:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            wanted = await asyncio.to_thread(_in_order, folder, others)
            for place, needed in wanted:
                try:
                    lock = await _locked(place)
                except OSError as error:
                    if needed or error.errno not in _NOT_OURS:
                        raise
                    continue
                stack.push_async_callback(asyncio.to_thread, _release, place, lock)
            yield


def _in_order(folder: Path, others: Sequence[Path]) -> list[tuple[Path, bool]]:
    """The folders by their real names, each once: all take them in this order, so that nobody waits in a circle."""
    needed = folder.resolve()
    return [(place, place == needed) for place in sorted({needed, *(other.resolve() for other in others)})]


async def _locked(folder: Path) -> int:
    """The descriptor of the locked file. Raises `Rejected` and OSError."""
    loop = asyncio.get_running_loop()
    due = loop.time() + PATIENCE
    while True:
        trying = loop.run_in_executor(None, _try, folder)
        try:
            lock = await asyncio.shield(trying)
        except asyncio.CancelledError:
            # A thread cannot be stopped, and nobody would give back what it gets.
            await asyncio.wait((trying,))
            if trying.exception() is None and (got := trying.result()) is not None:
                _release(folder, got)
            raise
        if lock is not None:
            return lock
        if loop.time() >= due:
            raise Rejected(503, "Another gateway is writing", [f"{folder / LOCK} is held for {PATIENCE:g} s"])
        await asyncio.sleep(_LOOK)


def _try(folder: Path) -> int | None:
    """Lock the folder's file, made if need be; None: somebody has it, or it was just taken away. Raises OSError."""
    path = folder / LOCK
    # Whoever may write into the folder may do so, and lock: flock over NFS wants a file that is open for writing.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.lstat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _release(folder: Path, handle: int) -> None:
    """Take the file away, then give up the lock: in this order nobody gets a lock on a file that others do not see."""
    with suppress(OSError):  # the folder is gone, or nobody may write there any more: the next one finds the file
        (folder / LOCK).unlink()
    os.close(handle)
