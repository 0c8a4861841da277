"""The command line in front of a real gateway in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from aiogate.testing.gateway import write_files
from tests.cli.site import FILES, Site

Serve = Callable[..., Site]
PORTS = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts `aiogate serve` in a new folder that holds these files."""
    processes: list[subprocess.Popen[str]] = []

    def start(files: dict[str, str], *arguments: str) -> Site:
        folder = tmp_path_factory.mktemp("site")
        write_files(folder, files)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "aiogate", "serve", *PORTS, *arguments],
                cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.fullmatch(r"aiogate ready: gateway (http://\S+), control (http://\S+)\n", line)
        assert ready is not None, line + (folder / "log").read_text()
        return Site(folder, process, ready[1], ready[2])

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def site(serve: Serve) -> Site:
    """One gateway for the tests of a module; what they make, they call by names of their own."""
    return serve(FILES)
