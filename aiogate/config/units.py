"""Values with a unit: what a bare number would leave open is a type of its own.

Every type reads the text of a YAML scalar and refuses everything else with a diagnostic code and a hint; a bare number
is refused as well, because nobody can say later whether `30` meant seconds. The `format_…` functions write the text
that the parser reads back to the same value.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import re2
from pydantic import BeforeValidator, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema

from aiogate.config.model import mistake, scalar_schema
from aiogate.domain.session import compile_path

__all__ = [
    "Capture",
    "Duration",
    "Pattern",
    "Rate",
    "Size",
    "Timestamp",
    "format_duration",
    "format_size",
    "format_timestamp",
    "parse_duration",
    "parse_pattern",
    "parse_rate",
    "parse_size",
    "parse_timestamp",
]

_DURATIONS: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_SIZES: Final = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_NUMBER: Final = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_BARE: Final = re.compile(rf"[-+]?{_NUMBER}", re.ASCII)
_DURATION: Final = re.compile(rf"({_NUMBER})(ms|s|m|h|d)", re.ASCII)
_SIZE: Final = re.compile(rf"({_NUMBER})(B|KB|MB|GB|KiB|MiB|GiB)", re.ASCII)
_RATE: Final = re.compile(rf"([0-9]{{1,18}})/({_NUMBER}(?:ms|s|m|h|d))", re.ASCII)
_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[-+][0-9]{2}:[0-9]{2})", re.ASCII
)
_DURATION_WORDS: Final = "a duration is a number and one of ms, s, m, h, d, such as `30s`"
_SIZE_WORDS: Final = "a size is a number and one of B, KiB, MiB, GiB, KB, MB, GB, such as `64KiB`"
_RATE_WORDS: Final = "a rate is a count, a slash and a duration, such as `100/1s`"
_TIMESTAMP_WORDS: Final = "a time is RFC 3339 with its zone, such as `2027-01-31T00:00:00Z`"
_FIRST_MOMENT: Final = datetime(1971, 1, 1, tzinfo=UTC)
_LONGEST_PATTERN: Final = 2048
_QUIET: Final = re2.Options()
_QUIET.log_errors = False


def _is_bare(value: Any) -> bool:
    if isinstance(value, str):
        return _BARE.fullmatch(value.strip()) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> str:
    """The bare number as part of a hint, without a sign."""
    return str(value).strip().lstrip("+-")


def parse_duration(value: Any) -> float:
    """Seconds from `250ms`, `30s`, `5m`, `2h`, `30d`; decimals are allowed, `1.5s`."""
    if _is_bare(value):
        raise mistake("missing_unit", "has no unit", f"a duration needs one, such as `{_number(value)}s`", show=True)
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a duration", _DURATION_WORDS)
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise mistake("invalid_value", "is not a duration", _DURATION_WORDS, show=True)
    return float(Decimal(found[1]) * _DURATIONS[found[2]])


def format_duration(seconds: float) -> str:
    """The shortest text for a duration, in the largest unit that divides it: `90.0` is `90s`, `120.0` is `2m`."""
    exact = Decimal(repr(seconds))
    for unit in ("d", "h", "m", "s"):
        if exact and exact % _DURATIONS[unit] == 0:
            return f"{int(exact / _DURATIONS[unit])}{unit}"
    if not exact:
        return "0s"
    return f"{(exact / _DURATIONS['ms']).normalize():f}ms"


def parse_size(value: Any) -> int:
    """Bytes from `512B`, `64KiB`, `1MiB` (powers of 1024) or `64KB`, `1MB` (powers of 1000)."""
    if _is_bare(value):
        raise mistake("missing_unit", "has no unit", f"a size needs one, such as `{_number(value)}KiB`", show=True)
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a size", _SIZE_WORDS)
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise mistake("invalid_value", "is not a size", _SIZE_WORDS, show=True)
    size = Decimal(found[1]) * _SIZES[found[2]]
    if size % 1:
        raise mistake("invalid_value", "is not a whole number of bytes", _SIZE_WORDS, show=True)
    return int(size)


def format_size(size: int) -> str:
    """The text for a size in the largest power of 1024 that divides it: `65536` is `64KiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` requests in `window` seconds: `100/1s`, `1000/1m`, `5/1h`, `100000/30d`. Both are above zero."""

    limit: int
    window: float

    def __str__(self) -> str:
        return f"{self.limit}/{format_duration(self.window)}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        pattern = rf"^\s*[1-9][0-9]{{0,17}}/{_NUMBER}(ms|s|m|h|d)\s*$"
        return scalar_schema(parse_rate, {"type": "string", "pattern": pattern, "examples": ["100/1s", "1000/1m"]})


def parse_rate(value: Any) -> Rate:
    """A rate from `100/1s`. Zero is refused: a limit that lets nothing through is a mistake, and no limit is no key."""
    if isinstance(value, Rate):
        return value
    if _is_bare(value):
        raise mistake("missing_unit", "has no unit", f"a rate needs a window, such as `{_number(value)}/1s`", show=True)
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a rate", _RATE_WORDS)
    found = _RATE.fullmatch(value.strip())
    if found is None:
        raise _not_a_rate(value.strip())
    rate = Rate(int(found[1]), parse_duration(found[2]))
    if rate.limit < 1 or rate.window <= 0:
        raise mistake("invalid_value", "lets nothing through", "leave the key out for no limit", show=True)
    return rate


def _not_a_rate(text: str) -> Exception:
    count, slash, window = (part.strip() for part in text.partition("/"))
    if slash and count.isascii() and count.isdigit():
        if window in _DURATIONS:
            hint = f"did you mean `{count}/1{window}`?"
            return mistake("invalid_value", "is not a rate", hint, show=True)
        if _is_bare(window):
            return mistake("missing_unit", "has no unit", f"did you mean `{count}/{_number(window)}s`?", show=True)
    return mistake("invalid_value", "is not a rate", _RATE_WORDS, show=True)


def parse_timestamp(value: Any) -> float:
    """Epoch seconds from an RFC 3339 time with its zone: `2027-01-31T00:00:00Z`, `2027-01-31T01:00:00+01:00`.

    Times before 1971 are refused: stored sessions take a small number for "never".
    """
    if not isinstance(value, str):
        raise mistake("invalid_timestamp", "should be a time", _TIMESTAMP_WORDS)
    text = value.strip()
    if _TIMESTAMP.fullmatch(text) is None:
        hint = f"did you mean `{text}T00:00:00Z`?" if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else _TIMESTAMP_WORDS
        raise mistake("invalid_timestamp", "is not a time with its zone", hint, show=True)
    try:
        moment = datetime.fromisoformat(text.upper())
        seconds = moment.timestamp()
    except (ValueError, OverflowError) as error:
        raise mistake("invalid_timestamp", "does not exist in the calendar", _TIMESTAMP_WORDS, show=True) from error
    if moment < _FIRST_MOMENT:
        raise mistake("invalid_timestamp", "is before 1971", _TIMESTAMP_WORDS, show=True)
    return seconds


def format_timestamp(moment: float) -> str:
    """The RFC 3339 text in UTC; a fraction only where there is one."""
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that runs in linear time (RE2), and where it is anchored.

    A pattern that begins with `^` or ends with an unescaped `$` says itself where it is anchored and matches as it
    stands: `^/users/` is a beginning, `/export$` an end. Any other must match the whole text: `/users/[0-9]+` does not
    match `/users/7/secrets`. The rule is that of `allowed_urls` in sessions (`domain.session.compile_path`).
    """

    text: str
    compiled: Any = field(repr=False, compare=False)

    def matches(self, text: str) -> bool:
        """Whether the text is matched, by the rule above."""
        return self.compiled.search(text) is not None

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return scalar_schema(parse_pattern, {"type": "string", "format": "regex"})


