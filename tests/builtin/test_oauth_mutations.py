"""Row 51: nothing that is almost a token, a code, a verifier or a secret is taken for it, over a socket."""

from __future__ import annotations

import asyncio
import string
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiogate.testing import FakeClock, GatewayFixture, running_gateway

BACK = "https://app.example.com/back"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FILES = {
    "apis.d/shop.yaml": "{listen: /shop/, auth: {oauth: {login: 'https://login.example/'}}, plugins: [mock: hi]}",
    "policies.d/gold.yaml": "access: {shop: {}}",
}
EACH = settings(max_examples=250, deadline=None)


class Holder:
    """A gateway with a client that holds one of everything, in a loop that outlives single examples."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.stack = AsyncExitStack()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    async def open(self) -> None:
        limits = {"failures__user": "off", "failures__address": "off"}
        clock = FakeClock(1_700_000_000)
        self.gateway: GatewayFixture = await self.stack.enter_async_context(
            running_gateway(FILES, clock=clock, **limits)
        )
        made = await self.gateway.tyk(
            "POST", "/tyk/oauth/clients/create",
            {"client_id": "app", "api_id": "shop", "policy_id": "gold", "redirect_uri": BACK},
        )  # fmt: skip
        self.secret: str = made.json["secret"]
        issued = (await self.token(await self.code())).json
        self.access, self.refresh = issued["access_token"], issued["refresh_token"]
        # Looked up once, so that mutations meet the memory of what was right, too.
        assert await self.opens(self.access) == 200
        self.unused = await self.code()

    async def code(self) -> str:
        asked = {"client_id": "app", "response_type": "code", "redirect_uri": BACK, "code_challenge": CHALLENGE,
                 "code_challenge_method": "S256"}  # fmt: skip
        return str((await self.gateway.tyk("POST", "/tyk/oauth/authorize-client/", asked)).json["code"])

    async def post(self, path: str, form: dict[str, str], **headers: str) -> Any:
        body = urlencode(form, errors="surrogatepass").encode()
        return await self.gateway.request("POST", f"/shop/oauth/{path}", data=body, headers=FORM | headers)

    async def token(self, code: str, **changed: str) -> Any:
        form = {"client_id": "app", "client_secret": self.secret, "grant_type": "authorization_code", "code": code,
                "redirect_uri": BACK, "code_verifier": VERIFIER}  # fmt: skip
        return await self.post("token", form | changed)

    async def refreshed(self, token: str) -> Any:
        form = {"client_id": "app", "client_secret": self.secret, "grant_type": "refresh_token"}
        return await self.post("token", form | {"refresh_token": token})

    async def opens(self, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return int((await self.gateway.get("/shop/", headers=headers)).status)


@pytest.fixture(scope="module")
def holder() -> Iterator[Holder]:
    with asyncio.Runner() as runner:
        made = Holder(runner)
        runner.run(made.open())
        try:
            yield made
        finally:
            runner.run(made.stack.aclose())


CHARACTERS = st.sampled_from(string.ascii_letters + string.digits + "-_~.+/=%&\u00e9\u0131\uff21")
MUTATIONS: list[Callable[[str, int, str], str]] = [
    lambda text, at, char: text[:at] + char + text[at + 1 :],
    lambda text, at, char: text[:at] + char + text[at:],
    lambda text, at, _: text[:at] + text[at + 1 :],
    lambda text, at, _: text[:at],
    lambda text, at, _: text[at:],
    lambda text, at, _: text[:at] + text[at:].swapcase(),
    lambda text, at, _: text[at:] + text[:at],
    lambda text, at, char: text + char * (at + 1),
    lambda text, at, char: char + text,
    lambda text, at, _: quote(text[:at], safe="") + "".join(f"%{ord(one):02x}" for one in text[at:]),
    lambda text, at, _: text.replace("-", "+").replace("_", "/"),
    lambda text, at, _: text + "=" * (at % 3 + 1),
    lambda text, at, _: text + text,
    lambda text, at, _: b64encode(text.encode()).decode(),
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """One to three changes that do not cancel each other out."""
    made = text
    for mutate in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=3)):
        made = mutate(made, draw(st.integers(0, max(len(made) - 1, 0))), draw(CHARACTERS))
    assume(made != text and len(made) < 4000)
    return made


@EACH
@given(st.data())
def test_51_no_mutation_of_an_access_token(holder: Holder, data: st.DataObject) -> None:
    # A header holds what Latin-1 has; what stands in no header cannot be sent.
    token = data.draw(mutated(holder.access)).encode("latin-1", "ignore").decode("latin-1")
    assume(token != holder.access)
    assert holder.run(holder.opens(token)) in (400, 403), token
    asked = {"client_id": "app", "client_secret": holder.secret, "token": token}
    assert holder.run(holder.post("introspect", asked)).json.get("active", False) is False
    holder.run(holder.post("revoke", asked))


@EACH
@given(st.data())
def test_51_no_mutation_of_a_refresh_token(holder: Holder, data: st.DataObject) -> None:
    answer = holder.run(holder.refreshed(data.draw(mutated(holder.refresh))))
    assert (answer.status, answer.json["error"] in ("invalid_grant", "invalid_request")) == (400, True)


@EACH
@given(st.data())
def test_51_no_mutation_of_a_code(holder: Holder, data: st.DataObject) -> None:
    answer = holder.run(holder.token(data.draw(mutated(holder.unused))))
    assert (answer.status, answer.json["error"] in ("invalid_grant", "invalid_request")) == (400, True)


@EACH
@given(st.data(), st.booleans())
def test_51_no_mutation_of_a_verifier_or_of_the_redirect_address(
    holder: Holder, data: st.DataObject, other_place: bool
) -> None:
    field, right = ("redirect_uri", BACK) if other_place else ("code_verifier", VERIFIER)
    answer = holder.run(holder.token(holder.unused, **{field: data.draw(mutated(right) | st.just(""))}))
    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


@EACH
@given(st.data(), st.sampled_from(("form", "header")))
def test_51_no_mutation_of_a_client_secret(holder: Holder, data: st.DataObject, way: str) -> None:
    secret = data.draw(mutated(holder.secret) | st.just(""))
    form, headers = {"grant_type": "client_credentials", "client_id": "app", "client_secret": secret}, {}
    if way == "header":
        del form["client_secret"]
        pair = b64encode(f"app:{quote(secret, safe='')}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}"}
    answer = holder.run(holder.post("token", form, **headers))
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")


def test_51_what_was_mutated_is_as_good_as_before(holder: Holder) -> None:
    """Nobody who tried has spent or revoked anything."""
    assert holder.run(holder.opens(holder.access)) == 200
    assert holder.run(holder.refreshed(holder.refresh)).status == 200
    assert holder.run(holder.token(holder.unused)).status == 200
