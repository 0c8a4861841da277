"""The repository itself: the floors hold, the samples load, and what has no place here is not here."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiogate
from aiogate.builtin import BUILTINS
from aiogate.config.settings import load_settings
from aiogate.errors import DIAGNOSTICS
from aiogate.runtime.assembly import check
from aiogate.testing import running_gateway
from tests.house.manual import ROOT

SOURCES = sorted(path for folder in ("aiogate", "plugins") for path in (ROOT / folder).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FURTHER_TESTS = {"broken", "house", "journeys", "plugins", "tyk", "wire"}
LOWER_ROOMS_ALLOWED = {"reverse_proxy"}


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    files = [ROOT / name for name in names if name] or [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    for path in files:
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            yield path, data.decode("utf-8", "replace")


def imported(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add(node.module or "")
    return found


@pytest.mark.slow
def test_imports_only_go_down() -> None:
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ran = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_module_says_why_it_is_there() -> None:
    silent = [
        str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X]|HAC[K])\b")
    assert [str(path) for path, text in texts() if later.search(text)] == []


def test_no_path_of_one_machine() -> None:
    private = re.compile(r"/wor[k]/|/roo[t]/|/tm[p]/w\b|/hom[e]/\w")
    assert [str(path) for path, text in texts() if private.search(text)] == []


NOT_AT_A_START = (
    "cryptography",
    "jinja2",
    "joserfc",
    "jwt",
    "redis",
    "sqlalchemy",
    "watchfiles",
    "aiogate.config.schema",
    "aiogate.testing",
)
"""What a gateway loads only when something that was declared needs it."""


def test_a_default_start_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    for folder in ("apis.d", "policies.d"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    start = (
        "import os, signal, sys, threading\n"
        "from aiogate.runtime import worker\n"
        "def ended(code):\n"
        f"    loaded = [name for name in {NOT_AT_A_START!r} if name in sys.modules]\n"
        "    print(loaded, file=sys.stderr)\n"
        "    os._exit(bool(loaded))\n"
        "worker.gc.freeze = lambda: ended(0)\n"
        "from aiogate.cli.main import main\n"
        "main(['serve', '--listen', '127.0.0.1:0', '--control', '127.0.0.1:0'])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "[]\n")


def test_every_diagnostic_has_a_known_code() -> None:
    """Each code that a diagnostic or a validator's mistake is made with is in the table."""
    unknown = [
        f"{path.name}:{line} {code}" for path in SOURCES for line, code in codes(path) if code not in DIAGNOSTICS
    ]
    assert unknown == []


def codes(path: Path) -> Iterator[tuple[int, str]]:
    """Where diagnostics are made, and their codes, where these are written out."""
    place = {"Diagnostic": 3, "at": 1, "mistake": 0}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name == "at" and getattr(getattr(node.func, "value", None), "id", "") != "Diagnostic":
                continue
            index = place.get(name)
            if index is not None and len(node.args) > index and isinstance(node.args[index], ast.Constant):
                yield node.lineno, str(node.args[index].value)


def test_test_folders_mirror_the_rooms() -> None:
    rooms = {path.name for path in (ROOT / "aiogate").iterdir() if path.is_dir()}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= rooms | FURTHER_TESTS


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda path: path.stem)
def test_drop_in_plugins_use_promised_names_only(path: Path) -> None:
    ours = {name for name in imported(path) if name.partition(".")[0] in ("aiogate", "plugins", "tests")}
    assert ours <= {"aiogate", "aiogate.testing"}


@pytest.mark.parametrize("module", sorted(set(BUILTINS)))
def test_built_in_plugins_use_promised_names_only(module: str) -> None:
    name = module.rpartition(".")[2]
    ours = {used for used in imported(ROOT / "aiogate" / "builtin" / f"{name}.py") if used.startswith("aiogate")}
    assert ours == {"aiogate"} or name in LOWER_ROOMS_ALLOWED


async def test_built_in_plugins_work_from_the_drop_in_folder(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    for module in BUILTINS:
        name = module.rpartition(".")[2]
        if name not in LOWER_ROOMS_ALLOWED:
            source = (ROOT / "aiogate" / "builtin" / f"{name}.py").read_text("utf-8")
            moved, count = re.subn(rf'Kind\(\s*"{name}"', f'Kind("own_{name}"', source)
            assert count == 1
            (tmp_path / "plugins" / f"own_{name}.py").write_text(moved, "utf-8")
    files = {
        "apis.d/own.yaml": "{listen: /own/, auth: [own_basic, own_key], plugins: [own_rate_limit: 2/1h, own_mock: hi]}"
    }
    async with running_gateway(files, folder=tmp_path) as gateway:
        await gateway.create_user("ann", "secret", "own")
        key = await gateway.create_key("own")
        assert (await gateway.get("/own/")).code == "auth_missing"
        assert (await gateway.get("/own/", user=("ann", "wrong"))).code == "auth_failed"
        assert (await gateway.get("/own/", user=("ann", "secret"))).body == b"hi"
        assert (await gateway.get("/own/", key=key)).body == b"hi"
        assert (await gateway.get("/own/", key=key)).code == "api_rate_limited"


async def test_every_sample_is_served(tmp_path: Path) -> None:
    for folder in ("apis.d", "policies.d", "plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    names = {"apis": "apis.d", "policies": "policies.d", "plugins": "plugins"}
    generation = await check(load_settings(None, {}, {name: str(tmp_path / folder) for name, folder in names.items()}))
    assert set(generation.table.apis) == {path.stem for path in (ROOT / "apis.d").iterdir()}
    assert set(generation.table.policies.ids) == {path.stem for path in (ROOT / "policies.d").iterdir()}


def test_one_version_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert aiogate.__version__ == version
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)


def test_the_licence_is_here() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
