"""Tyk's definitions, one file for each group of fields: posted, served, shown again, and put back without a change.

Each file has a classic definition and what becomes of each field that has a value. A refused one writes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiogate.config.provenance import is_written_by_api
from aiogate.control.operations.translate import translate_api
from aiogate.control.operations.tyk_fields import API_FIELDS, is_zero
from aiogate.testing import running_gateway

FILES = sorted((Path(__file__).parent / "definitions").glob("*.json"))
READ = {file.stem: json.loads(file.read_text("utf-8")) for file in FILES}
PARTS = {name.partition(".")[0] for name in API_FIELDS}


def says(shown: Any, sent: Any) -> bool:
    """Whether what is shown says all that was sent, zero values aside."""
    if isinstance(sent, dict):
        return isinstance(shown, dict) and all(
            is_zero(inner) or says(shown.get(key), inner) for key, inner in sent.items()
        )
    if isinstance(sent, list):
        return isinstance(shown, list) and len(shown) == len(sent) and all(map(says, shown, sent))
    return bool(shown == sent)


def at(value: Any, field: str, body: Any) -> Any:
    """The value of a field, whose path may hold keys with dots in them."""
    if not field:
        return value
    key = max((key for key in body if field == key or field.startswith(f"{key}.")), key=len)
    inner = value.get(key) if isinstance(value, dict) else None
    return at(inner, field[len(key) + 1 :], body[key])


def paths(lines: list[str]) -> list[str]:
    return [line.partition(": ")[0] for line in lines]


def test_there_is_a_file_for_each_part_of_a_definition() -> None:
    assert len(READ) >= 25
    told = {key for one in READ.values() for key in one["definition"]}
    # Spellings of old, and what only other programs fill in.
    assert PARTS - told <= {
        "detailed_tracing", "jwt_jwks_uris", "jwt_identit_base_field", "jwt_issued_at_validation_skew",
        "jwt_not_before_validation_skew", "jwt_scope_to_policy_mapping", "jwt_scope_claim_name",
        "custom_plugin_auth_enabled", "enable_coprocess_auth", "use_go_plugin_auth",
    }  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_each_field_has_its_verdict(name: str) -> None:
    verdicts: dict[str, list[str]] = {}
    for field in translate_api(READ[name]["definition"]).fields:
        verdicts.setdefault(field.verdict, []).append(field.field)
    assert verdicts == READ[name]["verdicts"]


@pytest.mark.parametrize("name", [name for name, one in READ.items() if "refused" in one["verdicts"]])
async def test_what_is_refused_is_named_and_not_written(name: str) -> None:
    async with running_gateway({}) as gateway:
        answer = await gateway.tyk("POST", "/tyk/apis", READ[name]["definition"])
        assert answer.status == 400
        assert paths(answer.json["details"]) == READ[name]["verdicts"]["refused"]
        assert list((gateway.folder / "apis.d").iterdir()) == []


@pytest.mark.parametrize("name", [name for name, one in READ.items() if "refused" not in one["verdicts"]])
async def test_what_is_taken_goes_round(name: str) -> None:
    sent, verdicts = READ[name]["definition"], READ[name]["verdicts"]
    async with running_gateway({}) as gateway:
        answer = await gateway.tyk("POST", "/tyk/apis", sent)
        assert answer.status == 200, answer.json
        assert paths(answer.json["ignored"]) == verdicts["ignored"]
        file = gateway.folder / f"apis.d/{name}.yaml"
        written = file.read_bytes()
        assert is_written_by_api(written)
        verdict = await gateway.reload()
        assert verdict.ok, verdict.diagnostics
        shown = await gateway.tyk("GET", f"/tyk/apis/{name}")
        if sent["active"] is False:
            assert shown.status == 404
            return
        lost = [field for field in verdicts["mapped"] if not says(at(shown.json, field, sent), at(sent, field, sent))]
        assert lost == READ[name].get("shown otherwise", []), [(at(shown.json, field, sent)) for field in lost]
        again = await gateway.tyk("PUT", f"/tyk/apis/{name}", shown.json)
        assert again.status == 200, again.json
        assert file.read_bytes() == written
