"""How commands reach the running gateway: its control API, found through `<state>/run.json`."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from aiogate.cli.output import fail
from aiogate.cli.settings import settings_or_fail

__all__ = ["Answer", "Control", "find"]


class Answer(NamedTuple):
    """A control API's answer: its status and its JSON body."""

    status: int
    body: Any


class Control:
    """The control API of one running gateway."""

    def __init__(self, address: str, secret: str) -> None:
        self.address = address
        self._secret = secret

    def ask(self, method: str, path: str, query: dict[str, str | None] | None = None, body: Any = None) -> Answer:
        """Make one call. Ends the command when the gateway does not answer or refuses the secret."""
        parts = urlsplit(self.address)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            connection.request(method, target, data, {"X-Tyk-Authorization": self._secret})
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            fail(f"the gateway at {self.address} does not answer: {error}")
        finally:
            connection.close()
        try:
            answer = Answer(response.status, json.loads(raw) if raw else None)
        except ValueError:
            fail(f"{self.address} does not answer in JSON; is it the control API of aiogate?")
        if answer.status == 403 and path.startswith("/tyk/"):
            fail("the gateway refuses the secret; is --state, or AIOGATE_SECRET, that of the running gateway?")
        return answer

    def wanted(self, method: str, path: str, query: dict[str, str | None] | None = None, body: Any = None) -> Any:
        """The body of a call that must succeed; ends the command with the gateway's message otherwise."""
        answer = self.ask(method, path, query, body)
        if answer.status != 200:
            fail(message_of(answer))
        return answer.body


def message_of(answer: Answer) -> str:
    """What the gateway says was wrong, details included."""
    body = answer.body if isinstance(answer.body, dict) else {}
    lines = [str(body.get("message") or body.get("Message") or f"the gateway answered {answer.status}")]
    details = body.get("details") or body.get("Meta") or ()
    lines.extend(f"  {detail}" for detail in details if isinstance(detail, str))
    return "\n".join(lines)


def find(config: str | None, state: str | None) -> Control:
    """The control API of the gateway that runs on this state folder. Ends the command when there is none."""
    settings = settings_or_fail(config, {"state": state})
    file = settings.state / "run.json"
    try:
        running = json.loads(file.read_text("utf-8"))
        pid, address = int(running["pid"]), str(running["control"])
    except FileNotFoundError:
        fail(f"no gateway runs here: there is no {file} (say --state DIR, or start one with `aiogate serve`)")
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{file} cannot be read: {error}")
    if not alive(pid):
        fail(f"no gateway runs here: process {pid}, which wrote {file}, is gone")
    return Control(address, settings.control.secret or kept(settings.state / "control.secret"))


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
        fail(f"the control secret cannot be read: {error} (AIOGATE_SECRET sets it)")
