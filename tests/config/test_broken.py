"""Every diagnostic that this room makes, at its line and column: the folders under `tests/broken`."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiogate.config.loader import load
from aiogate.config.settings import load_settings
from aiogate.errors import DIAGNOSTICS, DiagnosticsFound

BROKEN = Path(__file__).parent.parent / "broken"

NOT_OURS = {
    "plugin_unknown",
    "plugin_not_auth",
    "upstream_missing",
    "access_log_unwritable",
    "address_in_use",
    "plugin_broken",
    "build_failed",
    "store_unavailable",
    "worker_failed",
    "reload_interrupted",
}
"""Codes of other rooms: plugins, stores, sockets."""
ELSEWHERE = {
    "file_too_large": "test_files.py, which makes the file",
    "tls_unverified": "test_trust.py, because it is a warning",
    "file_ignored": "test_loader.py, because it is a warning",
    **dict.fromkeys(
        ("listen_shadows", "api_open", "certificate_unasked", "expired", "expires_soon", "policy_unused"),
        "test_advice.py",
    ),
    "certificate_expired": "tests/proxy/test_tls.py, because it is a warning",
}


def expected(case: Path) -> list[str]:
    return (case / "expected").read_text().splitlines()


def cases() -> list[Path]:
    sites = (case for case in BROKEN.iterdir() if case.is_dir() and not case.name.endswith(("-plugins", "-listeners")))
    return sorted(case for case in sites if code_of(case) not in NOT_OURS)


def code_of(case: Path) -> str:
    return case.name.partition("-")[0]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_mistake_is_told_with_its_place(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    settings_file = Path("aiogate.yaml")
    with pytest.raises(DiagnosticsFound) as caught:
        load(load_settings(settings_file if settings_file.exists() else None, {}), environ={})
    found = [f"{one.file}:{one.line}:{one.column} {one.code}" for one in caught.value.diagnostics]
    assert found == expected(case)
    assert any(line.endswith(f" {code_of(case)}") for line in found)
    for one in caught.value.diagnostics:
        assert one.severity == "error"
        assert str(one).startswith(f"{one.file}:{one.line}:{one.column}: ")


def test_every_code_of_this_room_has_a_case() -> None:
    assert set(DIAGNOSTICS) - NOT_OURS - set(ELSEWHERE) == {code_of(case) for case in cases()}
