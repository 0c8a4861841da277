"""One compiled API, with kinds that a test makes up, and its decisions."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from aiogate.builtin import BUILTINS
from aiogate.chain.compile import CompiledApi, Compiler
from aiogate.chain.contracts import AuthenticatorKind, MiddlewareKind, Services
from aiogate.chain.exchange import Exchange, Response
from aiogate.chain.plugboard import LoadedKind, PlugBoard, load_plugins
from aiogate.chain.run import answer
from aiogate.domain.session import Session
from aiogate.telemetry.decisions import Decision
from aiogate.testing import FakeClock, make_definition, make_exchange, make_services


@dataclass
class Bench:
    """Compiles definitions and runs requests through them."""

    clock: FakeClock = field(default_factory=FakeClock)
    decisions: list[Decision] = field(default_factory=list)
    kinds: dict[str, LoadedKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.services: Services = make_services(self.clock)
        self.board, broken = load_plugins(BUILTINS, None)
        assert not broken

    def offer(self, *kinds: MiddlewareKind | AuthenticatorKind) -> None:
        """Let definitions use these kinds."""
        self.kinds.update({kind.name: LoadedKind(kind, kind.name, "test", "1") for kind in kinds})

    def compiler(self, quota_status: int = 403) -> Compiler:
        board = PlugBoard(
            self.board._manager, self.board.modules, {**self.board.kinds, **self.kinds}, self.board.plugins, "test", {}
        )
        return Compiler(board, self.services, self.decisions.append, quota_status)

    def compile(self, text: str, quota_status: int = 403) -> CompiledApi:
        """The API `test` at `/test/`, without authentication and upstream unless `text` says so."""
        text = textwrap.dedent(text)
        if "auth:" not in text:
            text += "\nauth: none"
        definition = make_definition(f"id: test\nlisten: /test/\n{text}\n")
        api, mistakes = self.compiler(quota_status).compile(definition)
        assert api is not None, mistakes
        return api

    def mistakes(self, text: str) -> list[str]:
        """`line:column code` of every diagnostic of a definition."""
        _, found = self.compiler().compile(make_definition(textwrap.dedent(text).lstrip("\n")))
        return [f"{one.line}:{one.column} {one.code}" for one in found]

    async def ask(self, api: CompiledApi, path: str = "/", **options: Any) -> tuple[Response, Exchange]:
        """One request through the API; `path` is behind the listen path."""
        session: Session | None = options.pop("session", None)
        exchange = make_exchange(options.pop("method", "GET"), f"/test{path}", **options)
        exchange.version = None
        chain = api.select(exchange)
        exchange.session = session
        return await answer(chain, exchange), exchange


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def names() -> Callable[[CompiledApi], list[str]]:
    """The steps of an API's only version, in order."""

    def of(api: CompiledApi) -> list[str]:
        [chain] = api.chains.values()
        return [step.name for step in chain.steps]

    return of
