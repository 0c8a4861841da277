"""`hash-password`, and how a password is read."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest
from click.testing import CliRunner, Result

from aiogate.cli.main import main
from aiogate.credentials.hashes import matches


def hashed(*arguments: str, stdin: str | bytes = "test123\n") -> Result:
    return CliRunner().invoke(main, ["hash-password", "--cost", "4", *arguments], input=stdin)


@pytest.mark.parametrize("stdin", ["test123", "test123\n", "test123\r\n"])
def test_one_line_of_standard_input_is_the_password(stdin: str) -> None:
    result = hashed(stdin=stdin)
    assert result.exit_code == 0
    assert result.stdout.startswith("$2b$04$")
    assert bcrypt.checkpw(b"test123", result.stdout.strip().encode())


def test_argon2id() -> None:
    result = hashed("--algorithm", "argon2id", stdin="x" * 100)
    assert matches(b"x" * 100, result.stdout.strip(), "argon2id")
    assert not matches(b"x" * 99, result.stdout.strip(), "argon2id")


def test_json() -> None:
    assert bcrypt.checkpw(b"test123", json.loads(hashed("--json").stdout)["hash"].encode())


def test_blanks_are_part_of_a_password() -> None:
    assert bcrypt.checkpw(b" a b ", hashed(stdin=" a b \n").stdout.strip().encode())


@pytest.mark.parametrize(
    ("stdin", "code", "says"),
    [
        ("", 2, "standard input is empty"),
        ("\n", 2, "standard input is empty"),
        ("one\ntwo\n", 2, "more than one line"),
        ("one\n\n", 2, "more than one line"),
        (b"\xff\xfe", 2, "not UTF-8"),
        ("x" * 73, 1, "has 73 bytes, bcrypt takes at most 72"),
        ("a\0b", 1, "holds a NUL"),
    ],
)
def test_what_is_no_password_is_refused(stdin: str | bytes, code: int, says: str) -> None:
    result = hashed(stdin=stdin)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""


def on_a_terminal(folder: Path, answers: list[bytes], *arguments: str) -> tuple[int, str]:
    """Type the answers at a real terminal; the exit code, and all that stood on the screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "aiogate", *arguments],
        cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    screen = b""
    pending = list(answers)
    try:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # how Linux says that the other side has closed
                break
            if not data:
                break
            screen += data
            if pending and screen.endswith(b": "):
                os.write(ours, pending.pop(0) + b"\n")
    finally:
        os.close(ours)
        code = process.wait(20)
    return code, screen.decode()


def test_a_password_is_typed_twice_and_not_shown(tmp_path: Path) -> None:
    answers = [b"secret-1", b"secret-2", b"secret-3", b"secret-3"]
    code, screen = on_a_terminal(tmp_path, answers, "hash-password", "--cost", "4")
    assert code == 0, screen
    assert "secret" not in screen
    assert "do not match" in screen
    assert bcrypt.checkpw(b"secret-3", screen.split()[-1].encode())
