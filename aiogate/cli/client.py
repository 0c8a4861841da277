"""How commands reach the running gateway: its control API, found through `<state>/run.json`."""

from __future__ import annotations

import functools
import http.client
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import click

from aiogate.cli.printing import safe
from aiogate.cli.settings import Mistaken, config_option, folder_option, read_settings
from aiogate.errors import DiagnosticsFound

__all__ = ["Client", "Refused", "asks_gateway", "path_to"]

PATIENCE = 60.0


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


class Client:
    """The control API of one running gateway.

    Every call raises `Refused`, or `click.ClickException` when nobody answers.
    """

    def __init__(self, address: str, secret: str) -> None:
        self._address = address
        self._secret = secret

    def get(self, path: str, query: Mapping[str, str | None] | None = None, patience: float = PATIENCE) -> Any:
        """The body of a GET; parts of the query that are None are left out. `patience` is seconds."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._call("GET", f"{path}?{urlencode(given)}" if given else path, None, patience)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The body of the answer to a call that changes something."""
        return self._call(method, path, body, PATIENCE)

    def _call(self, method: str, target: str, body: Any, patience: float) -> Any:
        parts = urlsplit(self._address)
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=patience)
        try:
            connection.request(method, target, data, {"X-Tyk-Authorization": self._secret})
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise click.ClickException(f"the gateway at {self._address} does not answer: {error}") from error
        finally:
            connection.close()
        try:
            answer = json.loads(raw) if raw else None
        except ValueError as error:
            raise click.ClickException(
                f"{self._address} does not answer in JSON: is it aiogate's control API?"
            ) from error
        if response.status == 403:
            raise click.ClickException(
                "the gateway refuses the secret: is --state, or AIOGATE_SECRET, that of the running gateway?"
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
        command(find(config, state), *arguments, **options)

    return asking


def find(config: Path | None, state: Path | None) -> Client:
    """The client of the gateway that runs on this state folder. Raises `click.ClickException`: there is none."""
    try:
        settings = read_settings(config, {"state": state})
    except DiagnosticsFound as found:
        raise Mistaken(found.diagnostics) from found
    file = settings.state / "run.json"
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
    return Client(address, settings.control.secret or kept(settings.state / "control.secret"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kept(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError as error:
        raise click.ClickException(f"the control secret cannot be read: {error} (AIOGATE_SECRET sets it)") from error
