"""The plug board: every plugin there is, where it came from, and the kinds it brings.

Plugins come from three places: the built-ins, the entry points `aiogate.plugins` of installed packages, and the files
of the drop-in folder. All implement the same hooks, and pluggy is asked here only, while loading. A board is immutable:
when the code of a drop-in plugin changes, a reload makes a new board, and the old one lives on in the APIs that still
run it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Final

import pluggy

from aiogate.chain import hookspecs
from aiogate.chain.contracts import AuthenticatorKind, MiddlewareKind
from aiogate.config.diagnose import did_you_mean
from aiogate.errors import FAILURES, Diagnostic
from aiogate.markers import PROJECT

if TYPE_CHECKING:
    from aiohttp import web

    from aiogate.chain.contracts import Services
    from aiogate.chain.hookspecs import Lifecycle

__all__ = ["DROP_IN", "LoadedKind", "PlugBoard", "load_plugins"]

ENTRY_POINTS: Final = "aiogate.plugins"
DROP_IN: Final = "aiogate_plugins_"
"""What the names of drop-in plugins' modules begin with."""
_loaded_count = 0


@dataclass(frozen=True, slots=True)
class LoadedKind:
    """A kind, and the plugin that brought it. `digest` changes when the plugin's code does."""

    kind: MiddlewareKind | AuthenticatorKind
    plugin: str
    source: str
    digest: str

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def authenticates(self) -> bool:
        return isinstance(self.kind, AuthenticatorKind)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One loaded plugin, for `aiogate plugins list`."""

    name: str
    source: str
    kinds: tuple[str, ...]
    hooks: tuple[str, ...]
    summary: str


class PlugBoard:
    """What all plugins together offer. Made by `load_plugins`."""

    __slots__ = ("_digests", "_manager", "_modules", "digest", "kinds", "plugins")

    def __init__(
        self,
        manager: pluggy.PluginManager,
        modules: Mapping[str, ModuleType],
        kinds: Mapping[str, LoadedKind],
        plugins: tuple[PluginInfo, ...],
        digest: str,
        digests: Mapping[str, str],
    ) -> None:
        self._manager = manager
        self._modules = modules
        self._digests = digests
        self.kinds = kinds
        self.plugins = plugins
        self.digest = digest

    @property
    def modules(self) -> Mapping[str, ModuleType]:
        """The module of each plugin, by plugin name. Reloaded code is another module."""
        return self._modules

    def loaded(self, plugin: str, digest: str) -> ModuleType | None:
        """The module of a drop-in plugin, if this is the code that it was loaded from."""
        return self._modules[plugin] if digest and self._digests.get(plugin) == digest else None

    def lifecycle(self, plugin: str, services: Services) -> Lifecycle | None:
        """What this plugin wants run at start and stop."""
        if not self._implements(plugin, "aiogate_lifecycle"):
            return None
        found: Lifecycle | None = self._modules[plugin].aiogate_lifecycle(services=services)
        return found

    def control_routes(self, plugin: str, services: Services) -> Sequence[web.RouteDef]:
        """The routes that this plugin adds to the control port."""
        if not self._implements(plugin, "aiogate_control_routes"):
            return ()
        return tuple(self._modules[plugin].aiogate_control_routes(services=services))

    def _implements(self, plugin: str, hook: str) -> bool:
        caller = getattr(self._manager.hook, hook)
        return any(implementation.plugin_name == plugin for implementation in caller.get_hookimpls())


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    source: str
    file: str
    digest: str
    module: ModuleType


def load_plugins(
    builtins: Sequence[str], folder: Path | None, previous: PlugBoard | None = None
) -> tuple[PlugBoard, list[Diagnostic]]:
    """Load every plugin and ask it for its kinds.

    `builtins` are module names. `folder` may be missing. A plugin that cannot be loaded, implements a hook that does
    not exist, or brings a name that is taken is a `plugin_broken` diagnostic with the file and line where it failed;
    the others load. With `previous`, an unchanged drop-in folder gives the same board back, and an unchanged plugin of
    a changed folder the same module: it keeps running, with whatever it holds.
    """
    files = _dropins(folder)
    digest = hashlib.sha256("\n".join(f"{path}:{_file_digest(path)}" for path in files).encode()).hexdigest()
    if previous is not None and previous.digest == digest:
        return previous, []

    diagnostics: list[Diagnostic] = []
    candidates = [
        _Candidate(name.rpartition(".")[2], "built-in", "", "", importlib.import_module(name)) for name in builtins
    ]
    candidates.extend(_installed(diagnostics))
    candidates.extend(_from_folder(files, diagnostics, previous))

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    kinds: dict[str, LoadedKind] = {}
    modules: dict[str, ModuleType] = {}
    digests: dict[str, str] = {}
    infos: list[PluginInfo] = []
    for candidate in candidates:
        try:
            loaded = _register(manager, candidate)
        except FAILURES as error:
            diagnostics.append(_broken(candidate.file or candidate.source, error))
            if manager.has_plugin(candidate.name):
                manager.unregister(name=candidate.name)
            _unload(candidate, previous)
            continue
        taken = [kind.name for kind in loaded if kind.name in kinds]
        if taken:
            manager.unregister(name=candidate.name)
            _unload(candidate, previous)
            other = kinds[taken[0]]
            diagnostics.append(
                Diagnostic(
                    candidate.file or candidate.source, 1, 1, "plugin_broken",
                    f"the name `{taken[0]}` is taken by the plugin {other.plugin} ({other.source})",
                    "give the kind another name",
                )
            )  # fmt: skip
            continue
        for kind in loaded:
            kinds[kind.name] = LoadedKind(kind, candidate.name, candidate.source, candidate.digest)
        modules[candidate.name] = candidate.module
        digests[candidate.name] = candidate.digest
        infos.append(
            PluginInfo(
                candidate.name,
                candidate.source,
                tuple(kind.name for kind in loaded),
                tuple(sorted(hook.name for hook in manager.get_hookcallers(candidate.module) or ())),
                (candidate.module.__doc__ or "").strip().partition("\n")[0],
            )
        )
    return PlugBoard(manager, modules, kinds, tuple(infos), digest, digests), diagnostics


def _unload(candidate: _Candidate, previous: PlugBoard | None) -> None:
    """Let go of code that was loaded and is not taken."""
    running = previous.modules.get(candidate.name) if previous is not None else None
    if candidate.digest and running is not candidate.module:
        sys.modules.pop(candidate.module.__name__, None)


def _register(manager: pluggy.PluginManager, candidate: _Candidate) -> list[MiddlewareKind | AuthenticatorKind]:
    _check_hooks(manager, candidate.module)
    manager.register(candidate.module, name=candidate.name)
    hooks = manager.get_hookcallers(candidate.module) or []
    if not hooks:
        raise TypeError("the plugin implements no hook; mark a function `aiogate_middleware` with @hookimpl")
    if all(hook.name != "aiogate_middleware" for hook in hooks):
        return []
    return list(_flatten(candidate.module.aiogate_middleware()))


class _UnknownHook(Exception):
    """A function is marked as a hook that does not exist. `line` is where it stands."""

    def __init__(self, name: str, line: int, hint: str) -> None:
        super().__init__(f"there is no hook `{name}`")
        self.line = line
        self.hint = hint


def _check_hooks(manager: pluggy.PluginManager, module: ModuleType) -> None:
    """A misspelt hook is a mistake, not a plugin that silently does nothing. Raises `_UnknownHook`."""
    known = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
    for name, value in vars(module).items():
        if manager.parse_hookimpl_opts(module, name) is not None and name not in known:
            code = getattr(value, "__code__", None)
            raise _UnknownHook(name, code.co_firstlineno if code is not None else 1, did_you_mean(name, known))


def _flatten(answer: object) -> Iterator[MiddlewareKind | AuthenticatorKind]:
    if isinstance(answer, (MiddlewareKind, AuthenticatorKind)):
        yield answer
    elif isinstance(answer, (list, tuple)):
        for part in answer:
            yield from _flatten(part)
    else:
        raise TypeError(
            f"aiogate_middleware answers with MiddlewareKind or AuthenticatorKind, not {type(answer).__name__}"
        )


def _installed(diagnostics: list[Diagnostic]) -> Iterator[_Candidate]:
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        source = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else f"entry point {entry.value}"
        try:
            yield _Candidate(entry.name, source, "", source, entry.load())
        except FAILURES as error:
            diagnostics.append(_broken(source, error))


def _dropins(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    return sorted(
        path if path.is_file() else path / "__init__.py"
        for path in folder.iterdir()
        if not path.name.startswith((".", "_"))
        and (path.suffix == ".py" and path.is_file() or (path / "__init__.py").is_file())
    )


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the file as it is now. Python's own cache of bytecode looks at no more than size and whole seconds."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _from_folder(
    files: Iterable[Path], diagnostics: list[Diagnostic], previous: PlugBoard | None
) -> Iterator[_Candidate]:
    global _loaded_count
    for path in files:
        name = path.parent.name if path.name == "__init__.py" else path.stem
        digest = _file_digest(path)
        running = previous.loaded(name, digest) if previous is not None else None
        if running is not None and running.__file__ == str(path.absolute()):
            yield _Candidate(name, str(path), str(path), digest, running)
            continue
        _loaded_count += 1
        # Each loading has a module name of its own: the generation that still runs keeps the code it started with.
        module_name = f"{DROP_IN}{_loaded_count}_{name}"
        try:
            loader = _Loader(module_name, str(path.absolute()))
            specification = importlib.util.spec_from_file_location(module_name, path, loader=loader)
            assert specification is not None
            module = importlib.util.module_from_spec(specification)
            sys.modules[module_name] = module
            loader.exec_module(module)
        except FAILURES as error:
            sys.modules.pop(module_name, None)
            diagnostics.append(_broken(str(path), error))
            continue
        yield _Candidate(name, str(path), str(path), digest, module)


def _file_digest(path: Path) -> str:
    parts = [path] if path.name != "__init__.py" else sorted(path.parent.rglob("*.py"))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.name.encode() + b"\0" + part.read_bytes() + b"\0")
    return digest.hexdigest()


def _broken(file: str, error: BaseException) -> Diagnostic:
    """A diagnostic at the line of the plugin's own file where the error arose."""
    if isinstance(error, _UnknownHook):
        return Diagnostic(file, error.line, 1, "plugin_broken", str(error), error.hint)
    # Python compiles a file under its absolute name, however the folder was named.
    compiled_as = str(Path(file).absolute())
    line = column = 1
    if isinstance(error, SyntaxError) and error.filename == compiled_as:
        line, column = error.lineno or 1, error.offset or 1
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == compiled_as:
                line, column = frame.lineno or 1, (frame.colno or 0) + 1
    return Diagnostic(file, line, column, "plugin_broken", f"{type(error).__name__}: {error}")
