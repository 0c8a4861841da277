"""A folder, the gateway that serves it in a process of its own, and commands typed there."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from aiogate.cli.main import main

FILES = {
    "apis.d/hello.yaml": """
        id: hello
        listen: /hello-world/
        auth: none
        plugins: [{mock: {body: hi}}]
        """,
    "apis.d/login.yaml": """
        id: login
        name: Login API
        listen: {path: /login-api/, host: api.example.com}
        upstream: http://127.0.0.1:9/
        auth: [basic: {realm: Login}, key]
        versions: {by: header, name: X-Version, default: v1, list: {v1: {}, v2: {}}}
        """,
    "apis.d/watched.yaml": """
        id: watched
        listen: /watched/
        auth: none
        plugins:
          - rate_limit: 1/1h
            mode: shadow
          - mock: {body: hi}
        """,
    "policies.d/gold.yaml": """
        id: gold
        access: {login: {}}
        rate: 1000/1m
        quota: 100000/30d
        """,
}


@dataclass
class Site:
    """A folder that a gateway serves, and the commands typed there."""

    folder: Path
    process: subprocess.Popen[str]
    gateway: str
    control: str

    def run(self, *arguments: str, stdin: str | bytes | None = None, code: int = 0) -> Result:
        """Type a command in the folder; it must end with `code`."""
        return typed(self.folder, *arguments, stdin=stdin, code=code)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    @property
    def secret(self) -> str:
        return (self.folder / "var" / "control.secret").read_text().strip()


def typed(folder: Path, *arguments: str, stdin: str | bytes | None = None, code: int = 0) -> Result:
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(main, arguments, input=stdin)
    finally:
        os.chdir(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result
