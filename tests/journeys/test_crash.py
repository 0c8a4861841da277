"""What a gateway that was killed still knows when it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., Any]
FILES = {"apis.d/api.yaml": "{listen: /api/, auth: [basic, key], plugins: [mock: x]}"}
FORGOTTEN = 0.05
"""Seconds of counts that a crash may cost."""
GRACE = 0.05
"""Seconds for the write itself, which a busy disk delays, and for the answer's way to us."""


@pytest.mark.slow
async def test_keys_and_users_survive_a_kill_right_after_the_reply(start: Start) -> None:
    for number in range(3):
        async with start(FILES) as gateway:
            key = await gateway.create_key("api", name=f"key-number-{number}")
            await gateway.create_user(f"user-{number}", "test123", "api")
            gateway.kill()
            await gateway.ended()
        async with start({}) as gateway:
            assert (await gateway.get("/api/", key=key)).status == 200
            assert (await gateway.get("/api/", user=(f"user-{number}", "test123"))).status == 200
            await gateway.revoke(key)
            gateway.kill()
            await gateway.ended()
        async with start({}) as gateway:
            assert (await gateway.get("/api/", key=key)).status == 403
            assert (await gateway.get("/api/", user=("user-0", "test123"))).status == 200


@pytest.mark.slow
async def test_a_kill_costs_at_most_the_last_counts(start: Start) -> None:
    for _ in range(3):
        async with start(FILES) as gateway:
            key = await gateway.create_key("api", quota_max=100_000, quota_renewal_rate=3600)
            answered: list[float] = []
            until = time.monotonic() + 0.4
            while time.monotonic() < until:
                assert (await gateway.get("/api/", key=key)).status == 200
                answered.append(time.monotonic())
            gateway.kill()
            killed = time.monotonic()
            await gateway.ended()
        async with start({}) as gateway:
            document = (await gateway.tyk("GET", f"/tyk/keys/{key}")).json
        counted = document["quota_max"] - document["quota_remaining"]
        certain = sum(1 for at in answered if at < killed - FORGOTTEN - GRACE)
        assert certain <= counted <= len(answered), f"{len(answered)} answered, {certain} before the last moments"


@pytest.mark.slow
async def test_an_orderly_end_forgets_nothing(start: Start) -> None:
    async with start(FILES) as gateway:
        key = await gateway.create_key("api", quota_max=100)
        for _ in range(10):
            await gateway.get("/api/", key=key)
        refused = await gateway.get("/api/", key="nonsense")
        gateway.terminate()
        assert await gateway.ended() == 0
    async with start({}) as gateway:
        reply = await gateway.get("/api/", key=key)
        assert reply.headers["X-RateLimit-Remaining"] == "89"
        assert (await gateway.why(refused))["reason"] == "there is no record of that name in organisation 'default'"