def parse_pattern(value: Any) -> Pattern:
    """A compiled pattern; what RE2 cannot run in linear time (look-around, back-references) is refused."""
    if isinstance(value, Pattern):
        return value
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a pattern", "quote it")
    if len(value) > _LONGEST_PATTERN:
        raise mistake("invalid_pattern", f"is longer than {_LONGEST_PATTERN} characters")
    try:
        return _compiled(value)
    except re2.error as error:
        reason = error.args[0] if error.args else "refused"
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise mistake("invalid_pattern", "is not a pattern that RE2 can run", reason, show=True) from error


@functools.lru_cache(maxsize=4096)
def _compiled(text: str) -> Pattern:
    # Compiled by itself first: `a)|(b` must not become valid inside the group that anchors it.
    re2.compile(text, _QUIET)
    return Pattern(text, compile_path(text))


@dataclass(frozen=True, slots=True)
class Capture:
    """A regular expression that runs in linear time (RE2) and takes one part out of a text: its one group.

    It is looked for anywhere in the text.
    """

    text: str
    compiled: Any = field(repr=False, compare=False)

    def find(self, text: str) -> tuple[bool, str | None]:
        """Whether the text is matched, and what the group holds; None: it took no part in the match."""
        found = self.compiled.search(text)
        return (False, None) if found is None else (True, found[1])

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return scalar_schema(_parse_capture, {"type": "string", "format": "regex"})


def _parse_capture(value: Any) -> Capture:
    if isinstance(value, Capture):
        return value
    text = parse_pattern(value).text
    compiled = re2.compile(text, _QUIET)
    if compiled.groups != 1:
        hint = "put brackets around the part that is meant, `(?:…)` around others"
        raise mistake("invalid_pattern", f"should have one group, not {compiled.groups}", hint, show=True)
    return Capture(text, compiled)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {"type": "string", "pattern": rf"^\s*{_NUMBER}(ms|s|m|h|d)\s*$", "examples": ["250ms", "30s", "5m", "30d"]}
    ),
]
"""Seconds, written with a unit."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": "string", "pattern": rf"^\s*{_NUMBER}(B|[KMG]i?B)\s*$", "examples": ["64KiB", "1MiB"]}),
]
"""Bytes, written with a unit."""

Timestamp = Annotated[
    float,
    BeforeValidator(parse_timestamp),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": rf"^\s*(?:{_TIMESTAMP.pattern})\s*$"}),
]
"""Epoch seconds, written as an RFC 3339 time with its zone."""
