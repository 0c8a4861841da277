"""schemathesis over `/openapi.json`, with all its checks: what is described is what is served, whatever is sent."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from aiogate.testing import running_gateway

FILES = {
    "apis.d/login.yaml": "{listen: /login/, auth: [basic, key], plugins: [mock: hi]}",
    "policies.d/gold.yaml": "{access: {login: {}}, rate: 100/1s}",
}
CONFIG = """
[checks.positive_data_acceptance]
# A schema cannot say that a policy must exist or that a rate needs a window: 400 names what is missing.
expected-statuses = ["2xx", 400, 401, 403, 404, 409]

[phases.stateful]
enabled = false

# 422 is what Tyk answers there without `scope`.
[[operations]]
include-path = "/tyk/oauth/tokens"
include-method = "DELETE"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 409, 422]
"""
# Other paths to the very handlers of /tyk/keys/create and /api/keys/{name}, and a body that schemathesis cannot write.
LEFT_OUT = (
    "post /tyk/certs",
    "post /tyk/keys",
    "post /api/apis/keys/basic/{name}",
    "put /api/apis/keys/basic/{name}",
    "put /api/apis/{api}/keys/{name}",
)


@pytest.mark.slow
async def test_the_description_holds_for_whatever_is_sent(tmp_path):
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    async with running_gateway(FILES, folder=tmp_path) as gateway:
        process = await asyncio.create_subprocess_exec(
            program, "--config-file", "schemathesis.toml", "run", f"{gateway.control_url}/openapi.json",
            # One worker: in Python 3.11 two threads that parse code at once, as hypothesis does to show lambdas, may
            # get "SystemError: AST constructor recursion depth mismatch" (python/cpython#106905): no finding of ours.
            "--checks", "all", "--workers", "1", "--max-examples", "2", "--generation-deterministic",
            "--continue-on-failure", "--warnings", "off", "--no-color",
            *(word for operation in LEFT_OUT for word in ("--exclude-operation-id", operation)),
            "--header", f"X-Tyk-Authorization: {gateway.secret}", "--header", f"admin-auth: {gateway.secret}",
            "--header", f"Authorization: {gateway.access_key}",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "SCHEMATHESIS_HOOKS": ""},  # no code of somebody else's
        )  # fmt: skip
        try:
            async with asyncio.timeout(300):
                said = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, said[-8000:]
        generated = re.search(r"(\d+) generated", said)
        assert generated is not None
        assert int(generated[1]) > 1000
        # And it left nothing behind that a reload stumbles over.
        assert (await gateway.reload()).ok
