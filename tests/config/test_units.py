from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from aiogate.config import units
from aiogate.config.units import Rate


def code(parse: Any, value: Any) -> tuple[str, str]:
    with pytest.raises(PydanticCustomError) as caught:
        parse(value)
    return caught.value.type, (caught.value.context or {})["hint"]


@pytest.mark.parametrize(
    "text, seconds",
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("30d", 2592000), ("1.5s", 1.5), ("0s", 0), (" 1s ", 1)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("value", [30, 30.5, "30", "0", 0, "-3"])
def test_a_bare_number_is_no_duration(value: Any) -> None:
    kind, hint = code(units.parse_duration, value)
    assert kind == "missing_unit"
    assert f"`{str(value).lstrip('-')}s`" in hint


@pytest.mark.parametrize(
    "value", ["", "s", "-1s", "1 s", "1S", "1w", "1h30m", "1e3s", "٣s", "inf", "9" * 13 + "s", "nans"]
)
def test_what_is_no_duration(value: str) -> None:
    assert code(units.parse_duration, value)[0] == "invalid_value"


@pytest.mark.parametrize("value", [None, True, [], {}])
@pytest.mark.parametrize("parse", [units.parse_duration, units.parse_size, units.parse_rate])
def test_what_is_no_text(parse: Any, value: Any) -> None:
    assert code(parse, value)[0] == "wrong_type"


@given(st.integers(0, 10**12))
def test_durations_come_back_from_their_text(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert units.parse_duration(units.format_duration(seconds)) == seconds


def test_the_text_of_a_duration_is_short() -> None:
    assert [units.format_duration(n) for n in (0.25, 30, 90, 120, 7200, 86400, 0)] == [
        "250ms", "30s", "90s", "2m", "2h", "1d", "0s"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, size",
    [("512B", 512), ("64KiB", 65536), ("1MiB", 1048576), ("1KB", 1000), ("1.5KiB", 1536), ("2GB", 2 * 10**9)],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("value", ["64k", "64kib", "-1B", "0.3B", "KiB"])
def test_what_is_no_size(value: str) -> None:
    assert code(units.parse_size, value)[0] == "invalid_value"


def test_a_bare_number_is_no_size() -> None:
    assert code(units.parse_size, 65536) == ("missing_unit", "a size needs one, such as `65536KiB`")


@given(st.integers(0, 10**12 - 1))
def test_sizes_come_back_from_their_text(size: int) -> None:
    assert units.parse_size(units.format_size(size)) == size


@pytest.mark.parametrize(
    "text, rate", [("100/1s", Rate(100, 1)), ("5/1h", Rate(5, 3600)), ("100000/30d", Rate(100000, 2592000))]
)
def test_rates(text: str, rate: Rate) -> None:
    assert units.parse_rate(text) == rate
    assert str(rate) == text


@pytest.mark.parametrize(
    "value, kind, hint",
    [
        (100, "missing_unit", "`100/1s`"),
        ("100", "missing_unit", "`100/1s`"),
        ("100/60", "missing_unit", "`100/60s`"),
        ("100/s", "invalid_value", "`100/1s`"),
        ("100 / 1s", "invalid_value", "such as `100/1s`"),
        ("0/1s", "invalid_value", "leave the key out"),
        ("5/0s", "invalid_value", "leave the key out"),
        ("-5/1s", "invalid_value", "such as"),
        ("1.5/1s", "invalid_value", "such as"),
    ],
)
def test_what_is_no_rate(value: Any, kind: str, hint: str) -> None:
    found, told = code(units.parse_rate, value)
    assert found == kind
    assert hint in told


@given(st.integers(1, 10**18 - 1), st.integers(1, 10**11))
def test_rates_come_back_from_their_text(limit: int, milliseconds: int) -> None:
    rate = Rate(limit, milliseconds / 1000)
    assert units.parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    "text, moment",
    [
        ("2027-01-31T00:00:00Z", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31t02:00:00+02:00", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T00:00:00.500Z", datetime(2027, 1, 31, microsecond=500000, tzinfo=UTC)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    assert units.parse_timestamp(text) == moment.timestamp()


@pytest.mark.parametrize(
    "value",
    [
        "2027-01-31",
        "2027-01-31T00:00:00",
        "2027-01-31 00:00:00Z",
        "2027-13-01T00:00:00Z",
        "2027-02-29T00:00:00Z",
        "2027-01-01T00:00:60Z",
        "2027-01-01T25:00:00Z",
        "1970-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "2027-01-01T00:00:00+24:00",
        1800000000,
        None,
    ],
)
def test_what_is_no_time(value: Any) -> None:
    assert code(units.parse_timestamp, value)[0] == "invalid_timestamp"


@given(st.datetimes(datetime(1971, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))
def test_times_come_back_from_their_text(moment: datetime) -> None:
    seconds = moment.timestamp()
    assert math.isclose(units.parse_timestamp(units.format_timestamp(seconds)), seconds, abs_tol=1e-5, rel_tol=0)


@pytest.mark.parametrize(
    "pattern, matched, not_matched",
    [
        ("/users/[0-9]+", "/users/7", "/users/7/secrets"),
        ("/users/[0-9]+", "/users/7", "/old/users/7"),
        ("a|b", "a", "ab"),
        ("^/users/", "/users/7/secrets", "/old/users/7"),
        ("/export$", "/a/export", "/export/a"),
        (r"/price\$", "/price$", "/price$/a"),
        ("[^/]+", "users", "users/7"),
    ],
)
def test_where_a_pattern_is_anchored(pattern: str, matched: str, not_matched: str) -> None:
    parsed = units.parse_pattern(pattern)
    assert parsed.matches(matched)
    assert not parsed.matches(not_matched)


@pytest.mark.parametrize("value", ["(?=a)", r"(a)\1", "(a", "a)|(?:b", "a" * 2049, "a{1000}{1000}"])
def test_what_is_no_pattern(value: str) -> None:
    assert code(units.parse_pattern, value)[0] == "invalid_pattern"


def test_a_pattern_that_explodes_elsewhere_is_quick() -> None:
    assert not units.parse_pattern("^(a+)+$").matches("a" * 100_000 + "!")
