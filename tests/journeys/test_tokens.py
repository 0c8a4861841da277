"""Tokens of an issuer that is a process of its own, and changes its keys while everybody is at work."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiogate.testing import FakeClock, running_gateway
from tests.credentials.issuer import key_for, public_jwk, sign

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_700_000_000


class Process:
    """The issuer's process."""

    def __init__(self, process: asyncio.subprocess.Process, jwks: str) -> None:
        self._process = process
        self.jwks = jwks

    async def publish(self, *keys: dict[str, Any]) -> int:
        """Publish these keys from now on; how often the set was asked for so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(keys).encode() + b"\n")
        return int((await self._process.stdout.readline()).split()[1])


@asynccontextmanager
async def issuer_process() -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.credentials.issuer",
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Process(process, (await process.stdout.readline()).decode().strip())
    finally:
        process.kill()
        await process.wait()


def key(number: int) -> dict[str, Any]:
    return public_jwk("RS256", number, kid=f"key-{number}")


@pytest.mark.slow
async def test_nobody_is_refused_while_keys_rotate() -> None:
    """Row 49."""
    rotations, clients = 5, 8
    clock = FakeClock(NOW)
    for number in range(rotations + 1):
        key_for("RS256", number)
    async with issuer_process() as issuer:
        await issuer.publish(key(0))
        files = {
            "apis.d/api.yaml": f"""
                listen: /api/
                auth: {{jwt: {{algorithms: RS256, jwks: '{issuer.jwks}', default_policies: all}}}}
                plugins: [mock: welcome]
            """,
            "policies.d/all.yaml": "access: {api: {}}",
        }
        async with running_gateway(files, clock=clock) as gateway:
            signed_by = [0]
            answered: dict[int, int] = {}
            refused: list[str] = []
            stopped = asyncio.Event()

            async def client(name: int) -> None:
                count = 0
                while not stopped.is_set():
                    count += 1
                    # Half of the tokens are new ones, half have been seen; half of the clients are slow to change.
                    number = signed_by[-1 - (name % 2 if len(signed_by) > 1 else 0)]
                    claims = {"sub": f"{name}", "jti": count // 2, "exp": NOW + 10_000}
                    text = sign(claims, "RS256", key_for("RS256", number), kid=f"key-{number}")
                    reply = await gateway.get("/api/", headers={"Authorization": f"Bearer {text}"})
                    if reply.status != 200:
                        refused.append(f"{number}: {reply.text} {(await gateway.why(reply))['reason']}")
                    answered[number] = answered.get(number, 0) + 1

            tasks = [asyncio.create_task(client(name)) for name in range(clients)]
            asked = 0
            for number in range(rotations + 1):
                if number:
                    asked = await issuer.publish(*map(key, range(max(0, number - 2), number + 1)))
                    clock.advance(31)
                    signed_by.append(number)
                async with asyncio.timeout(30):
                    while answered.get(number, 0) < 40 and not refused:
                        await asyncio.sleep(0.005)
            stopped.set()
            await asyncio.gather(*tasks)
            assert refused == []
            assert set(answered) == set(range(rotations + 1))
            assert 1 <= asked <= rotations
            invented = sign({"sub": "x", "exp": NOW + 9999}, "RS256", key_for("RS256", 0), kid="key-0")
            assert (await gateway.get("/api/", key=invented)).code == "token_invalid", "the first key is long gone"
