"""The example plugin `partner_token`, tested as a plugin author would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aiogate import Problem, Session
from aiogate.testing import FakeClock, make_exchange, make_services, run_authenticator, running_gateway
from plugins import partner_token

SECRET = "a secret of at least 32 characters"
KIND = partner_token.aiogate_middleware()
NOW = 1_700_000_000
SESSIONS: dict[str, Any] = {
    "partner.one": {"access_rights": {"test": {}}},
    "anna": {"access_rights": {"test": {}}, "basic_auth_data": {"password": "x"}},
}


def token(name: str = "partner.one", expires: str = str(NOW + 60), org: str = "default", secret: str = SECRET) -> str:
    return f"{name}.{expires}.{partner_token.sign(secret.encode(), org, name, expires)}"


async def said(*tokens: str) -> Session | Problem | None:
    exchange = make_exchange(headers=[("X-Partner-Token", one) for one in tokens])
    services = make_services(FakeClock(NOW))
    return await run_authenticator(KIND, {"secret": SECRET}, exchange, services=services, sessions=SESSIONS)


async def test_a_signed_token_gives_the_session_that_it_names() -> None:
    session = await said(token())
    assert isinstance(session, Session)
    assert set(session.grants) == {"test"}


async def test_without_a_token_it_has_nothing_to_say() -> None:
    assert await said() is None


@pytest.mark.parametrize(
    "presented, code",
    [
        (token(secret="another secret of the same length."), "key_unknown"),
        (token(org="other"), "key_unknown"),
        (token()[:-1] + "é", "key_unknown"),
        (token(expires=str(NOW)), "key_expired"),
        (token(expires="soon"), "key_expired"),
        (token(expires="9" * 400), "key_expired"),
        (token(expires=str(NOW + 301)), "key_unknown"),
        (token(name="nobody"), "key_unknown"),
        (token(name="anna"), "key_unknown"),
        ("", "key_unknown"),
        ("..", "key_unknown"),
    ],
    ids=[
        "other secret", "other organisation", "not ascii", "ended", "no number", "endless number", "too long",
        "unknown", "a basic user", "empty", "only dots",
    ],
)  # fmt: skip
async def test_everything_else_is_refused(presented: str, code: str) -> None:
    problem = await said(presented)
    assert isinstance(problem, Problem)
    assert problem.code == code
    assert SECRET not in problem.detail


async def test_two_differing_tokens_are_refused() -> None:
    problem = await said(token(), token(expires=str(NOW + 61)))
    assert isinstance(problem, Problem)
    assert problem.code == "auth_ambiguous"
    assert isinstance(await said(token(), token()), Session)


def test_a_short_secret_is_refused_and_never_shown() -> None:
    with pytest.raises(ValidationError):
        KIND.config.model_validate({"secret": "short"})
    assert SECRET not in repr(KIND.config.model_validate({"secret": SECRET}))


async def test_it_works_as_a_file_in_the_plugins_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTNER_SECRET", SECRET)
    files = {
        "plugins/partner_token.py": Path(partner_token.__file__).read_text(),
        "apis.d/test.yaml": """
            listen: /test/
            auth: [partner_token: {secret: "${PARTNER_SECRET}"}, key]
            plugins: [mock: welcome]
            """,
    }
    async with running_gateway(files, clock=FakeClock(NOW)) as gateway:
        key = await gateway.create_key("test", name="partner.one")
        welcome = await gateway.get("/test/", headers={"X-Partner-Token": token()})
        assert (welcome.status, welcome.body) == (200, b"welcome")
        assert (await gateway.get("/test/", key=key)).status == 200
        forged = await gateway.get("/test/", headers={"X-Partner-Token": token(secret=SECRET[::-1])}, key=key)
        assert (forged.status, forged.code) == (403, "key_unknown")
        assert (await gateway.why(forged))["reason"] == "the signature of the partner token is wrong"
