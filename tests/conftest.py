"""What all rooms need. With `CI` set, a skipped test is a failed one: what it needs is there, or the run says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from tests.servers import RedisServer

# How long one example takes says more about the machine than about us.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")


def _skip_is_a_failure(report: Any) -> None:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _skip_is_a_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _skip_is_a_failure(report)
    return report


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for all tests that do not harm it; each takes a prefix of its own."""
    server = RedisServer().start()
    yield server
    server.close()
