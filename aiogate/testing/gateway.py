"""A whole gateway inside the test's event loop: YAML in, sockets out."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from aiogate.config.settings import load_settings
from aiogate.control.application import application
from aiogate.runtime.worker import serving
from aiogate.testing.client import GatewayClient

if TYPE_CHECKING:
    from aiogate.clock import Clock
    from aiogate.config.settings import Settings
    from aiogate.runtime.gateway import Gateway
    from aiogate.runtime.reload import ReloadVerdict

__all__ = ["GatewayFixture", "running_gateway", "write_files"]


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts, without their common indentation, under their paths inside `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")


class GatewayFixture(GatewayClient):
    """A gateway that serves `folder` in this process. `gateway` is the running thing itself."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        state = gateway.settings.state
        super().__init__(
            gateway.listen_urls[0],
            gateway.control_url,
            gateway.secret,
            (state / "dashboard.key").read_text("ascii").strip(),
        )
        self.gateway = gateway
        self.folder = folder

    def write(self, files: Mapping[str, str]) -> None:
        """Write files as an operator would; the next reload reads them."""
        write_files(self.folder, files)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    async def reload(self, files: Mapping[str, str] | None = None) -> ReloadVerdict:
        """Write `files`, then reload; the verdict says whether it was accepted."""
        self.write(files or {})
        return await self.gateway.reload("test")


@asynccontextmanager
async def running_gateway(
    files: Mapping[str, str] | Path,
    *,
    clock: Clock | None = None,
    folder: Path | None = None,
    **settings: object,
) -> AsyncIterator[GatewayFixture]:
    """Serve files on two free ports of the loopback interface until the block ends.

    `files` maps names such as `apis.d/login.yaml`, `policies.d/gold.yaml`, `plugins/own.py` or `aiogate.yaml` to their
    texts (common indentation is taken off), or is a folder that holds such files. `folder` is where they are written;
    None: a temporary one. `settings` go before those of `aiogate.yaml`; a dot is written as two underscores
    (`timeouts__drain="1s"`). Unless told otherwise the store is in memory, a password costs little to hash, and the
    end does not wait for connections. Raises `aiogate.errors.DiagnosticsFound` for files that cannot be served.
    """
    own = nullcontext(str(folder)) if folder is not None else tempfile.TemporaryDirectory(prefix="aiogate-")
    with own as made:
        base = Path(made)
        if isinstance(files, Path):
            home = files
        else:
            home = base
            write_files(home, files)
        (home / "apis.d").mkdir(exist_ok=True)
        read = _reader(home, base, settings)
        async with (
            serving(read(), read, application, clock=clock) as gateway,
            GatewayFixture(gateway, home) as fixture,
        ):
            yield fixture


def _reader(home: Path, base: Path, settings: Mapping[str, object]) -> _ReadSettings:
    flags: dict[str, object] = {
        "listen": "127.0.0.1:0",
        "control.listen": "127.0.0.1:0",
        "state": str(base / "var"),
        "store": "memory",
        "passwords.cost": 4,
        "timeouts.drain": "0s",
    }
    file = home / "aiogate.yaml"
    if not file.exists():
        flags |= {"apis": str(home / "apis.d"), "policies": str(home / "policies.d"), "plugins": str(home / "plugins")}
    flags |= {name.replace("__", "."): value for name, value in settings.items()}
    return _ReadSettings(file, flags)


class _ReadSettings:
    """Reads the settings again at each reload."""

    def __init__(self, file: Path, flags: Mapping[str, object]) -> None:
        self.file = file
        self.flags = flags

    def __call__(self) -> Settings:
        return load_settings(self.file if self.file.exists() else None, {}, self.flags)
