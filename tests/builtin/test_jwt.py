"""The method `jwt`: whose token opens what, and what everybody else is told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aiogate.builtin import jwt
from aiogate.testing import FakeClock, GatewayFixture, Reply, running_gateway
from tests.credentials.issuer import SECRET, key_for, pem, public_jwk, running_issuer, sign

NOW = 1_700_000_000
ROOT = Path(__file__).resolve().parents[2]
POLICIES = {
    "policies.d/gold.yaml": "{access: {api: {}, other: {}}, quota: 3/1h, tags: [gold]}",
    "policies.d/read.yaml": "{access: {api: {paths: [{path: /, methods: [GET]}]}}}",
    "policies.d/write.yaml": "{access: {api: {paths: [{path: /, methods: [POST]}]}}}",
    "policies.d/elsewhere.yaml": "{access: {other: {}}}",
    "policies.d/resting.yaml": "{access: {api: {}}, inactive: true}",
    "policies.d/foreign.yaml": "{org: acme}",
}


@asynccontextmanager
async def api(options: str, auth: str = "", **more: str) -> AsyncIterator[GatewayFixture]:
    """A gateway with `api` and `other`, which take tokens with these options; `auth` in their place."""
    auth = auth or f"{{jwt: {{{options}}}}}"
    files = POLICIES | more
    for name in ("api", "other"):
        files[f"apis.d/{name}.yaml"] = f"listen: /{name}/\nauth: {auth}\nplugins: [mock: welcome]\n"
    async with running_gateway(files, clock=FakeClock(NOW)) as gateway:
        yield gateway


def token(algorithm: str = "HS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
    said = {"sub": "anna", "exp": NOW + 60} | claims
    return sign({name: value for name, value in said.items() if value is not None}, algorithm, **(header or {}))


async def ask(gateway: GatewayFixture, text: str, path: str = "/api/", method: str = "GET") -> Reply:
    return await gateway.request(method, path, headers={"Authorization": f"Bearer {text}"})


async def refused(gateway: GatewayFixture, reply: Reply, status: int, code: str, error: str, reason: str) -> None:
    assert (reply.status, reply.code, reply.error) == (status, code, error), reply.text
    assert reason in (await gateway.why(reply))["reason"]


HS = f"algorithms: HS256, key: '{SECRET}'"
SIMPLE = f"{HS}, default_policies: gold"


async def test_a_token_opens_what_its_policies_open() -> None:
    async with api(SIMPLE) as gateway:
        text = token()
        for header in (f"Bearer {text}", f"bearer {text}", text):
            reply = await gateway.get("/api/", headers={"Authorization": header})
            assert (reply.status, reply.body) == (200, b"welcome")
        assert reply.headers["X-RateLimit-Remaining"] == "0"
        assert (await ask(gateway, text)).code == "quota_exceeded"
        assert (await ask(gateway, token(iat=NOW), "/other/")).code == "quota_exceeded", (
            "who asks is counted, not what with"
        )
        assert (await ask(gateway, token(sub="ben"))).status == 200
        assert (await ask(gateway, token(iss="elsewhere"))).status == 200, "another issuer's anna is somebody else"
        assert (await gateway.tyk("GET", "/tyk/keys")).json["keys"] == [], "no record is made"


async def test_what_is_refused_and_why() -> None:
    async with api(SIMPLE) as gateway:
        missing = await gateway.get("/api/")
        await refused(gateway, missing, 400, "auth_missing", "Authorization field missing", "by jwt")
        assert missing.headers["WWW-Authenticate"] == 'Bearer realm="api"'
        other = await gateway.get("/api/", user=("anna", "x"))
        assert (other.status, other.code) == (400, "auth_missing")
        invalid = (403, "token_invalid", "Key not authorized")
        algorithm = (403, "token_algorithm", "Key not authorized: Unexpected signing method")
        good = token()
        for text, told, reason in (
            ("x", invalid, "1 parts"),
            (good + "x", invalid, "signature"),
            (good[:-1], invalid, "signature"),
            (sign({"sub": "anna", "exp": NOW + 60}, "HS256", key_for("HS256", 1)), invalid, "not that of the oct key"),
            (token(header={"alg": "none"}), algorithm, "'none', allowed here: HS256"),
            (token(header={"alg": "None"}), algorithm, "'None'"),
            (token(header={"alg": None}), algorithm, "None"),
            (good.rpartition(".")[0] + ".", invalid, "signature"),
            (token("HS384"), algorithm, "'HS384', allowed here: HS256"),
            (token("RS256"), algorithm, "'RS256'"),
            (token(exp=NOW), (401, "token_expired", "Key not authorized: token has expired"), "0 s ago"),
            (token(nbf=NOW + 5), (401, "token_rejected", "Key not authorized: token is not valid yet"), "5 s ahead"),
            (token(exp=None), (401, "token_rejected", "Key not authorized: the claim exp is missing"), "required"),
            (token(sub=None), (403, "token_identity", "no suitable claims for user ID were found"), "no claim `sub`"),
            (token(sub=5), (403, "token_identity", "no suitable claims for user ID were found"), "no claim `sub`"),
            (token(sub=""), (403, "token_identity", "found an empty user ID in sub claim"), "empty"),
        ):
            reply = await ask(gateway, text)
            await refused(gateway, reply, *told, reason)
            challenge = 'Bearer realm="api", error="invalid_token"' if told[0] == 401 else None
            assert reply.headers.get("WWW-Authenticate") == challenge
        assert (await ask(gateway, good)).status == 200


async def test_a_token_ends_when_it_says_and_not_before() -> None:
    """Row 48."""
    async with api(f"{SIMPLE}, skew: {{exp: 10s}}") as gateway:
        clock = gateway.gateway.clock
        assert isinstance(clock, FakeClock)
        text = token()
        assert (await ask(gateway, text)).status == 200
        clock.advance(69.9)
        assert (await ask(gateway, text)).status == 200
        clock.advance(0.2)
        await refused(
            gateway, await ask(gateway, text), 401, "token_expired", "Key not authorized: token has expired",
            "passed 10 s ago, the skew is 10 s",
        )  # fmt: skip
        assert (await ask(gateway, token(exp=NOW + 100, nbf=NOW + 71))).status == 401


@pytest.mark.parametrize("algorithm", ["RS256", "PS512", "ES256", "ES512", "EdDSA", "Ed448"])
async def test_a_public_key_verifies(algorithm: str) -> None:
    text = json.dumps(pem(algorithm))
    async with api(f"algorithms: [{algorithm}, RS384], key: {text}, default_policies: gold") as gateway:
        assert (await ask(gateway, token(algorithm))).status == 200
        forged = sign({"sub": "anna", "exp": NOW + 60}, "HS256", header={"alg": "HS256"})
        assert (await ask(gateway, forged)).code == "token_algorithm"
        assert (await ask(gateway, token(header={"alg": algorithm}))).code == "token_invalid"


async def test_a_public_key_is_no_secret_even_where_both_kinds_are_allowed() -> None:
    """Row 46."""
    text = json.dumps(pem("RS256"))
    async with api(f"algorithms: [HS256, RS256], key: {text}, default_policies: gold") as gateway:
        await refused(
            gateway, await ask(gateway, token()), 403, "token_invalid", "Key not authorized",
            "signed by HS256, the keys for it are of another kind: RSA",
        )  # fmt: skip


async def test_a_key_file_is_read_again_at_each_reload(tmp_path: Any) -> None:
    file = tmp_path / "issuer.pem"
    file.write_text(pem("RS256"))
    async with api(f'algorithms: RS256, key: "${{file:{file}}}", default_policies: gold') as gateway:
        text = token("RS256")
        assert (await ask(gateway, text)).status == 200
        file.write_text(pem("RS256", 1))
        assert (await ask(gateway, text)).status == 200
        assert (await gateway.reload()).changed.changed == ("api", "other")
        assert (await ask(gateway, text)).code == "token_invalid"
        assert (await ask(gateway, sign({"sub": "a", "exp": NOW + 9}, "RS256", key_for("RS256", 1)))).status == 200
        file.write_text("-----BEGIN PUBLIC KEY-----")
        verdict = await gateway.reload()
        assert not verdict.ok
        assert verdict.diagnostics[0].code == "build_failed"
        assert "neither a public key nor a certificate" in verdict.diagnostics[0].message


async def test_several_written_keys_are_told_apart_by_their_kid() -> None:
    keys = json.dumps({"keys": [public_jwk("RS256", number, kid=f"k{number}") for number in range(2)]})
    async with api(f"algorithms: RS256, key: {json.dumps(keys)}, default_policies: gold") as gateway:
        for number in range(2):
            text = sign({"sub": "a", "exp": NOW + 9}, "RS256", key_for("RS256", number), kid=f"k{number}")
            assert (await ask(gateway, text)).status == 200
            text = sign({"sub": "a", "exp": NOW + 9}, "RS256", key_for("RS256", number), kid=f"k{1 - number}")
            assert (await ask(gateway, text)).code == "token_invalid"


async def test_header_fields_that_point_elsewhere_are_not_followed() -> None:
    """Row 47."""
    async with running_issuer(public_jwk("RS256", 1, kid="evil")) as issuer:
        async with api(f"algorithms: RS256, key: {json.dumps(pem('RS256'))}, default_policies: gold") as gateway:
            for name, value in (("jku", issuer.jwks), ("x5u", issuer.jwks), ("jwk", public_jwk("RS256", 1))):
                text = sign({"sub": "a", "exp": NOW + 9}, "RS256", key_for("RS256", 1), kid="evil", **{name: value})
                assert (await ask(gateway, text)).code == "token_invalid"
        assert issuer.asked == 0


async def test_issuer_audience_and_required_claims() -> None:
    options = f"{SIMPLE}, issuer: [a, b], audience: me, require: [exp, jti]"
    async with api(options) as gateway:
        assert (await ask(gateway, token(iss="b", aud=["you", "me"], jti="1"))).status == 200
        for claims, error in (
            ({"iss": "c", "aud": "me", "jti": "1"}, "invalid issuer claim"),
            ({"iss": "a", "aud": "you", "jti": "1"}, "invalid audience claim"),
            ({"iss": "a", "aud": "me"}, "the claim jti is missing"),
        ):
            reply = await ask(gateway, token(**claims))
            assert (reply.status, reply.code, reply.error) == (401, "token_rejected", f"Key not authorized: {error}")


@pytest.mark.parametrize(
    "options, claims, get, post, reason",
    [
        ("policy_claim: plan", {"plan": "read"}, 200, 403, ""),
        ("policy_claim: plan", {"plan": ["read", "write"]}, 200, 200, ""),
        ("policy_claim: my.plan", {"my": {"plan": "write"}}, 403, 200, ""),
        ("policy_claim: plan, default_policies: read", {}, 200, 403, ""),
        ("policy_claim: plan, default_policies: read", {"plan": "write"}, 403, 200, ""),
        ("default_policies: [read, write]", {}, 200, 200, ""),
        ("policy_claim: plan", {}, 403, 403, "no policy in `plan`, and there is no default policy"),
        ("policy_claim: plan", {"plan": ""}, 403, 403, "no policy in `plan`"),
        ("policy_claim: plan", {"plan": 5}, 403, 403, "`plan` is neither text nor a list of it"),
        ("policy_claim: plan", {"plan": "nothing"}, 403, 403, "policy not found: nothing"),
        ("policy_claim: plan", {"plan": "foreign"}, 403, 403, "policy foreign belongs to organisation 'acme'"),
        ("policy_claim: plan", {"plan": "elsewhere"}, 403, 403, "API api is not granted; the session grants other"),
        ("policy_claim: plan", {"plan": "resting"}, 403, 403, "policy resting is inactive"),
        ("scopes: {policies: {r: read, w: write}}", {"scope": "r x"}, 200, 403, ""),
        ("scopes: {policies: {r: read, w: write}}", {"scope": ["r", "w"]}, 200, 200, ""),
        ("scopes: {claim: scp, policies: {w: write}}, policy_claim: plan", {"scp": "w", "plan": "read"}, 200, 200, ""),
        ("scopes: {policies: {w: write}}, default_policies: read", {"scope": "w"}, 403, 200, ""),
        ("scopes: {policies: {w: write}}, default_policies: read", {"scope": "other"}, 200, 403, ""),
        ("scopes: {policies: {w: write}}", {"scope": "a b"}, 403, 403, "has 'a b', known scopes: w"),
        ("scopes: {policies: {w: write}}", {}, 403, 403, "no policy in `scope`"),
        ("identity: mail, default_policies: read", {"mail": "a@b"}, 200, 403, ""),
        ("identity: mail, default_policies: read", {}, 200, 403, ""),
    ],
)
async def test_policies_come_from_claims(
    options: str, claims: dict[str, Any], get: int, post: int, reason: str
) -> None:
    async with api(f"{HS}, {options}") as gateway:
        text = token(**claims)
        for _ in range(2):
            got, posted = await ask(gateway, text), await ask(gateway, text, method="POST")
            assert (got.status, posted.status) == (get, post), got.text
        if reason:
            assert reason in (await gateway.why(got))["reason"]


async def test_a_changed_policy_holds_at_once() -> None:
    async with api(f"{HS}, policy_claim: plan") as gateway:
        text = token(plan="read")
        assert (await ask(gateway, text)).status == 200
        assert (await gateway.reload({"policies.d/read.yaml": "{access: {api: {}}, inactive: true}"})).ok
        assert (await ask(gateway, text)).code == "key_inactive"
        gateway.remove("policies.d/read.yaml")
        assert (await gateway.reload()).ok
        assert (await ask(gateway, text)).code == "token_policy"


async def test_a_client_claim_gives_the_policy_of_a_key() -> None:
    async with api(f"{HS}, client_claim: azp") as gateway:
        await gateway.create_key(name="client-1", apply_policies=["read", "write"])
        await gateway.create_user("user-1", "secret", "api")
        text = token(azp="client-1")
        assert (await ask(gateway, text)).status == 200
        assert (await ask(gateway, text, method="POST")).status == 403, "the first policy counts"
        for azp, reason in (("nobody", "names no key"), ("user-1", "a session of kind basic"), (None, "`azp`")):
            reply = await ask(gateway, token(azp=azp))
            await refused(gateway, reply, 403, "token_policy", "key not authorized: no matching policy", reason)
        await gateway.revoke("client-1")
        assert (await ask(gateway, text)).code == "token_policy"


async def test_each_key_may_sign_by_its_own_secret() -> None:
    """Tyk's one-to-one mode: the token names a key, and is signed by what that key holds."""
    async with api("algorithms: [HS256, RS256], from_session: true") as gateway:
        own = {"apply_policies": ["gold"], "jwt_data": {"secret": SECRET}}
        await gateway.create_key(name="partner-1", **own)
        await gateway.create_key(name="partner-2", apply_policies=["gold"], jwt_data={"secret": pem("RS256")})
        await gateway.create_key(name="partner-3", apply_policies=["gold"], jwt_data={"secret": "short"})
        await gateway.create_key("api", name="plain-key")
        await gateway.create_user("ann", "secret", "api")
        by_kid = token(header={"kid": "partner-1"})
        assert (await ask(gateway, by_kid)).status == 200
        assert (await ask(gateway, token(sub="partner-1"))).status == 200
        assert (await ask(gateway, token("RS256", sub="partner-2"))).status == 200
        assert (await ask(gateway, token("RS256", header={"kid": "partner-2"}))).headers["X-RateLimit-Remaining"] == "1"
        invalid = (403, "token_invalid", "Key not authorized")
        for text, reason in (
            (token(header={"kid": "partner-2"}), "another kind: RSA"),
            (token(header={"kid": "partner-3"}), "jwt_data.secret cannot be used: the secret has 5 bytes"),
            (token(header={"kid": "plain-key"}), "of kind key"),
            (token(header={"kid": "ann"}), "of kind basic"),
            (token(header={"kid": "../../partner-1"}), "no record of that name"),
            (token(header={"kid": "partner-1\0"}), "no record of that name"),
            (sign({"sub": "x", "exp": NOW + 9}, "HS256", key_for("HS256", 1), kid="partner-1"), "signature"),
        ):
            await refused(gateway, await ask(gateway, text), *invalid, reason)
        nobody = await ask(gateway, token(sub=None))
        await refused(gateway, nobody, 404, "token_identity", "no suitable claims for user ID were found", "`sub`")
        assert (await gateway.get("/api/", key="partner-1")).status == 403, "the name of such a key is no token"
        for change in ({"is_inactive": True}, {"jwt_data": {"secret": SECRET + "!"}}):
            assert (await gateway.tyk("PUT", "/tyk/keys/partner-1", own | change)).status == 200
            assert (await ask(gateway, by_kid)).code in ("key_inactive", "token_invalid")
        await gateway.tyk("PUT", "/tyk/keys/partner-1", own)
        assert (await ask(gateway, by_kid)).status == 200
        await gateway.revoke("partner-1")
        await refused(gateway, await ask(gateway, by_kid), *invalid, "no record of that name")


