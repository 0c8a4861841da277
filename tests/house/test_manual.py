"""The commands of the README and of the pages under `docs/` do what the pages say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.house.manual import PAGES, blocks, reader

WITH_COMMANDS = [page for page in PAGES if any(block.kind == "console" for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_commands(page: Path, tmp_path: Path) -> None:
    with reader(tmp_path) as following:
        for block in blocks(page):
            following.follow(block)
