"""`basic`, deeper: RFC 7617, credentials in a body, caches, failures, and hashes made elsewhere."""

from __future__ import annotations

import asyncio
import base64
import os
from collections import Counter

import bcrypt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiogate.builtin import basic
from aiogate.builtin.basic import Credentials, read
from aiogate.credentials import hashers, hashes
from aiogate.errors import DiagnosticsFound, Problem
from aiogate.testing import (
    FakeClock,
    make_exchange,
    make_services,
    recording_upstream,
    run_authenticator,
    running_gateway,
)

USER = {"access_rights": {"x": {"api_id": "x", "versions": []}}}
BODY = "{body: {user: '<u>(.*)</u>', password: '<p>(.*)</p>'}}"


def site(config: str = "", more: str = "plugins: [mock: hi]", auth: str = "") -> dict[str, str]:
    return {
        "apis.d/x.yaml": f"listen: /x/\nauth: {auth or f'[basic: {config or None}]'}\n{more}\n".replace("None", "{}")
    }


def header(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# RFC 7617


def test_the_examples_of_rfc_7617() -> None:
    assert read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", alone=True) == Credentials("Aladdin", "open sesame")
    assert read("Basic dGVzdDoxMjPCow==", alone=True) == Credentials("test", "123£")


@given(
    st.text(st.characters(exclude_characters=":", exclude_categories=("Cs",))),
    st.text(st.characters(exclude_categories=("Cs",))),
)
def test_every_user_and_password_is_read_back(user: str, password: str) -> None:
    assert read(header(user, password), alone=True) == Credentials(user, password)


VALID = header("ann@example.com", "pass:word £")


@st.composite
def mutations(draw: st.DrawFn) -> str:
    value = VALID
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        what = draw(st.sampled_from(["delete", "insert", "replace", "swap-case", "double", "cut"]))
        char = draw(st.characters(min_codepoint=32, max_codepoint=255))
        if what == "delete":
            value = value[:at] + value[at + 1 :]
        elif what == "insert":
            value = value[:at] + char + value[at:]
        elif what == "replace":
            value = value[:at] + char + value[at + 1 :]
        elif what == "swap-case":
            value = value[:at] + value[at : at + 1].swapcase() + value[at + 1 :]
        elif what == "double":
            value = value[:at] + value[at : at + 4] * 2 + value[at + 4 :]
        else:
            value = value[:at]
    return value


@settings(max_examples=500)
@given(mutations())
@example(VALID.replace("w==", "x=="))
@example(VALID + "=")
@example(VALID.rstrip("="))
def test_no_mutation_of_a_credential_is_the_credential(value: str) -> None:
    if value.partition(" ")[0].lower() == "basic" and value.partition(" ")[2] == VALID.partition(" ")[2]:
        return  # the scheme's case does not matter (RFC 9110 section 11.1)
    assert read(value, alone=True) != Credentials("ann@example.com", "pass:word £")


# In a body


@pytest.mark.parametrize(
    "body, status, said",
    [
        ("<u>ann</u><p>secret</p>", 200, ""),
        ("<x>é</x>\n<u>ann</u>\n<p>secret</p>", 200, ""),
        ("<u>ann</u><p>wrong</p>", 401, "User not authorised"),
        ("<u>bob</u><p>secret</p>", 401, "User not authorised"),
        ("<p>secret</p>", 400, "Body do not contain username"),
        ("<u>ann</u>", 400, "Body do not contain password"),
        ("<u>ann\udcff</u><p>secret</p>", 400, "Body do not contain username"),
        ("", 401, "Authorization field missing"),
    ],
)
async def test_credentials_in_a_body(body, status, said):
    sent = body.encode("utf-8", "surrogateescape")
    async with recording_upstream() as upstream, running_gateway(site(BODY, f"upstream: {upstream.url}")) as gateway:
        await gateway.create_user("ann", "secret", "x")
        reply = await gateway.request("POST", "/x/", data=sent)
        assert reply.status == status
        if status == 200:
            assert upstream.last.body == sent, "the body goes upstream as it came"
        else:
            assert reply.error == said
            assert upstream.received == []


async def test_the_header_goes_before_the_body():
    async with running_gateway(site(BODY)) as gateway:
        await gateway.create_user("ann", "secret", "x")
        body = b"<u>ann</u><p>wrong</p>"
        assert (await gateway.request("POST", "/x/", data=body, user=("ann", "secret"))).status == 200
        body = b"<u>ann</u><p>secret</p>"
        assert (await gateway.request("POST", "/x/", data=body, user=("ann", "wrong"))).status == 401


async def test_a_body_without_credentials_is_left_to_the_other_methods():
    async with running_gateway(site(auth=f"[basic: {BODY}, key]")) as gateway:
        key = await gateway.create_key("x")
        assert (await gateway.request("POST", "/x/", data=b"nothing", key=key)).status == 200
        assert (await gateway.request("POST", "/x/", data=b"nothing")).code == "auth_missing"


async def test_a_group_that_took_no_part():
    config = "{body: {user: 'x|<u>(.*)</u>', password: '<p>(.*)</p>'}}"
    async with running_gateway(site(config)) as gateway:
        reply = await gateway.request("POST", "/x/", data=b"x<p>secret</p>")
        assert (reply.status, reply.error) == (400, "username should be inside regexp match group")


async def test_a_body_is_read_up_to_its_limit_only():
    config = "{body: {user: '<u>(.*)</u>', password: '<p>(.*)</p>', limit: 30B}}"

    async def pieces():
        for _ in range(10):
            yield b"<u>ann</u>"

    async with running_gateway(site(config)) as gateway:
        assert (await gateway.request("POST", "/x/", data=b"<u>ann</u>" * 4)).status == 413
        assert (await gateway.request("POST", "/x/", data=pieces())).status == 413


@pytest.mark.parametrize(
    "config, code",
    [
        ("{body: {user: 'a', password: '(b)'}}", "invalid_pattern"),
        ("{body: {user: '(a)(b)', password: '(b)'}}", "invalid_pattern"),
        ("{body: {user: '(a', password: '(b)'}}", "invalid_pattern"),
        ("{body: {user: '(?=a)(b)', password: '(b)'}}", "invalid_pattern"),
        ("{body: {user: '(a)'}}", "missing_key"),
        ("{cache: 60}", "missing_unit"),
        ("{cache: on}", "invalid_value"),
    ],
)
async def test_mistakes_are_told(config, code):
    with pytest.raises(DiagnosticsFound) as caught:
        async with running_gateway(site(config)):
            pass
    assert {one.code for one in caught.value.diagnostics} == {code}


# What is remembered


@pytest.fixture
def compared(monkeypatch):
    calls = []

    async def matches(self, password, stored, algorithm):
        calls.append(password)
        return hashes.matches(password, stored, algorithm)

    monkeypatch.setattr(hashers.Hashers, "matches", matches)
    return calls


@pytest.mark.parametrize("config, after", [("{}", 1), ("{cache: off}", 3), ("{cache: 0s}", 3), ("{cache: 10s}", 2)])
async def test_how_long_a_password_is_remembered_is_the_apis_matter(config, after, compared):
    clock = FakeClock()
    async with running_gateway(site(config), clock=clock) as gateway:
        await gateway.create_user("ann", "secret", "x")
        for seconds in (5, 20, 0):
            assert (await gateway.get("/x/", user=("ann", "secret"))).status == 200
            clock.advance(seconds)
        assert len(compared) == after


async def test_an_api_that_remembers_nothing_takes_no_other_apis_word(compared):
    files = site() | {"apis.d/y.yaml": "{listen: /y/, auth: [basic: {cache: off}], plugins: [mock: hi]}"}
    async with running_gateway(files) as gateway:
        await gateway.create_user("ann", "secret", "x", "y")
        assert (await gateway.get("/x/", user=("ann", "secret"))).status == 200
        assert (await gateway.get("/x/", user=("ann", "secret"))).status == 200
        assert len(compared) == 1
        assert (await gateway.get("/y/", user=("ann", "secret"))).status == 200
        assert len(compared) == 2


# Failures


async def test_42_too_many_wrong_passwords_are_refused_before_anything_is_hashed(compared):
    clock = FakeClock()
    async with running_gateway(site(), clock=clock, failures__user="3/1m") as gateway:
        await gateway.create_user("ann", "secret", "x")
        await gateway.create_user("bob", "secret", "x")
        bodies = set()
        for user in ("ann", "nobody"):
            for number in range(5):
                reply = await gateway.get("/x/", user=(user, f"wrong-{number}"))
                assert (reply.status, reply.code) == ((401, "auth_failed") if number < 3 else (429, "auth_throttled"))
                bodies.add(reply.body.replace(reply.request_id.encode(), b""))
        assert len(bodies) == 2, "known or not, everybody is told the same"
        assert len(compared) == 6
        assert reply.headers["Retry-After"] == "60"
        why = await gateway.why(reply)
        assert why["reason"] == "too many wrong passwords came from 127.0.0.1; user 'nobody' waits 60 s"
        assert (await gateway.get("/x/", user=("ann", "secret"))).status == 429, "the right one would tell a guesser"
        assert (await gateway.get("/x/", user=("bob", "secret"))).status == 200
        clock.advance(60)
        assert (await gateway.get("/x/", user=("ann", "secret"))).status == 200


async def test_another_address_does_not_lock_a_user_out():
    async with running_gateway(site(), trusted_proxies=["127.0.0.1"], failures__user="2/1m") as gateway:
        await gateway.create_user("ann", "secret", "x")
        evil, home = {"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": "192.0.2.1"}
        assert (await gateway.get("/x/", user=("ann", "secret"), headers=home)).status == 200
        for _ in range(4):
            reply = await gateway.get("/x/", user=("ann", "wrong"), headers=evil)
        assert reply.status == 429
        assert (await gateway.get("/x/", user=("ann", "secret"), headers=home)).status == 200


async def test_42_a_search_for_keys_is_stopped_and_a_dead_key_is_not():
    async with running_gateway(site(auth="key"), failures__address="5/1m") as gateway:
        key = await gateway.create_key("x")
        for _ in range(20):
            assert (await gateway.get("/x/", key="dead-key")).status == 403
        assert (await gateway.get("/x/", key=key)).status == 200
        statuses = [(await gateway.get("/x/", key=f"guess-{number}")).status for number in range(6)]
        assert statuses == [403, 403, 403, 403, 429, 429]
        reply = await gateway.get("/x/", key="guess-9")
        assert (reply.code, "Retry-After" in reply.headers) == ("auth_throttled", True)
        assert (await gateway.get("/x/", key=key)).status == 200, "who came in before is let in"


async def test_42_guesses_at_once_hear_no_more_than_guesses_one_by_one():
    limits = {"failures__user": "3/1m", "failures__address": "20/1m"}
    async with running_gateway(site(), **limits) as gateway:
        await gateway.create_user("ann", "secret", "x")
        asked = [gateway.get("/x/", user=("ann", f"wrong-{number}")) for number in range(20)]
        statuses = Counter(reply.status for reply in await asyncio.gather(*asked))
        assert statuses == {401: 3, 429: 17}
    async with running_gateway(site(auth="key"), failures__address="5/1m") as gateway:
        read = gateway.gateway.store.sessions.get

        async def slowly(name):
            await asyncio.sleep(0.02)
            return await read(name)

        gateway.gateway.store.sessions.get = slowly
        asked = [gateway.get("/x/", key=f"guess-{number}") for number in range(40)]
        statuses = Counter(reply.status for reply in await asyncio.gather(*asked))
        assert statuses == {403: 5, 429: 35}


async def test_limits_can_be_switched_off():
    async with running_gateway(site(), failures__user="off", failures__address="off") as gateway:
        await gateway.create_user("ann", "secret", "x")
        assert {(await gateway.get("/x/", user=("ann", "wrong"))).status for _ in range(15)} == {401}


# Rows 43 to 45


@pytest.mark.parametrize(
    "password",
    ["x" * 73, "x" * 6_000, "a\0b", "caf\udce9", "", "é" * 37],
    ids=["73", "6k", "nul", "bytes", "empty", "74"],
)
async def test_44_no_password_is_too_strange(password):
    async with running_gateway(site()) as gateway:
        await gateway.create_user("ann", "x" * 72, "x")
        value = "Basic " + base64.b64encode(b"ann:" + password.encode("utf-8", "surrogateescape")).decode()
        reply = await gateway.get("/x/", headers={"Authorization": value})
        assert (reply.status, reply.code) == (401, "auth_failed")


async def test_43_an_unknown_user_costs_what_a_known_one_does(compared):
    services = make_services()
    for user in ("ann", "nobody"):
        exchange = make_exchange(headers={"Authorization": header(user, "wrong ")})
        sessions = {"ann": {**USER, "basic_auth_data": {"password": await services.passwords.hash("secret")}}}
        found = await run_authenticator(basic.aiogate_middleware(), {}, exchange, services=services, sessions=sessions)
        assert isinstance(found, Problem)
        assert (found.status, len(compared)) == (401, 2), user
        compared.clear()
    await services.passwords.close()


async def test_45_a_flood_of_wrong_passwords_is_bounded_and_does_not_hold_up_others(monkeypatch):
    gate = asyncio.Event()
    running, most = 0, 0
    ask = hashers._Child.ask

    async def held(self, request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return await ask(self, request)

    files = site() | {"apis.d/y.yaml": "{listen: /y/, auth: none, plugins: [mock: hi]}"}
    async with running_gateway(files, failures__user="off", failures__address="off") as gateway:
        await gateway.create_user("ann", "secret", "x")
        monkeypatch.setattr(hashers._Child, "ask", held)
        try:
            flood = [asyncio.ensure_future(gateway.get("/x/", user=("ann", f"wrong-{n}"))) for n in range(200)]
            cores = os.cpu_count() or 1
            waiting = cores + 32
            async with asyncio.timeout(30):
                while sum(task.done() for task in flood) < 200 - waiting:
                    await asyncio.sleep(0.01)
            assert {task.result().code for task in flood if task.done()} == {"auth_busy"}
            # All processes are held up, and so is the queue; nobody else is.
            assert (await gateway.get("/y/")).status == 200
            assert sum(not task.done() for task in flood) == waiting
        finally:
            gate.set()
        replies = await asyncio.gather(*flood)
        codes = [reply.code for reply in replies]
        busy = next(reply for reply in replies if reply.code == "auth_busy")
        assert (await gateway.why(busy))["reason"].startswith("the queue of passwords to verify is full")
        assert (codes.count("auth_failed"), codes.count("auth_busy")) == (waiting, 200 - waiting)
        assert most == cores


# Hashes made elsewhere


@pytest.mark.parametrize("kind", ["$2a$", "$2b$", "$2y$", "argon2id"])
async def test_a_ready_made_hash_is_taken_over_with_the_control_secret(kind):
    if kind == "argon2id":
        stored = hashes.hashed(b"secret", "argon2id", 4)
    else:
        stored = kind + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()[4:]
    async with running_gateway(site()) as gateway:
        body = {**USER, "basic_auth_data": {"password": stored}}
        assert (await gateway.tyk("POST", "/tyk/keys/ann?password_hash=1", body)).status == 200
        assert (await gateway.get("/x/", user=("ann", "secret"))).status == 200
        assert (await gateway.get("/x/", user=("ann", stored))).status == 401
        shown = await gateway.tyk("GET", "/tyk/keys/ann")
        assert shown.json["basic_auth_data"]["password"] == ""
        assert shown.json["basic_auth_data"]["hash_type"] == ("argon2id" if kind == "argon2id" else "bcrypt")


async def test_a_hash_is_a_password_like_any_other_where_nobody_says_so():
    stored = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    body = {**USER, "basic_auth_data": {"password": stored, "hash_type": "bcrypt"}}
    async with running_gateway(site()) as gateway:
        assert (await gateway.tyk("POST", "/tyk/keys/ann", body)).status == 200
        assert (await gateway.dashboard("POST", "/api/keys/bob?password_hash=1", body)).status == 200
        for user in ("ann", "bob"):
            assert (await gateway.get("/x/", user=(user, "secret"))).status == 401
            assert (await gateway.get("/x/", user=(user, stored))).status == 200


@pytest.mark.parametrize(
    "stored, said",
    [
        ("secret", "neither a bcrypt hash nor an Argon2id one"),
        ("$apr1$x$y", "Apache's MD5"),
        ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "unsalted SHA-1"),
        ("$2y$31$" + "." * 53, "of a cost that is not 4 to 17"),
        ("$argon2id$v=19$m=9999999,t=2,p=1$" + "A" * 22 + "$" + "A" * 43, "out of bounds"),
        ("$argon2i$v=19$m=8,t=2,p=1$" + "A" * 22 + "$" + "A" * 43, "Argon2i"),
        ("", "neither"),
    ],
)
async def test_what_cannot_be_verified_is_not_stored(stored, said):
    async with running_gateway(site()) as gateway:
        body = {**USER, "basic_auth_data": {"password": stored}}
        reply = await gateway.tyk("POST", "/tyk/keys/ann?password_hash=1", body)
        assert reply.status == 400
        assert said in reply.text
        assert stored == "" or stored not in reply.text


async def test_argon2id_for_new_passwords():
    async with running_gateway(site(), passwords__algorithm="argon2id") as gateway:
        await gateway.create_user("ann", "x" * 100, "x")
        assert (await gateway.get("/x/", user=("ann", "x" * 100))).status == 200
        assert (await gateway.get("/x/", user=("ann", "x" * 101))).status == 401
        assert (await gateway.get("/x/", user=("nobody", "x"))).status == 401
        assert (await gateway.tyk("GET", "/tyk/keys/ann")).json["basic_auth_data"]["hash_type"] == "argon2id"


async def test_argon2id_without_the_extra_is_told(monkeypatch):
    monkeypatch.setattr(hashes, "argon2_is_installed", lambda: False)
    stored = hashes.hashed(b"secret", "argon2id", 4)
    assert hashes.kind_of_hash(stored) is None
    assert "pip install 'aiogate[argon2]'" in hashes.hash_mistake(stored)
