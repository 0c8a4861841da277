"""What a run found: medians of rounds, the table as Markdown and JSON, and which targets were met."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from bench.load import Measured

__all__ = ["Report", "Summary", "Target"]


@dataclass(frozen=True, slots=True)
class Summary:
    """The rounds of one subject in one row: medians, and the spread of the figure that is compared."""

    row: str
    subject: str
    per_cpu_second: float
    lowest: float
    highest: float
    per_second: float
    p50: float
    p99: float
    failed: int
    pss: float

    @classmethod
    def of(cls, row: str, subject: str, rounds: Sequence[Measured], pss: float) -> Summary:
        spent = [each.per_cpu_second for each in rounds]
        return cls(
            row, subject, statistics.median(spent), min(spent), max(spent),
            statistics.median(each.per_second for each in rounds), statistics.median(each.p50 for each in rounds),
            statistics.median(each.p99 for each in rounds), sum(each.failed for each in rounds), pss,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that was promised. `at_most`: smaller is better."""

    what: str
    value: float | None
    must: float
    goal: float
    at_most: bool = False
    unit: str = ""

    @property
    def verdict(self) -> str:
        value = self.value
        if value is None:
            return "not measured"
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.goal:
            return "goal met"
        return "met" if sign * value >= sign * self.must else "**missed**"


@dataclass(slots=True)
class Report:
    """Collected while the rows run."""

    machine: str
    rounds: int
    summaries: list[Summary] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def find(self, row: str, subject: str) -> Summary | None:
        return next((each for each in self.summaries if (each.row, each.subject) == (row, subject)), None)

    def ratio(self, ours: tuple[str, str], theirs: tuple[str, str]) -> float | None:
        """Requests per processor second of one subject, in those of another."""
        mine, other = self.find(*ours), self.find(*theirs)
        return mine.per_cpu_second / other.per_cpu_second if mine and other and other.per_cpu_second else None

    def markdown(self) -> str:
        lines = [
            f"{self.machine}; medians of {self.rounds} interleaved rounds, lowest and highest in brackets.", "",
            "| work | gateway | requests per CPU-second | requests per second | p50 ms | p99 ms | failed | PSS MiB |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| {each.row} | {each.subject} | {each.per_cpu_second:,.0f} ({each.lowest:,.0f} to {each.highest:,.0f})"
            f" | {each.per_second:,.0f} | {each.p50 * 1000:.2f} | {each.p99 * 1000:.2f} | {each.failed}"
            f" | {each.pss:.0f} |"
            for each in self.summaries
        ]
        lines += ["", "| measured | figure |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in self.facts)]
        lines += ["", "| target | measured | must | goal | verdict |", "|---|---|---|---|---|"]
        for target in self.targets:
            value = "" if target.value is None else f"{target.value:.3g}{target.unit}"
            lines.append(
                f"| {target.what} | {value} | {target.must:g}{target.unit} | {target.goal:g}{target.unit} |"
                f" {target.verdict} |"
            )
        lines += ["", *(f"Missing: {each}." for each in self.missing)]
        return "\n".join(lines).rstrip() + "\n"

    def json(self) -> str:
        shown: Mapping[str, object] = {
            "machine": self.machine,
            "rounds": self.rounds,
            "rows": [asdict(each) for each in self.summaries],
            "facts": dict(self.facts),
            "targets": [{**asdict(each), "verdict": each.verdict} for each in self.targets],
            "missing": self.missing,
        }
        return json.dumps(shown, indent=2)