async def test_the_kid_may_be_left_out_of_account() -> None:
    async with api("algorithms: HS256, from_session: true, kid_is_key: false, identity: client") as gateway:
        await gateway.create_key(name="partner-1", apply_policies=["gold"], jwt_data={"secret": SECRET})
        assert (await ask(gateway, token(header={"kid": "2024"}, client="partner-1"))).status == 200
        assert (await ask(gateway, token(header={"kid": "partner-1"}))).code == "token_invalid"


async def test_the_subject_of_a_token_is_not_a_user_and_not_a_key() -> None:
    """Row 53a."""
    auth = f"[basic, jwt: {{{SIMPLE}}}, key]"
    async with api("", auth) as gateway:
        await gateway.create_user("anna", "secret", "api", quota_max=1, quota_renewal_rate=3600)
        assert (await gateway.get("/api/", user=("anna", "secret"))).status == 200
        assert (await gateway.get("/api/", user=("anna", "secret"))).code == "quota_exceeded"
        assert (await ask(gateway, token())).status == 200, "the user's limits are the user's"
        for name in ("anna", "jwt\\0\\0anna"):
            assert (await gateway.get("/api/", key=name)).code == "key_unknown"


async def test_beside_other_methods_it_takes_what_has_three_parts() -> None:
    for auth in (f"[key, jwt: {{{SIMPLE}}}, basic]", f"[jwt: {{{SIMPLE}}}, basic, key]"):
        async with api("", auth) as gateway:
            key = await gateway.create_key("api")
            await gateway.create_key("api", name="with.two.dots")
            await gateway.create_user("ben", "secret", "api")
            assert (await ask(gateway, token())).status == 200
            assert (await ask(gateway, key)).status == 200
            assert (await gateway.get("/api/", key=key)).status == 200
            assert (await gateway.get("/api/", user=("ben", "secret"))).status == 200
            assert (await gateway.get("/api/", key="with.two.dots")).status == 200
            assert (await ask(gateway, "with.two.dots")).code in ("token_invalid", "token_algorithm")
            missing = await gateway.get("/api/")
            challenges = {'Basic realm="api", charset="UTF-8"', 'Bearer realm="api"'}
            assert set(missing.headers.getall("WWW-Authenticate")) == challenges


