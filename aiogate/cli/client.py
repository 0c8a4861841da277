"""How commands reach the running gateway: its control API, found through `<state>/run.json`."""

from __future__ import annotations

import functools
import http.client
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import click

from aiogate.cli.printing import safe
from aiogate.cli.settings import Mistaken, config_option, folder_option, read_settings
from aiogate.errors import DiagnosticsFound

__all__ = ["Client", "Refused", "asks_gateway", "path_to", "said"]

PATIENCE: Final = 60.0
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # an address that is read, not bound


class Refused(click.ClickException):
    """The gateway answered with anything but 200. Unless a command handles it, its message ends the command."""

    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body
        super().__init__(safe_lines(said(status, body)))


def said(status: int, body: Any) -> list[str]:
    """What the gateway says was wrong, each detail on a line of its own."""
    told = body if isinstance(body, dict) else {}
    details = told.get("details") or told.get("Meta") or ()
    lines = [str(told.get("message") or told.get("Message") or f"the gateway answered {status}")]
    return [*lines, *(f"  {detail}" for detail in details if isinstance(detail, str))]


def safe_lines(lines: list[str]) -> str:
    return "\n".join(safe(line) for line in lines)


@dataclass(frozen=True, slots=True)
class Running:
    """Where the running gateway is asked. `known_by` says where the secret is from."""

    address: str
    secret: str
    known_by: str


class Client:
    """The control API of the gateway that `-c` and `--state` name, looked for when it is asked the first time.

    Wrong usage of a command is so told before a missing gateway. Every call raises `Refused`, or
    `click.ClickException` when nobody answers.
    """

    def __init__(self, config: Path | None, state: Path | None) -> None:
        self._config = config
        self._state = state

    @functools.cached_property
    def _running(self) -> Running:
        return find(self._config, self._state)

    def get(self, path: str, query: Mapping[str, str | None] | None = None, patience: float = PATIENCE) -> Any:
        """The body of a GET; parts of the query that are None are left out. `patience` is seconds."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._call("GET", f"{path}?{urlencode(given)}" if given else path, None, patience)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The body of the answer to a call that changes something."""
        return self._call(method, path, body, PATIENCE)

    def _call(self, method: str, target: str, body: Any, patience: float) -> Any:
        address = self._running.address
        parts = urlsplit(address)
        host = parts.hostname or ""
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), parts.port, timeout=patience)
        try:
            connection.request(method, target, data, {"X-Tyk-Authorization": self._running.secret})
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise click.ClickException(f"the gateway at {address} does not answer: {error}") from error
        finally:
            connection.close()
        try:
            answer = json.loads(raw) if raw else None
        except ValueError as error:
            raise click.ClickException(f"{address} does not answer in JSON: is it aiogate's control API?") from error
        if response.status in (401, 403):
            raise click.ClickException(
                f"the gateway at {address} refuses the secret from {self._running.known_by}: "
                "set AIOGATE_SECRET, or name the settings file (-c) or the state folder (--state) that it runs on"
            )
        if response.status != 200:
            raise Refused(response.status, answer)
        return answer


def path_to(*parts: str) -> str:
    """A path of the Gateway API, its parts escaped: `path_to("keys", "a/b")` is `/tyk/keys/a%2Fb`."""
    return "/tyk/" + "/".join(quote(part, safe="") for part in parts)


def asks_gateway(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--state` and `-c`, and the client of the gateway that runs there as its first argument."""

    @config_option
    @folder_option("state", "Folder of the running gateway's state [default: var].")
    @functools.wraps(command)
    def asking(*arguments: Any, config: Path | None, state: Path | None, **options: Any) -> None:
        command(Client(config, state), *arguments, **options)

    return asking


def find(config: Path | None, state: Path | None) -> Running:
    """The gateway that runs on this state folder. Raises `click.ClickException`: there is none."""
    state, secret = state_and_secret(config, state)
    file = state / "run.json"
    try:
        running = json.loads(file.read_text("utf-8"))
        pid, address = int(running["pid"]), str(running["control"])
    except FileNotFoundError as error:
        raise click.ClickException(
            f"no gateway runs here: there is no {file} (start one with `aiogate serve`, or name its --state DIR)"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{file} cannot be read: {error}") from error
    if not alive(pid):
        raise click.ClickException(f"no gateway runs here: process {pid}, which wrote {file}, is gone")
    if secret:
        return Running(address, secret, "the settings or the environment")
    file = state / "control.secret"
    return Running(address, kept(file), str(file))


def state_and_secret(config: Path | None, state: Path | None) -> tuple[Path, str | None]:
    """The state folder, and the secret where the settings have one. Raises `Mistaken`."""
    try:
        settings = read_settings(config, {"state": state})
    except DiagnosticsFound as mistakes:
        # A mistake in the settings must not hide a gateway that runs well on what it read before.
        if state is not None:
            return state, os.environ.get("AIOGATE_SECRET") or os.environ.get("AIOGATE_CONTROL__SECRET")
        advice = "to ask the running gateway all the same, name its state folder: --state DIR"
        raise Mistaken(mistakes.diagnostics, advice) from mistakes
    return settings.state, settings.control.secret


def alive(pid: int) -> bool:
    if pid < 1:
        # These name groups of processes, ours among them.
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def kept(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError as error:
        raise click.ClickException(f"the control secret cannot be read: {error} (AIOGATE_SECRET sets it)") from error
