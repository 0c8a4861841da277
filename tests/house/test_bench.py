"""The benchmark's arithmetic: a figure that is computed wrongly is worse than none."""

from __future__ import annotations

import json

from bench.load import Measured
from bench.results import Report, Summary, Target


def measured(requests: int, cpu: float, failed: int = 0) -> Measured:
    return Measured(requests, 2.0, cpu, 0.001, 0.004, failed)


def report() -> Report:
    made = Report("a machine", 3)
    ours = [measured(1000, 0.5), measured(1000, 0.25), measured(1000, 1.0, failed=2)]
    made.summaries.append(Summary.of("plain", "ours", ours, 50.0))
    made.summaries.append(Summary.of("plain", "theirs", [measured(4000, 0.5)] * 3, 5.0))
    return made


def test_a_summary_holds_medians_the_spread_and_every_failure() -> None:
    ours = report().find("plain", "ours")
    assert ours is not None
    assert (ours.per_cpu_second, ours.lowest, ours.highest) == (2000, 1000, 4000)
    assert (ours.per_second, ours.failed) == (500, 2)


def test_a_ratio_compares_requests_per_processor_second() -> None:
    made = report()
    assert made.ratio(("plain", "ours"), ("plain", "theirs")) == 0.25
    assert made.ratio(("plain", "ours"), ("plain", "nobody")) is None


def test_targets_know_which_way_is_better() -> None:
    assert Target("speed", 0.5, must=0.4, goal=0.5).verdict == "goal met"
    assert Target("speed", 0.45, must=0.4, goal=0.5).verdict == "met"
    assert Target("speed", 0.39, must=0.4, goal=0.5).verdict == "**missed**"
    assert Target("memory", 60, must=75, goal=55, at_most=True).verdict == "met"
    assert Target("memory", 76, must=75, goal=55, at_most=True).verdict == "**missed**"
    assert Target("memory", None, must=75, goal=55, at_most=True).verdict == "not measured"


def test_the_table_and_the_json_tell_the_same() -> None:
    made = report()
    made.targets.append(Target("of theirs", made.ratio(("plain", "ours"), ("plain", "theirs")), 0.4, 0.5))
    made.missing.append("caddy is not installed")
    text, shown = made.markdown(), json.loads(made.json())
    assert "| plain | ours | 2,000 (1,000 to 4,000) | 500 | 1.00 | 4.00 | 2 | 50 |" in text
    assert "| of theirs | 0.25 | 0.4 | 0.5 | **missed** |" in text
    assert "Missing: caddy is not installed." in text
    assert shown["rows"][0]["per_cpu_second"] == 2000
    assert shown["targets"][0]["verdict"] == "**missed**"
