"""`aiogate serve`: a process with its ready line, its signals, its exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.conftest import Serve
from tests.cli.site import FILES


def served(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A start that must end by itself."""
    command = [sys.executable, "-m", "aiogate", "serve", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_ends_with_0(serve: Serve, number: signal.Signals) -> None:
    site = serve(FILES)
    with urllib.request.urlopen(f"{site.gateway}/hello-world/") as response:
        assert response.read() == b"hi"
    run = json.loads((site.folder / "var" / "run.json").read_text())
    assert (run["pid"], run["control"]) == (site.process.pid, site.control)
    site.process.send_signal(number)
    assert site.process.wait(20) == 0
    assert not (site.folder / "var" / "run.json").exists()
    assert "no gateway runs here" in site.run("status", code=1).stderr


def test_an_empty_folder_says_how_to_begin(tmp_path: Path) -> None:
    done = served(tmp_path, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("apis.d:0:0: there is no such folder (make it and put a file such as `hello.yaml`")


def test_mistakes_are_told_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "apis.d").mkdir()
    (tmp_path / "apis.d" / "a.yaml").write_text("listen: /a/\nauth: none\nupsteam: x\n")
    (tmp_path / "apis.d" / "b.yaml").write_text("listen: /b/\nupstream: http://127.0.0.1:9/\n")
    done = served(tmp_path, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(re.match(r"apis.d/[ab].yaml:\d+:\d+: ", line) for line in lines)
    assert {line[:13] for line in lines} == {"apis.d/a.yaml", "apis.d/b.yaml"}


def test_flags_are_checked_like_settings(tmp_path: Path) -> None:
    done = served(tmp_path, "--listen", "nowhere", "--workers", "many", "--store", "mysql://x")
    assert done.returncode == 1
    for flag in ("listen", "workers", "store"):
        assert re.search(rf"^command line:0:0: {flag}", done.stderr, re.MULTILINE), done.stderr


def test_an_address_in_use(tmp_path: Path) -> None:
    (tmp_path / "apis.d").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = served(tmp_path, "--listen", address, "--control", "127.0.0.1:0")
    assert done.returncode == 1
    assert f"{address} cannot be bound" in done.stderr


def test_what_cannot_be_opened_is_told_with_the_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "apis.d").mkdir()
    settings = tmp_path / "aiogate.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings.write_text(f"control: {{listen: '127.0.0.1:0'}}\nlisten:\n  - '127.0.0.1:0'\n  - address: {address}\n")
        done = served(tmp_path)
    assert f"aiogate.yaml:4:14: {address} cannot be bound" in done.stderr
    settings.write_text(
        "listen: 127.0.0.1:0\ncontrol: {listen: '127.0.0.1:0'}\naccess_log:\n  format: json\n  file: no/log\n"
    )
    done = served(tmp_path)
    assert re.search(r"^aiogate.yaml:5:9: the access log .*no/log cannot be opened", done.stderr, re.MULTILINE)


def test_flags_beat_the_environment_beats_the_file(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOGATE_STORE", "sqlite")
    monkeypatch.setenv("AIOGATE_STATE", "from-environment")
    files = {**FILES, "aiogate.yaml": "store: memory\nstate: from-file\nquota_status: 429\n"}
    by_environment = serve(files)
    assert by_environment.json("status")["store"] == "sqlite"
    assert (by_environment.folder / "from-environment" / "run.json").exists()
    by_flag = serve(files, "--store", "memory", "--state", "from-flag")
    assert by_flag.json("status", "--state", "from-flag")["store"] == "memory"


def test_one_port_for_both(serve: Serve) -> None:
    site = serve(FILES, "--control", "same")
    assert site.gateway == site.control
    assert site.json("status")["apis"] == 3


def test_several_addresses(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "apis.d").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "aiogate", "serve", "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0",
         "--control", "127.0.0.1:0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert re.match(r"aiogate ready: gateway http://127.0.0.1:\d+, http://127.0.0.2:\d+, control ", line)
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()


@pytest.mark.parametrize("secret", ["", "changeme", "only15character"])
def test_79_no_start_with_a_secret_that_everybody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """Without one a secret is made: tests/runtime/test_gateway.py."""
    (tmp_path / "apis.d").mkdir()
    monkeypatch.setenv("AIOGATE_SECRET", secret)
    done = served(tmp_path, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "AIOGATE_SECRET" in done.stderr
    assert "Traceback" not in done.stderr
    assert not secret or secret not in done.stderr
