"""How the running gateway is found, and what is said when it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aiogate.cli.client import path_to
from tests.cli.site import Site, typed

SECRET = "kept-secret-0123456789abcdef"


class Fake(ThreadingHTTPServer):
    """A control port that says what it is told to, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status = status
        self.body = body
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers["X-Tyk-Authorization"]))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the test's output."""


@contextmanager
def fake(status: int = 200, body: bytes = b"[]") -> Iterator[Fake]:
    with Fake(status, body) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def says_it_runs(state: Path, url: str, pid: int = os.getpid(), secret: str | None = SECRET) -> None:
    state.mkdir(exist_ok=True)
    (state / "run.json").write_text(json.dumps({"pid": pid, "control": url}))
    if secret is not None:
        (state / "control.secret").write_text(secret + "\n")


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_kept_secret_is_sent(tmp_path: Path) -> None:
    with fake() as server:
        says_it_runs(tmp_path / "var", server.url)
        typed(tmp_path, "plugins", "list")
    assert server.asked == [("GET", "/tyk/plugins", SECRET)]


def test_the_secret_of_the_environment_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOGATE_SECRET", "other-secret-0123456789abcdef")
    with fake() as server:
        says_it_runs(tmp_path / "var", server.url, secret=None)
        typed(tmp_path, "plugins", "list")
    assert server.asked == [("GET", "/tyk/plugins", "other-secret-0123456789abcdef")]


def test_the_settings_say_where_the_state_is(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "aiogate.yaml").write_text("state: here\n")
    with fake() as server:
        says_it_runs(tmp_path / "site" / "here", server.url)
        typed(tmp_path / "site", "plugins", "list")
        typed(tmp_path, "plugins", "list", "-c", "site/aiogate.yaml")
        typed(tmp_path, "plugins", "list", "--state", "site/here")
    assert len(server.asked) == 3


def test_mistaken_settings_do_not_hide_a_gateway_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "aiogate.yaml").write_text("wrokers: 1\n")
    with fake() as server:
        says_it_runs(tmp_path / "var", server.url)
        refused = typed(tmp_path, "plugins", "list", code=1)
        assert refused.stderr.startswith("aiogate.yaml:1:1: `wrokers` is not a known key (did you mean `workers`?)\n")
        assert "--state DIR" in refused.stderr
        typed(tmp_path, "plugins", "list", "--state", "var")
    assert len(server.asked) == 1


def test_no_gateway(tmp_path: Path) -> None:
    said = typed(tmp_path, "status", code=1).stderr
    assert "there is no var/run.json" in said
    assert "`aiogate serve`" in said


def test_a_gateway_that_was_killed_is_not_asked(tmp_path: Path) -> None:
    pid = dead_pid()
    with fake() as server:
        says_it_runs(tmp_path / "var", server.url, pid)
        said = typed(tmp_path, "status", code=1).stderr
    assert f"process {pid}, which wrote var/run.json, is gone" in said
    assert server.asked == []


@pytest.mark.parametrize("pid", [0, -1, 2**70])
def test_a_number_that_is_no_process_is_not_alive(tmp_path: Path, pid: int) -> None:
    with fake() as server:
        says_it_runs(tmp_path / "var", server.url, pid)
        assert "is gone" in typed(tmp_path, "status", code=1).stderr
    assert server.asked == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x", "control": ""}', "null"])
def test_a_run_file_of_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "run.json").write_text(text)
    assert "var/run.json cannot be read" in typed(tmp_path, "status", code=1).stderr


def test_no_secret(tmp_path: Path) -> None:
    with fake() as server:
        says_it_runs(tmp_path / "var", server.url, secret=None)
        said = typed(tmp_path, "status", code=1).stderr
    assert "control.secret" in said
    assert "AIOGATE_SECRET" in said


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_secret_says_where_it_is_from(tmp_path: Path, status: int) -> None:
    with fake(status, b"{}") as server:
        says_it_runs(tmp_path / "var", server.url)
        said = typed(tmp_path, "plugins", "list", code=1).stderr
    assert "refuses the secret from var/control.secret" in said
    assert SECRET not in said


def test_a_port_where_nobody_listens(tmp_path: Path) -> None:
    with fake() as server:
        url = server.url
    says_it_runs(tmp_path / "var", url)
    assert f"{url} does not answer" in typed(tmp_path, "plugins", "list", code=1).stderr


def test_an_answer_that_is_no_json(tmp_path: Path) -> None:
    with fake(200, b"<html>") as server:
        says_it_runs(tmp_path / "var", server.url)
        assert "does not answer in JSON" in typed(tmp_path, "plugins", "list", code=1).stderr


def test_a_refusal_is_told_with_its_details_and_without_control_characters(tmp_path: Path) -> None:
    body = json.dumps({"status": "error", "message": "no\x1b[2J", "details": ["one", "t\u202ewo"]}).encode()
    with fake(400, body) as server:
        says_it_runs(tmp_path / "var", server.url)
        said = typed(tmp_path, "plugins", "list", code=1).stderr
    assert said == "Error: no\\x1b[2J\n  one\n  t\\u202ewo\n"


def test_a_path_holds_any_name() -> None:
    assert path_to("keys", "a/b c%?#ü") == "/tyk/keys/a%2Fb%20c%25%3F%23%C3%BC"


def test_the_gateway_refuses_another_secret(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOGATE_SECRET", "wrong-secret-0123456789abcdef")
    for command in (["status"], ["routes"], ["keys", "list"]):
        said = site.run(*command, code=1).stderr
        assert "refuses the secret from the settings or the environment" in said
