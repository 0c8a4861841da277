"""Tyk's list of client certificates, from its JSON to handshakes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aiogate.cli.main import main
from aiogate.testing import RecordingUpstream, recording_upstream, running_gateway
from tests.builtin.test_mtls import LISTEN, ORG, Wallet, ask, why


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    async with recording_upstream() as running:
        yield running


def imported(folder: Path, upstream: RecordingUpstream, **fields: Any) -> None:
    """Write `apis.d/api.yaml` as the command does."""
    body = {
        "api_id": "api", "name": "api", "version_data": {"not_versioned": True, "versions": {"Default": {}}},
        "proxy": {"listen_path": "/api/", "target_url": upstream.url, "strip_listen_path": True}, **fields,
    }  # fmt: skip
    (folder / "api.json").write_text(json.dumps(body))
    words = ["import", "tyk", str(folder / "api.json"), "--apis", str(folder / "apis.d")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output


async def test_only_the_certificates_on_the_list_come_in(tmp_path: Path, upstream: RecordingUpstream) -> None:
    wallet = Wallet(tmp_path)
    anna, ben = wallet.add("anna"), wallet.add("ben")
    stored = ORG + wallet.add("carl")
    imported(tmp_path, upstream, use_keyless=True, use_mutual_tls_auth=True, client_certificates=[anna.upper(), stored])
    async with running_gateway({"aiogate.yaml": LISTEN}, folder=tmp_path, listen=None) as gateway:
        assert (await ask(gateway, wallet, "anna"))[0] == 200
        status, body = await ask(gateway, wallet, "ben")
        assert (status, body["error"]) == (403, f"Certificate with SHA256 {ben} not allowed")
        status, body = await ask(gateway, wallet)
        assert (status, body["error"]) == (403, "Client TLS certificate is required")
        status, body = await ask(gateway, wallet, plain=True)
        assert (status, body["error"]) == (403, "TLS not enabled")
        status, body = await ask(gateway, wallet, "carl")
        assert (status, f"{stored} is in `allow` and no longer stored" in await why(gateway, body)) == (403, True)
        await gateway.tyk("POST", f"/tyk/certs?org_id={ORG}", data=wallet.pem("carl"))
        assert (await ask(gateway, wallet, "carl"))[0] == 200


async def test_a_key_is_asked_for_beside_the_certificate(tmp_path: Path, upstream: RecordingUpstream) -> None:
    wallet = Wallet(tmp_path)
    anna = wallet.add("anna")
    wallet.add("ben")
    imported(tmp_path, upstream, use_mutual_tls_auth=True, client_certificates=[anna])
    async with running_gateway({"aiogate.yaml": LISTEN}, folder=tmp_path, listen=None) as gateway:
        key = f"Authorization: {await gateway.create_key('api', quota_max=1)}"
        assert (await ask(gateway, wallet, "ben", key))[1]["code"] == "certificate_denied"
        assert (await ask(gateway, wallet, "", key))[1]["code"] == "certificate_missing"
        assert (await ask(gateway, wallet, "anna"))[1]["code"] == "auth_missing"
        assert (await ask(gateway, wallet, "anna", "Authorization: nobodys"))[1]["code"] == "key_unknown"
        assert (await ask(gateway, wallet, "anna", key))[0] == 200
        assert (await ask(gateway, wallet, "anna", key))[1]["code"] == "quota_exceeded", "the key's session counts"
