"""The pytest plugin: one fixture, `aiogate`.

    async def test_greets(aiogate):
        async with aiogate({"apis.d/hello.yaml": "{listen: /hello/, auth: none, plugins: [mock: hi]}"}) as gateway:
            assert (await gateway.get("/hello/")).body == b"hi"

pytest loads this module in every project that has aiogate installed. It therefore imports next to nothing, defines no
hook, and reaches for the gateway when a test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiogate.testing.gateway import GatewayFixture

    RunningGateway = Callable[..., AbstractAsyncContextManager[GatewayFixture]]

__all__ = ["aiogate"]


@pytest.fixture
def aiogate(tmp_path: Path) -> RunningGateway:
    """`aiogate.testing.running_gateway`, with its files in the test's own folder."""
    from aiogate.testing.gateway import running_gateway

    def start(files: Mapping[str, str] | Path, **options: object) -> AbstractAsyncContextManager[GatewayFixture]:
        return running_gateway(files, **{"folder": tmp_path, **options})  # type: ignore[arg-type]  # checked by the call

    return start
