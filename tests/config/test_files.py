from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from aiogate.config import files
from aiogate.config.source import MAX_BYTES
from aiogate.errors import DiagnosticsFound


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    began = time.perf_counter()
    with pytest.raises(DiagnosticsFound) as caught:
        files.read_bytes(path)
    assert [one.code for one in caught.value.diagnostics] == ["file_too_large"]
    assert time.perf_counter() - began < 0.1


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"#" * MAX_BYTES)
    assert len(files.read_bytes(tmp_path / "a")) == MAX_BYTES
    (tmp_path / "a").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(DiagnosticsFound):
        files.read_bytes(tmp_path / "a")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(DiagnosticsFound) as caught:
        files.read_bytes(tmp_path / "pipe.yaml")
    assert "not a regular file" in str(caught.value)


def test_which_files_are_declarations(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "_draft.yaml", "c.json", "d.yaml~", "README.md"):
        (tmp_path / name).touch()
    (tmp_path / "folder.yaml").mkdir()
    assert [path.name for path in files.declarations(tmp_path)] == ["a.yml", "b.yaml"]
    assert [path.name for path in files.unread(tmp_path)] == ["c.json"]
