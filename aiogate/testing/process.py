"""A gateway in a process of its own: the command as an operator starts it, with its signals and its end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiogate.testing.client import GatewayClient

__all__ = ["GatewayProcess", "subprocess_gateway"]

_READY = re.compile(rb"aiogate ready: gateway (https?://[^,\s]+).*, control (https?://\S+)\n")
_COMMAND = (sys.executable, "-m", "aiogate", "serve")


class GatewayProcess(GatewayClient):
    """A started gateway. `log` is the file that takes its standard error."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, state: Path, ready: re.Match[bytes]) -> None:
        super().__init__(
            ready[1].decode(),
            ready[2].decode(),
            (state / "control.secret").read_text("ascii").strip(),
            (state / "dashboard.key").read_text("ascii").strip(),
        )
        self.process = process
        self.folder = folder
        self.log = folder / "aiogate.log"

    @property
    def pid(self) -> int:
        return self.process.pid

    def hangup(self) -> None:
        """Ask for a reload by SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def terminate(self) -> None:
        """Ask for an orderly end by SIGTERM."""
        self.process.terminate()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()

    async def ended(self, within: float = 30.0) -> int:
        """The exit code, waited for. Raises TimeoutError after `within` seconds."""
        async with asyncio.timeout(within):
            return await self.process.wait()


@asynccontextmanager
async def subprocess_gateway(
    folder: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    command: Sequence[str] = _COMMAND,
    within: float = 20.0,
) -> AsyncIterator[GatewayProcess]:
    """Start `aiogate serve` in `folder` on two free ports, wait until it is ready, and stop it at the end.

    `arguments` are further flags; the state is in `folder/var`. Raises RuntimeError with what it wrote when it ends
    before it is ready, TimeoutError after `within` seconds.
    """
    log = folder / "aiogate.log"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", *arguments,
            cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=errors,
            env={**os.environ, **(environ or {})},
        )  # fmt: skip
    try:
        async with asyncio.timeout(within):
            ready = await _ready(process, log)
        async with GatewayProcess(process, folder, folder / "var", ready) as gateway:
            yield gateway
    finally:
        await _end(process)


async def _ready(process: asyncio.subprocess.Process, log: Path) -> re.Match[bytes]:
    assert process.stdout is not None
    written = b""
    while line := await process.stdout.readline():
        written += line
        ready = _READY.match(line)
        if ready is not None:
            return ready
    code = await process.wait()
    errors = await asyncio.to_thread(log.read_text)
    raise RuntimeError(f"the gateway ended with {code}:\n{written.decode()}{errors}")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.communicate()
        except TimeoutError:
            process.kill()
    await process.communicate()
