"""Our own gateway under measurement: the command as an operator starts it, bound to one core, with a folder of YAML.

The definitions are those of the rows: `plain` (no authentication), `full` (key, rights, version, rate, quota, counted
and recorded), `basic`, and as many further APIs as a row asks for.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiogate.testing import GatewayProcess, subprocess_gateway
from bench.machine import GATEWAY_CORE, pinned

__all__ = ["Ours", "ours"]

_PLAIN = """\
listen: /plain/
upstream: http://127.0.0.1:{port}/
auth: none
"""
_KEYED = """\
listen: /keyed/
upstream: http://127.0.0.1:{port}/
auth: key
session_limits: {{rate: false, quota: false}}
"""
_FULL = """\
listen: /full/
upstream: http://127.0.0.1:{port}/
auth: key
versions: {{by: header, default: v1, list: {{v1: {{}}, v2: {{}}}}}}
"""
_BASIC = """\
listen: /basic/
upstream: http://127.0.0.1:{port}/
auth: basic
"""
_STEPS = """\
listen: /steps/
upstream: http://127.0.0.1:{port}/
auth: none
plugins:
"""
_STEP = "  - bench_step\n"
_STEP_PLUGIN = '''\
"""Does next to nothing, for the cost of one more step."""

from __future__ import annotations

from aiogate import BuildContext, Exchange, Middleware, MiddlewareKind, Model, Stage, hookimpl


class Config(Model):
    pass


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("bench_step", Stage.REQUEST, Config, build)


def build(config: Config, context: BuildContext) -> Middleware:
    def look(exchange: Exchange) -> None:
        if exchange.method == "NONE":
            raise AssertionError

    return Middleware(on_request=look)
'''
STEPS = 40
_MANY = """\
listen: /many/{number}/
upstream: http://127.0.0.1:{port}/
auth: key
plugins:
  - rate_limit: 1000000000/1m
"""
_POLICY = """\
access: {full: {versions: [v1]}, keyed: {}, basic: {}{more}}
rate: 100000000/1m
quota: 1000000000/30d
"""


class Ours:
    """A running gateway and the credential that opens `full`, `keyed` and `basic`."""

    def __init__(self, gateway: GatewayProcess, key: str) -> None:
        self.gateway = gateway
        self.key = key

    @property
    def pid(self) -> int:
        return self.gateway.pid

    def url(self, api: str) -> str:
        return f"{self.gateway.url}/{api}/"

    @property
    def keyed(self) -> Mapping[str, str]:
        return {"Authorization": self.key}


@asynccontextmanager
async def ours(
    upstream_port: int,
    *arguments: str,
    apis: int = 0,
    settings: str = "",
    definitions: Mapping[str, str] | None = None,
    free: bool = False,
) -> AsyncIterator[Ours]:
    """A gateway with the benchmark's APIs and `apis` more. `settings` is the text of `aiogate.yaml`.

    `free`: it is not bound to one core.
    """
    with tempfile.TemporaryDirectory(prefix="aiogate-bench-") as made:
        home = Path(made)
        write(home, upstream_port, apis, definitions or {})
        (home / "aiogate.yaml").write_text(settings)
        command: Sequence[str] = (sys.executable, "-m", "aiogate", "serve")
        if not free:
            command = pinned(GATEWAY_CORE, *command)
        async with subprocess_gateway(home, *arguments, command=command, within=120) as gateway:
            yield Ours(gateway, await _prepared(gateway))


def write(home: Path, upstream_port: int, apis: int, definitions: Mapping[str, str]) -> None:
    """The folders that the gateway reads."""
    for folder in ("apis.d", "policies.d", "plugins"):
        (home / folder).mkdir()
    texts = {"plain": _PLAIN, "keyed": _KEYED, "full": _FULL, "basic": _BASIC, "steps": _STEPS + _STEP * STEPS,
             **definitions}  # fmt: skip
    for name, text in texts.items():
        (home / "apis.d" / f"{name}.yaml").write_text(text.format(port=upstream_port))
    for number in range(apis):
        (home / "apis.d" / f"many-{number}.yaml").write_text(_MANY.format(port=upstream_port, number=number))
    more = "".join(f", {name}: {{}}" for name in definitions)
    (home / "policies.d" / "bench.yaml").write_text(_POLICY.replace("{more}", more))
    (home / "plugins" / "bench_step.py").write_text(_STEP_PLUGIN)


async def _prepared(gateway: GatewayProcess) -> str:
    """Make a key and the user `bench` with the password `bench`; gives the key."""
    await gateway.create_user("bench", "bench", apply_policies=["bench"])
    return await gateway.create_key(apply_policies=["bench"])
