"""Loading plugins: where they come from, what is wrong with them, and what a change of code changes."""

from __future__ import annotations

import importlib.metadata
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiogate.builtin import BUILTINS
from aiogate.chain import plugboard
from aiogate.chain.plugboard import PlugBoard, load_plugins
from aiogate.errors import Diagnostic

FINE = '''
    """A plugin that passes everything on."""

    from aiogate import Middleware, MiddlewareKind, Model, Stage, hookimpl


    @hookimpl
    def aiogate_middleware():
        return [MiddlewareKind("{name}", Stage.REQUEST, Model, lambda config, context: Middleware(), "passes")]
    '''

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writing(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text).lstrip("\n"))

    return writing


def loaded(folder: Path, previous: PlugBoard | None = None) -> PlugBoard:
    board, broken = load_plugins(BUILTINS, folder, previous)
    assert broken == []
    return board


def broken(folder: Path) -> list[Diagnostic]:
    board, found = load_plugins(BUILTINS, folder)
    assert {one.code for one in found} == {"plugin_broken"}
    assert "key" in board.kinds
    return found


def test_without_a_folder_there_are_the_built_ins(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "nowhere", tmp_path):
        board, found = load_plugins(BUILTINS, folder)
        assert found == []
        assert {"basic", "key", "mock", "rate_limit", "reverse_proxy"} <= set(board.kinds)
        assert {info.source for info in board.plugins} == {"built-in"}


def test_a_file_in_the_folder_is_a_plugin(tmp_path: Path, write: Write) -> None:
    write(own=FINE.format(name="pass_on"), _hidden="broken(", other="not python(")
    (tmp_path / "other.py").unlink()
    (tmp_path / "notes.txt").write_text("not a plugin")
    board = loaded(tmp_path)
    kind = board.kinds["pass_on"]
    assert (kind.plugin, kind.source, kind.authenticates) == ("own", str(tmp_path / "own.py"), False)
    [info] = [info for info in board.plugins if info.name == "own"]
    assert (info.kinds, info.hooks, info.summary) == (
        ("pass_on",), ("aiogate_middleware",), "A plugin that passes everything on.",
    )  # fmt: skip


def test_a_folder_with_an_init_is_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text(textwrap.dedent(FINE.format(name="pass_on")))
    assert loaded(tmp_path).kinds["pass_on"].plugin == "own"


@pytest.mark.parametrize(
    "text, place, message",
    [
        ('"""Doc."""\n\ndef f(:\n    pass\n', (3, 7), "SyntaxError"),
        ("x = 1\ny = x / 0\n", (2, 5), "ZeroDivisionError: division by zero"),
        ("import aiogate_that_is_not_there\n", (1, 1), "ModuleNotFoundError"),
        ("from aiogate import Nothing\n", (1, 1), "ImportError"),
        ("x = 1\n", (1, 1), "implements no hook"),
        (
            "from aiogate import hookimpl\n\n\n@hookimpl\ndef aiogate_midleware():\n    return []\n",
            (4, 1),
            "there is no hook `aiogate_midleware` (did you mean `aiogate_middleware`?)",
        ),
        (
            "from aiogate import hookimpl\n\n\n@hookimpl\ndef aiogate_middleware():\n    return 'mock'\n",
            (1, 1),
            "answers with MiddlewareKind or AuthenticatorKind, not str",
        ),
        (
            "from aiogate import hookimpl\n\n\n@hookimpl\ndef aiogate_middleware():\n    raise ValueError('no')\n",
            (6, 5),
            "ValueError: no",
        ),
    ],
    ids=["syntax", "raises", "missing module", "missing name", "no hook", "misspelt", "wrong answer", "hook raises"],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_broken_file_is_told_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool, text: str, place: tuple[int, int], message: str
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/own.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    folder = Path("plugins") if relative else tmp_path / "plugins"
    [found] = broken(folder)
    assert (found.file, found.line, found.column) == (str(folder / "own.py"), *place)
    assert message in str(found)


def test_a_name_that_is_taken_is_told_with_who_has_it(tmp_path: Path, write: Write) -> None:
    write(a=FINE.format(name="mine"), b=FINE.format(name="mine"), c=FINE.format(name="key"))
    messages = [one.message for one in broken(tmp_path)]
    assert messages == [
        f"the name `mine` is taken by the plugin a ({tmp_path / 'a.py'})",
        "the name `key` is taken by the plugin key (built-in)",
    ]


def test_one_broken_plugin_does_not_hide_another(tmp_path: Path, write: Write) -> None:
    write(a="1 / 0", b="2 / 0", c=FINE.format(name="fine"))
    board, found = load_plugins(BUILTINS, tmp_path)
    assert [Path(one.file).name for one in found] == ["a.py", "b.py"]
    assert "fine" in board.kinds


def test_an_unchanged_folder_gives_the_same_board(tmp_path: Path, write: Write) -> None:
    write(own=FINE.format(name="mine"))
    board = loaded(tmp_path)
    assert loaded(tmp_path, board) is board


def test_changed_code_is_loaded_beside_the_old_and_the_rest_stays(tmp_path: Path, write: Write) -> None:
    write(a=FINE.format(name="a"), b=FINE.format(name="b"))
    before = loaded(tmp_path)
    write(a=FINE.format(name="a_changed"))
    after = loaded(tmp_path, before)
    assert set(after.kinds) - set(before.kinds) == {"a_changed"}
    assert set(before.kinds) - set(after.kinds) == {"a"}
    assert after.modules["a"] is not before.modules["a"]
    assert after.modules["b"] is before.modules["b"], "what did not change keeps running with what it holds"
    assert after.kinds["b"].digest == before.kinds["b"].digest
    (tmp_path / "b.py").unlink()
    assert "b" not in loaded(tmp_path, after).kinds


def test_a_change_within_the_same_second_is_seen(tmp_path: Path, write: Write) -> None:
    write(own=FINE.format(name="one"))
    stamp = (tmp_path / "own.py").stat()
    before = loaded(tmp_path)
    write(own=FINE.format(name="two"))
    os.utime(tmp_path / "own.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert "two" in loaded(tmp_path, before).kinds


class Entry:
    """As much of an entry point as is asked for."""

    dist = None
    value = "package:plugin"

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self.module = module

    def load(self) -> ModuleType:
        if isinstance(self.module, Exception):
            raise self.module
        assert isinstance(self.module, ModuleType)
        return self.module


def test_installed_packages_bring_plugins_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("package_plugin", "From a package.")
    exec(textwrap.dedent(FINE.format(name="packaged")), module.__dict__)
    entries = [Entry("second", ImportError("it lacks something")), Entry("first", module)]

    def entry_points(*, group: str) -> list[Entry]:
        assert group == "aiogate.plugins"
        return entries

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    board, found = load_plugins(BUILTINS, None)
    assert board.kinds["packaged"].source == "entry point package:plugin"
    [one] = found
    assert (one.code, one.file) == ("plugin_broken", "entry point package:plugin")
    assert "ImportError: it lacks something" in one.message


def test_every_hook_is_known_here() -> None:
    """A hook that is added gets its tests: this list is what the tests of this folder and of `runtime` cover."""
    specified = [name for name in vars(plugboard.hookspecs) if name.startswith("aiogate_")]
    assert specified == ["aiogate_middleware", "aiogate_lifecycle", "aiogate_control_routes"]
