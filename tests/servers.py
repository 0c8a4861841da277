"""Real servers that tests start for themselves, in a temporary folder and on a free port."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class RedisServer:
    """A redis-server that forgets everything when it ends, unless `config`, lines of its configuration, keeps it."""

    def __init__(self, *config: str, port: int = 0, sentinel: bool = False) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        self._program = program
        self._config = config
        self._sentinel = sentinel
        self._made = tempfile.TemporaryDirectory(prefix="aiogate-redis-")
        self.folder = Path(self._made.name)
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}"]
        if not self._sentinel:
            lines += ['save ""', "appendonly no"]
        lines += self._config
        file = self.folder / "redis.conf"
        file.write_text("\n".join(lines) + "\n")
        command = [self._program, str(file), *(["--sentinel"] if self._sentinel else [])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            return bool(self.say("PING"))
        except OSError:
            return False

    def say(self, *words: str | int | bytes) -> bytes:
        """One command on a connection of its own; the beginning of the raw reply."""
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        with socket.create_connection(("127.0.0.1", self.port), 2) as asked:
            asked.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            return asked.recv(65536)

    def pause(self) -> None:
        """Stop it where it stands: connections stay open and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; `start` begins anew, with nothing in it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def close(self) -> None:
        self.kill()
        self._made.cleanup()