async def test_all_of_wants_every_one() -> None:
    auth = f"{{all: [{{key: {{header: X-Key}}}}, {{jwt: {{{SIMPLE}}}}}], session_from: jwt}}"
    async with api("", auth) as gateway:
        key = await gateway.create_key("api")
        both = {"X-Key": key, "Authorization": f"Bearer {token()}"}
        reply = await gateway.get("/api/", headers=both)
        assert (reply.status, reply.headers["X-RateLimit-Limit"]) == (200, "3")
        assert (await gateway.get("/api/", headers={"X-Key": key})).status == 400
        assert (await ask(gateway, token())).status == 401


async def test_a_token_in_a_query_or_a_cookie() -> None:
    async with api(f"{SIMPLE}, header: X-Token, query: jwt, cookie: jwt") as gateway:
        text, other = token(), token(sub="ben")
        assert (await gateway.get(f"/api/?jwt={text}")).status == 200
        assert (await gateway.get("/api/", headers={"Cookie": f"a=b; jwt={text}"})).status == 200
        assert (await gateway.get(f"/api/?jwt={text}", headers={"X-Token": text})).status == 200
        for path, headers in (
            (f"/api/?jwt={other}", {"X-Token": text}),
            (f"/api/?jwt={text}", {"Cookie": f"jwt={other}"}),
        ):
            assert (await gateway.get(path, headers=headers)).code == "auth_ambiguous"
        assert (await ask(gateway, text)).code == "auth_missing"


