"""The kit for plugin authors; the gateway's own tests use the same.

    from aiogate.testing import FakeClock, make_exchange, run_middleware, running_gateway

Three depths: `run_middleware` and `run_authenticator` call one plugin with a made-up request and no socket;
`running_gateway` serves YAML files in this process on ports of its own; `subprocess_gateway` starts the real command.
The pytest fixture `aiogate` is `running_gateway` with a temporary folder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aiogate.testing.clock import FakeClock

if TYPE_CHECKING:
    from aiogate.testing.client import GatewayClient, Reply
    from aiogate.testing.gateway import GatewayFixture, running_gateway
    from aiogate.testing.process import GatewayProcess, subprocess_gateway
    from aiogate.testing.steps import (
        Outcome,
        make_definition,
        make_exchange,
        make_services,
        run_authenticator,
        run_middleware,
    )
    from aiogate.testing.upstream import Received, RecordingUpstream, recording_upstream

__all__ = [
    "FakeClock",
    "GatewayClient",
    "GatewayFixture",
    "GatewayProcess",
    "Outcome",
    "Received",
    "RecordingUpstream",
    "Reply",
    "make_definition",
    "make_exchange",
    "make_services",
    "recording_upstream",
    "run_authenticator",
    "run_middleware",
    "running_gateway",
    "subprocess_gateway",
]

_MODULES = ("steps", "gateway", "process", "client", "upstream")


def __getattr__(name: str) -> Any:
    # pytest imports this package in every test run of every project that has aiogate installed: what is not asked for
    # is not loaded.
    if name in __all__:
        for module in _MODULES:
            home = import_module(f"aiogate.testing.{module}")
            if name in home.__all__:
                return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
