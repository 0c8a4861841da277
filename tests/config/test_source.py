from __future__ import annotations

import time
from typing import Any

import pytest

from aiogate.config.definition import read_definition
from aiogate.config.source import MAX_DIAGNOSTICS, Source, examine, read_source
from aiogate.errors import DiagnosticsFound


def values(text: str) -> Any:
    return read_source("f", text.encode()).value


def refused(data: bytes) -> list[str]:
    with pytest.raises(DiagnosticsFound) as caught:
        read_source("f", data)
    return [f"{one.line}:{one.column} {one.code}" for one in caught.value.diagnostics]


@pytest.mark.parametrize(
    "text, value",
    [
        ("NO", "NO"),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30:00", "12:30:00"),
        ("2027-01-31", "2027-01-31"),
        ("2027-01-31T00:00:00Z", "2027-01-31T00:00:00Z"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("+5", 5),
        ("-5", -5),
        ("1.0", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-.inf", float("-inf")),
        (".", "."),
        ("-", None),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("~", None),
        ("Null", None),
        ("", None),
        ("'true'", "true"),
        ('"010"', "010"),
        ("=", "="),
        ("1.2.3.4", "1.2.3.4"),
        ("100/1s", "100/1s"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    if text == "-":
        assert values("key:\n  -") == {"key": [None]}
    else:
        found = values(f"key: {text}\n")["key"]
        assert found == value
        assert type(found) is type(value)


def test_keys_are_text_as_they_are_written() -> None:
    assert values("on: 1\n1: 2\n1.0: 3\nnull: 4\n~: 5\n") == {"on": 1, "1": 2, "1.0": 3, "null": 4, "~": 5}


def test_block_scalars_and_quotes_are_text() -> None:
    assert values("a: |\n  1\nb: >-\n  true\n  2\nc: '7'\n") == {"a": "1\n", "b": "true 2", "c": "7"}


def test_a_number_beyond_reason_is_no_number() -> None:
    assert refused(b"a: " + b"9" * 5000) == ["1:4 invalid_value"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_endings_and_a_byte_order_mark_do_not_move_places(ending: str, mark: bytes) -> None:
    source = read_source("f", mark + ending.join(["# é", "a: 1", "b:", "  c: [ü, x]", ""]).encode())
    assert source.value == {"a": 1, "b": {"c": ["ü", "x"]}}
    assert str(source.locate(("b", "c", 1))) == "f:4:10"
    assert str(source.locate_key(("b", "c"))) == "f:4:3"


def test_places_of_values_keys_and_parents() -> None:
    source = read_source("f", b"a:\n  - b: {c: 1}\n    d: 2\n")
    assert str(source.locate(())) == "f:1:1"
    assert str(source.locate(("a",))) == "f:2:3"
    assert str(source.locate(("a", 0))) == "f:2:5"
    assert str(source.locate(("a", 0, "b", "c"))) == "f:2:12"
    assert str(source.locate_key(("a", 0, "b", "c"))) == "f:2:9"
    assert str(source.locate(("a", 0, "b", "missing"))) == "f:2:8"
    assert str(source.locate(("a", 7, "nothing"))) == "f:2:3"
    assert str(source.locate(("a", 0, "a union's member", "d"))) == "f:3:8"
    assert source.written(("a", 0, "d")) == 2


def test_an_alias_stands_for_the_value_and_its_place() -> None:
    source = read_source("f", b"a: &x {k: 1}\nb: *x\n")
    assert source.value == {"a": {"k": 1}, "b": {"k": 1}}
    assert str(source.locate(("b", "k"))) == "f:1:11"


@pytest.mark.parametrize(
    "data, found",
    [
        (b'a: 1\na: 2\n"a": 3\n', ["2:1 yaml_duplicate_key", "3:1 yaml_duplicate_key"]),
        (b"1: x\n'1': y\n", ["2:1 yaml_duplicate_key"]),
        (b"a: !!str 1\n", ["1:4 yaml_tag"]),
        (b"a: !x {b: !y 1}\n", ["1:4 yaml_tag", "1:11 yaml_tag"]),
        (b"!!set {a}\n", ["1:1 yaml_tag"]),
        (b"!!binary x: 1\n", ["1:1 yaml_tag"]),
        (b"a: *b\n", ["1:4 yaml_syntax"]),
        (b"a: &b [*b]\n", ["1:8 yaml_syntax"]),
        (b"? [a]\n: 1\n", ["1:3 wrong_type"]),
        (b"a: 1\n  b: 2\n", ["2:4 yaml_syntax"]),
        (b"a: 'x\n", ["2:1 yaml_syntax"]),
        (b"text", ["1:1 yaml_not_a_mapping"]),
        (b"", ["1:1 yaml_not_a_mapping"]),
        (b"---\n...\n", ["2:1 yaml_not_a_mapping"]),
        (b"a: 1\n---\nb: 2\n", ["2:1 yaml_not_a_mapping"]),
        (b"a: \xe9\n", ["1:4 file_encoding"]),
        (b"\xff\xfea\x00:\x00", ["1:1 file_encoding"]),
        (b"x: y\n\nb: \x1b[1m\n", ["3:4 file_encoding"]),
        (b"\x7fELF\x02\x01\x01\x00", ["1:1 file_encoding"]),
        (b"a: \xed\xa0\x80\n", ["1:4 file_encoding"]),
    ],
)
def test_what_is_refused_and_where(data: bytes, found: list[str]) -> None:
    assert refused(data) == found


def test_an_empty_file_may_be_a_mapping_without_keys() -> None:
    for text in (b"", b"# nothing\n", b"---\n", b"~\n"):
        assert read_source("f", text, may_be_empty=True).value == {}


def test_a_mistake_that_leaves_the_file_readable_leaves_its_values() -> None:
    source, found = examine("f", b"a: 1\na: 2\nb: !!int 3\n")
    assert source.value == {"a": 1, "b": 3}
    assert len(found) == 2


def test_bounds_end_the_reading_early() -> None:
    laughs = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (after, after, b",".join([b"*%c" % before] * 9))
        for before, after in zip(b"abcdefgh", b"bcdefghi", strict=True)
    )
    cases = {
        "billion laughs": laughs,
        "aliases": b"a: &a 1\nb: [" + b"*a, " * 101 + b"1]\n",
        "nodes": b"a: [" + b"1," * 100_001 + b"]\n",
        "lists": b"a: " + b"[" * 500_000,
        "mappings": b"{a: " * 200_000,
        "blocks": b"\n".join(b" " * depth + b"a:" for depth in range(70)),
        "dashes": b"a:\n" + b"- " * 400_000,
        "questions": b"? " * 400_000,
    }
    for name, data in cases.items():
        began = time.perf_counter()
        assert refused(data)[0].endswith(("yaml_too_complex", "wrong_type")), name
        assert time.perf_counter() - began < 2, name


def test_a_file_of_nothing_but_mistakes_is_told_in_part() -> None:
    assert len(refused(b"a: 1\n" * 100_000)) == MAX_DIAGNOSTICS
    source = read_source("f", b"auth:\n" + b"- 5\n" * 50_000)
    with pytest.raises(DiagnosticsFound) as caught:
        read_definition(source)
    assert len(caught.value.diagnostics) <= 2 * MAX_DIAGNOSTICS


def test_at_the_bounds_a_file_is_read() -> None:
    assert len(values("a: &a 1\nb: [" + ", ".join(["*a"] * 100) + "]\n")["b"]) == 100
    assert values("a: " + "[" * 63 + "]" * 63)


def test_what_is_shown_of_a_source_holds_no_values() -> None:
    source: Source = read_source("f", b"secret: canary\n")
    assert "canary" not in repr(source)