async def test_published_keys_are_fetched_and_followed() -> None:
    """Row 49."""
    async with running_issuer(public_jwk("RS256", kid="one")) as issuer:
        options = f"algorithms: RS256, jwks: '{issuer.jwks}', default_policies: gold"
        async with api(options) as gateway:
            clock = gateway.gateway.clock
            assert isinstance(clock, FakeClock)
            one = token("RS256", header={"kid": "one"})
            two = sign({"sub": "ben", "exp": NOW + 99}, "RS256", key_for("RS256", 1), kid="two")
            assert (await ask(gateway, one)).status == 200
            assert (await ask(gateway, one, "/other/")).status == 200
            assert (await ask(gateway, two)).code == "token_invalid"
            assert issuer.asked == 1, "both APIs share the set"
            clock.advance(30)
            issuer.keys = [public_jwk("RS256", 1, kid="two")]
            assert (await ask(gateway, two)).status == 200
            assert issuer.asked == 2
            assert (await ask(gateway, one)).code == "token_invalid", "the key is gone, and with it what it had signed"
            assert (
                await gateway.reload({"apis.d/api.yaml": (gateway.folder / "apis.d/api.yaml").read_text() + "\n"})
            ).ok
            assert (await ask(gateway, two)).status == 200
            assert issuer.asked == 2, "a reload does not fetch again"


