"""Runs the manual: what the README and the pages under `docs/` tell the reader to type is typed here.

A page's blocks run in order, in one shell, in a copy of the project with ports of its own:

* `console`: lines that begin with `$ ` are typed (`> ` goes on with the line before), the others are what must come
  back. `…` stands for any text within a line, on a line of its own for any lines. A request id is remembered, so that
  the next command asks for the one of this run. A command fails the test unless it ends with 0 or is followed by
  `$ echo $?`. `make serve` and `aiogate serve …` are started and left running.
* `yaml` and `python`: the first line names the file, `# apis.d/login.yaml`; it is written before the next command. With
  `# in apis.d/login.yaml` it is a part of that file, and is not written.
* Others are for the reader alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
DEFAULT_PORTS = ("8080", "8081", "8443", "9001", "9002")
REQUEST_ID = re.compile(r"\b[0-9a-f]{12}-[0-9a-f]{8}\b")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (in )?([\w./-]+)")
_SERVES = re.compile(r"(make serve|(aiogate|python3? -m aiogate) serve\b)")
_DEADLINE = 30.0


@dataclass(frozen=True)
class Block:
    """One fenced block. `file` is the file that it shows, `part` whether it shows only a part of it."""

    page: str
    line: int
    kind: str
    text: str
    file: str = ""
    part: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass
class Typed:
    """A command and what the page says comes back."""

    command: str
    expected: list[str] = field(default_factory=list)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    name = str(page.relative_to(ROOT))
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 1
        named = _FILE.match(fence[2]) if fence[1] in ("yaml", "python") else None
        if named is None:
            yield Block(name, line, fence[1], fence[2])
        else:
            yield Block(name, line, fence[1], fence[2], named[2], part=bool(named[1]))


def typed(block: Block) -> list[Typed]:
    commands: list[Typed] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append(Typed(line[2:]))
        elif line.startswith("> ") and commands and not commands[-1].expected:
            commands[-1].command += "\n" + line[2:]
        else:
            assert commands, f"{block}: begins without a command"
            commands[-1].expected.append(line)
    return commands


def pattern(lines: list[str], known: set[str]) -> tuple[str, list[str]]:
    """Expected lines as a regular expression, and the request ids in them that it captures: those not yet known."""
    new: list[str] = []

    def part(text: str) -> str:
        if text == "…":
            return "[^\n]*"
        if text.isspace():
            return " +"  # the columns of a table move with the lengths of the ports
        if REQUEST_ID.fullmatch(text) and text not in known:
            new.append(text)
            return f"({REQUEST_ID.pattern})"
        return re.escape(text)

    return "".join(
        "(?:[^\n]*\n)*?"
        if line.strip() == "…"
        else "".join(part(text) for text in re.split(f"(…|  +|{REQUEST_ID.pattern})", line)) + " *\n"
        for line in lines
    ), new


class Reader:
    """Somebody who follows a page."""

    def __init__(self, home: Path, ports: dict[str, str], stack: ExitStack) -> None:
        self.home = home
        self.ports = ports
        self.ids: dict[str, str] = {}
        self._stack = stack
        self._gateway: subprocess.Popen[bytes] | None = None
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], cwd=home, env=self._environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        stack.callback(self._leave)

    def follow(self, block: Block) -> None:
        if block.file and not block.part:
            self.write(self.home / block.file, self.here(block.text))
        if block.kind != "console":
            return
        steps = typed(block)
        for step, later in zip(steps, [*steps[1:], None], strict=True):
            if _SERVES.match(step.command):
                said, status = self.serve(step.command), 0
            else:
                said, status = self.type(self.here(step.command))
            self.compare(block, step, said)
            told = later is not None and later.command == "echo $?"
            assert status == 0 or told, f"{block}: `{step.command}` ended with {status}:\n{said}"

    @staticmethod
    def write(path: Path, text: str) -> None:
        """Write a file that the page shows; not one that is there already and says the same."""
        if path.suffix == ".yaml" and path.exists() and yaml.safe_load(path.read_text("utf-8")) == yaml.safe_load(text):
            return
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")

    def here(self, text: str) -> str:
        """The page's text with the ports and request ids of this run."""
        for default, port in self.ports.items():
            text = re.sub(rf"\b{default}\b", port, text)
        return REQUEST_ID.sub(lambda found: self.ids.get(found[0], found[0]), text)

    def type(self, command: str) -> tuple[str, int]:
        """What comes back, standard error included, and the exit status."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(
            f"{command}\n__status=$?; printf '\\n--end %s\\n' $__status; (exit $__status)\n".encode()
        )
        self._shell.stdin.flush()
        said = bytearray()
        deadline = time.monotonic() + _DEADLINE
        os.set_blocking(self._shell.stdout.fileno(), False)
        while (end := re.search(rb"\n--end (\d+)\n$", said)) is None:
            assert time.monotonic() < deadline, f"`{command}` does not come to an end:\n{said.decode()}"
            assert self._shell.poll() is None, f"`{command}` ended the shell:\n{said.decode()}"
            said += self._shell.stdout.read() or b""
            time.sleep(0.005)
        if command.endswith("&"):
            self.wait_for_ports(command)
        return said[: end.start()].decode().replace("\r\n", "\n").strip("\n"), int(end[1])

    def wait_for_ports(self, command: str) -> None:
        """What was started in the background accepts connections before the next command is typed."""
        for port in (port for port in self.ports.values() if port in command):
            deadline = time.monotonic() + _DEADLINE
            while not accepts(int(port)):
                assert time.monotonic() < deadline, f"`{command}` does not listen on {port}"
                time.sleep(0.02)

    def serve(self, command: str) -> str:
        """Start the gateway, another one stopped before. Returns what it says when it is ready."""
        self.stop_gateway()
        command = self.here(re.sub(r"^make serve", "aiogate serve", command))
        log = self.home / "aiogate.log"
        with log.open("wb") as errors:
            self._gateway = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.home, env=self._environment(),
                stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        assert self._gateway.stdout is not None
        line = self._gateway.stdout.readline().decode()
        assert line, f"`{command}` did not start:\n{log.read_text()}"
        return line.rstrip("\n")

    def stop_gateway(self) -> None:
        if self._gateway is None:
            return
        self._gateway.terminate()
        try:
            status = self._gateway.wait(15)
        except subprocess.TimeoutExpired:
            self._gateway.kill()
            status = self._gateway.wait()
        assert self._gateway.stdout is not None
        self._gateway.stdout.close()
        self._gateway = None
        assert status == 0, f"the gateway ended with {status}:\n{(self.home / 'aiogate.log').read_text()}"

    def compare(self, block: Block, step: Typed, said: str) -> None:
        lines = [self.here(line) for line in "\n".join(step.expected).strip("\n").splitlines()]
        expression, new = pattern(lines, set(self.ids.values()))
        found = re.fullmatch(expression, said + "\n" if said else "")
        shown = "\n".join(lines)
        assert found is not None, f"{block}: after `{step.command}` the page says\n{shown}\n\nand there came\n{said}"
        self.ids.update(zip(new, found.groups(), strict=True))

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("AIOGATE_")}
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            ours.pop(name, None)
        return ours | {
            "HOME": str(self.home / ".home"),
            "PATH": f"{self.home / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            **self._listening(),
            "AIOGATE_CONTROL__LISTEN": f"127.0.0.1:{self.ports['8081']}",
            "COLUMNS": "200",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _listening(self) -> dict[str, str]:
        """Where the page's own settings do not say where to listen, on the port of this run."""
        own = self.home / "aiogate.yaml"
        if own.exists() and "listen" in yaml.safe_load(own.read_text("utf-8")):
            return {}
        return {"AIOGATE_LISTEN": f"127.0.0.1:{self.ports['8080']}"}

    def _leave(self) -> None:
        try:
            self.stop_gateway()
        finally:
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.wait()
            for pipe in (self._shell.stdin, self._shell.stdout):
                assert pipe is not None
                pipe.close()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in opened:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in opened]


def make_command(folder: Path) -> None:
    """`aiogate` and `python` in `folder`, as an installed environment has them, and its `activate`."""
    folder.mkdir(parents=True)
    for name, arguments in (("aiogate", " -m aiogate"), ("python", ""), ("python3", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n', "utf-8")
        script.chmod(0o755)
    (folder / "activate").write_text(f'export PATH={shlex.quote(str(folder))}:"$PATH"\n', "utf-8")


@contextmanager
def reader(home: Path) -> Iterator[Reader]:
    """A reader in a fresh copy of the project, in the folder `home`."""
    ports = dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True))
    make_command(home / ".venv" / "bin")
    (home / ".home").mkdir()
    (home / ".home" / ".curlrc").write_text("silent\nshow-error\n", "utf-8")
    for name in ("apis.d", "policies.d", "plugins", "docs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    with ExitStack() as stack:
        following = Reader(home, ports, stack)
        for file in (home / "apis.d").glob("*.yaml"):
            file.write_text(following.here(file.read_text("utf-8")), "utf-8")
        yield following
