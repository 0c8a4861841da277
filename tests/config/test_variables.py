from __future__ import annotations

import pytest

from aiogate.config.source import read_source
from aiogate.config.variables import Variables, expand

ENVIRON = {"HOST": "up", "EMPTY": "", "PORT": "9001", "LIKE": "${HOST}"}
SECRETS = {
    "/run/secrets/plain": b"s3cret",
    "/run/secrets/line": b"s3cret\n",
    "/run/secrets/crlf": b"s3cret\r\n",
    "/bad": b"\xff",
}


def read_secret(path: str) -> bytes:
    try:
        return SECRETS[path]
    except KeyError:
        raise FileNotFoundError(2, "No such file or directory", path) from None


def expanded(text: str) -> tuple[object, list[str]]:
    source, found = expand(read_source("f", f"a: {text}\n".encode()), Variables(ENVIRON, read_secret))
    return source.value["a"], [f"{one.line}:{one.column} {one.code}" for one in found]


@pytest.mark.parametrize(
    "text, value",
    [
        ("${HOST}", "up"),
        ("http://${HOST}:${PORT}/", "http://up:9001/"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b}", "a:-b"),
        ("${HOST:-x}", "up"),
        ("${file:/run/secrets/plain}", "s3cret"),
        ("${file:/run/secrets/line}", "s3cret"),
        ("${file:/run/secrets/crlf}", "s3cret"),
        ("x$${HOST}", "x${HOST}"),
        ("$HOST", "$HOST"),
        ("${LIKE}", "${HOST}"),
        ("{deep: ['${PORT}']}", {"deep": ["9001"]}),
    ],
)
def test_a_reference_becomes_its_value(text: str, value: object) -> None:
    assert expanded(text) == (value, [])


@pytest.mark.parametrize(
    "text, found",
    [
        ("${NONE}", "1:4 variable_missing"),
        ("x${file:/gone}", "1:4 variable_missing"),
        ("'${file:/bad}'", "1:4 variable_missing"),
        ("${1A}", "1:4 invalid_value"),
        ("${}", "1:4 invalid_value"),
        ("'${HOST'", "1:4 invalid_value"),
        ("${A:-${B}}", "1:4 invalid_value"),
        ("[1, '${NONE}']", "1:8 variable_missing"),
    ],
)
def test_a_reference_without_a_value_is_told_at_its_place(text: str, found: str) -> None:
    assert expanded(text)[1] == [found]


def test_the_text_as_written_stays() -> None:
    source, _ = expand(read_source("f", b"a: ${file:/run/secrets/line}\n"), Variables(ENVIRON, read_secret))
    assert source.written(("a",)) == "${file:/run/secrets/line}"
    assert source.variables == (("file:/run/secrets/line", "s3cret"),)
    assert "s3cret" not in repr(source)


def test_one_load_sees_one_value_and_the_next_sees_a_change() -> None:
    SECRETS["/changing"] = b"one"
    first = Variables(ENVIRON, read_secret)
    source, _ = expand(read_source("f", b"a: ${file:/changing} ${HOST}\n"), first)
    SECRETS["/changing"] = b"two"
    assert first.unchanged(source.variables)
    assert not Variables(ENVIRON, read_secret).unchanged(source.variables)
    del SECRETS["/changing"]
    assert not Variables(ENVIRON, read_secret).unchanged(source.variables)