async def test_a_slow_issuer_holds_up_only_who_waits_for_its_keys() -> None:
    """Row 49."""
    async with (
        running_issuer(public_jwk("RS256", kid="one")) as issuer,
        api(f"algorithms: RS256, jwks: '{issuer.jwks}', default_policies: read") as gateway,
    ):
        clock = gateway.gateway.clock
        assert isinstance(clock, FakeClock)
        assert (await ask(gateway, token("RS256", header={"kid": "one"}))).status == 200
        clock.advance(30)
        issuer.delay = 2.0
        waiting = asyncio.create_task(ask(gateway, token("RS256", header={"kid": "other"})))
        while issuer.asked < 2:
            await asyncio.sleep(0.01)
        for number in range(5):
            fresh = token("RS256", header={"kid": "one"}, sub=f"user-{number}")
            assert (await ask(gateway, fresh)).status == 200
        assert not waiting.done()
        waiting.cancel()


async def test_a_refused_definition_leaves_no_key_set_behind() -> None:
    options = "algorithms: RS256, jwks: 'http://127.0.0.1:9/jwks', default_policies: gold"
    async with api(SIMPLE) as gateway:
        auth = f"[{{jwt: {{{options}}}}}, {{hmac: {{certificates: {{a: x}}}}}}]"
        bad = f"listen: /api/\nauth: {auth}\nplugins: [mock: hi]\n"
        assert [one.code for one in (await gateway.reload({"apis.d/api.yaml": bad})).diagnostics] == ["build_failed"]
        assert gateway.gateway.services.tokens._published == {}


async def test_while_the_issuer_cannot_be_asked_nobody_gets_in() -> None:
    """Row 49."""
    options = "algorithms: RS256, jwks: 'http://127.0.0.1:9/jwks', default_policies: gold"
    async with api(options) as gateway:
        reply = await ask(gateway, token("RS256", header={"kid": "one"}))
        assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "issuer_unavailable", "1")
        assert "127.0.0.1:9" in (await gateway.why(reply))["reason"]


async def test_a_plugin_finds_the_claims() -> None:
    plugin = """
        from aiogate import Middleware, MiddlewareKind, Model, Response, Stage, hookimpl

        class Config(Model):
            pass

        @hookimpl
        def aiogate_middleware():
            return MiddlewareKind("tell", Stage.CACHE, Config, build, answers=True)

        def build(config, context):
            return Middleware(on_request=lambda exchange: Response(200, exchange.state["jwt"]["name"].encode()))
    """
    files = {"plugins/tell.py": textwrap.dedent(plugin)}
    async with api(SIMPLE, **files) as gateway:
        gateway.write({"apis.d/api.yaml": f"listen: /api/\nauth: {{jwt: {{{SIMPLE}}}}}\nplugins: [tell]\n"})
        assert (await gateway.reload()).ok
        text = token(name="Anna")
        assert [(await ask(gateway, text)).body for _ in range(2)] == [b"Anna", b"Anna"]


@pytest.mark.parametrize(
    "options, reason",
    [
        ({}, "algorithms"),
        ({"algorithms": []}, "at least 1"),
        ({"algorithms": "none"}, "HS256"),
        ({"algorithms": "HS256"}, "one of `key`, `jwks` and `from_session: true`"),
        ({"algorithms": "HS256", "key": SECRET, "from_session": True}, "one of `key`"),
        ({"algorithms": "HS256", "key": SECRET}, "nothing says what a token opens"),
        ({"algorithms": "HS256", "from_session": True, "default_policies": "gold"}, "not of policies named here"),
        ({"algorithms": ["RS256", "HS256"], "jwks": "http://a/"}, "known to everybody"),
        ({"algorithms": "HS256", "key": SECRET, "default_policies": "gold", "header": None}, "needs a place"),
        ({"algorithms": "HS256", "key": SECRET, "default_policies": "gold", "skew": "301s"}, "300"),
        ({"algorithms": "RS256", "jwks": "http://a/", "jwks_cache": "5s"}, "30"),
        ({"algorithms": "HS256", "key": SECRET, "scopes": {"policies": {}}}, "at least 1"),
    ],
)
def test_configurations_that_make_no_sense(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        jwt.Config.model_validate(options)
    assert reason in str(caught.value)
    assert SECRET not in repr(caught.value.errors(include_input=False))


@pytest.mark.parametrize(
    "options, reason",
    [
        ("algorithms: HS256, key: short, default_policies: gold", "the secret has 5 bytes, at least 32 are needed"),
        (f"algorithms: RS256, key: '{SECRET}', default_policies: gold", "verifies none of RS256"),
        ("algorithms: RS256, jwks: 'ftp://a/', default_policies: gold", "not an http:// or https:// address"),
        ("algorithms: RS256, jwks: 'http://169.254.169.254/', default_policies: gold", "link-local"),
    ],
)
async def test_keys_that_cannot_be_used_are_no_reload(options: str, reason: str) -> None:
    async with api(SIMPLE) as gateway:
        verdict = await gateway.reload(
            {"apis.d/api.yaml": f"listen: /api/\nauth: {{jwt: {{{options}}}}}\nplugins: [mock: hi]\n"}
        )
        assert [one.code for one in verdict.diagnostics] == ["build_failed"]
        assert reason in verdict.diagnostics[0].message
        assert verdict.diagnostics[0].line == 2
        assert (await ask(gateway, token())).status == 200


def test_a_gateway_without_tokens_loads_nothing_for_them() -> None:
    program = (
        "import asyncio, sys, aiogate.runtime.worker, aiogate.control.application\n"
        "from aiogate.config.settings import load_settings\n"
        "from aiogate.runtime.assembly import check\n"
        "asyncio.run(check(load_settings(None, {}, {})))\n"
        "print(sorted({'joserfc', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
