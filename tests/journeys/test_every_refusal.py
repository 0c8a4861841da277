"""Every refusal of every method of authentication: what goes in, what the client is told, and what `why` tells.

The client gets the public text and nothing else. The operator gets the exact reason: which header, which claim, by how
much.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from aiogate.errors import PROBLEMS
from aiogate.testing import FakeClock, GatewayFixture, Reply, running_gateway
from tests.credentials.issuer import SECRET, Issuer, key_for, public_jwk, running_issuer, sign

NOW = 2_900_000_000
"""Certificates end before it that are valid by the real clock, at which OpenSSL looks."""
OWN_SECRET = "the own secret of a partner, longer than 32 bytes"
LISTEN = """
    listen:
      - 127.0.0.1:0
      - address: 127.0.0.1:0
        tls: {certificate: server.pem, key: server.pem, client_ca: ca.pem, client_certificates: optional}
    """
HS = f"algorithms: HS256, key: '{SECRET}'"
AUTH = {
    "key": "[key: {query: k, cookie: c}]",
    "basic": "basic",
    "body": "[basic: {body: {user: '<u>(.*)</u>', password: '<p>(x)?'}}]",
    "jwt": f"[jwt: {{{HS}, issuer: me, audience: [web], require: [exp, jti], skew: 5s, policy_claim: plan}}]",
    "scoped": f"[jwt: {{{HS}, scopes: {{policies: {{read: gold}}}}}}]",
    "client": f"[jwt: {{{HS}, client_claim: azp}}]",
    "own": "[jwt: {algorithms: HS256, from_session: true}]",
    "published": "[jwt: {algorithms: RS256, jwks: 'ISSUER/jwks.json', default_policies: gold}]",
    "away": "[jwt: {algorithms: RS256, jwks: 'http://127.0.0.1:1/jwks.json', default_policies: gold}]",
    "hmac": "[hmac: {skew: 60s, body_digest: required}]",
    "oidc": "[oidc: {providers: [{issuer: ISSUER, clients: {web: gold, app: lost}}]}]",
    "asked": "[introspection: {url: 'ISSUER/introspect', client_id: gateway, client_secret: 'secret:-one',"
    " issuer: me, client_claim: client_id}]",
    "unasked": "[introspection: {url: 'http://127.0.0.1:1/', client_id: a, client_secret: b, default_policies: gold}]",
    "mtls": "[mtls: {allow: [LISTED]}]",
    "held": "[mtls: {session: true}]",
    "oauth": "[oauth: {grants: [client_credentials]}]",
    "any": "[key: {header: X-Key}, basic]",
    "all": "{all: [basic, key: {header: X-Key}], session_from: key}",
    "rights": "key",
}


@dataclass(frozen=True)
class Site:
    gateway: GatewayFixture
    issuer: Issuer
    fingerprints: Mapping[str, str]
    contexts: Mapping[str, ssl.SSLContext]

    async def ask(self, path: str, sent: Mapping[str, Any]) -> Reply:
        options = dict(sent)
        certificate = options.pop("certificate", None)
        if certificate is None:
            return await self.gateway.request(options.pop("method", "GET"), path, **options)
        port = self.gateway.gateway.listen_addresses[1].rpartition(":")[2]
        url = f"https://localhost:{port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, ssl=self.contexts[certificate], **options) as response,
        ):
            return Reply(response.status, response.headers, await response.read())

    def filled(self, reason: str) -> str:
        for name, value in {"ISSUER": self.issuer.url, **self.fingerprints}.items():
            reason = reason.replace(f"<{name}>", value)
        return reason


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Site]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    contexts, fingerprints = {}, {}
    clock = FakeClock(NOW - 100)
    now = datetime.fromtimestamp(NOW, UTC)
    for name, ends in {"": 0, "LISTED": 1, "OTHER": 1, "ENDED": -1}.items():
        contexts[name] = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        if name:
            made = authority.issue_cert(
                f"{name.lower()}@example.com",
                common_name=name.lower(),
                not_before=datetime(2020, 1, 1, tzinfo=UTC),
                not_after=now + timedelta(days=ends),
            )
            made.configure_cert(contexts[name])
            fingerprints[name] = hashlib.sha256(
                ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())
            ).hexdigest()
    async with running_issuer(public_jwk("RS256", kid="one")) as issuer:
        issuer.known = {
            "no-policy": {"active": True, "sub": "anna", "iss": "me", "client_id": "policies"},
            "no-client": {"active": True, "sub": "anna", "iss": "me", "client_id": "nobody"},
            "no-name": {"active": True, "iss": "me"},
            "yes": {"active": "yes"},
            "early": {"active": True, "sub": "anna", "iss": "me", "nbf": NOW + 7},
            "foreign": {"active": True, "sub": "anna", "iss": "them"},
        }
        files = {
            f"apis.d/{name}.yaml": f"listen: /{name}/\nauth: {auth}\nplugins: [mock: hi]\n".replace(
                "ISSUER", issuer.url
            ).replace("LISTED", fingerprints["LISTED"])
            for name, auth in AUTH.items()
        }
        files["apis.d/rights.yaml"] += "versions: {by: header, name: X-Version, list: {v1: {}, v2: {}}, default: v1}\n"
        files["policies.d/gold.yaml"] = "{access: {jwt: {}, scoped: {}}}"
        files["policies.d/fleeting.yaml"] = "{access: {key: {}}}"
        async with running_gateway(
            files | {"aiogate.yaml": LISTEN}, folder=folder, listen=None, clock=clock,
            failures__user="off", failures__address="off",
        ) as gateway:  # fmt: skip
            await gateway.create_user("anna", "secret", "basic", "all")
            await gateway.create_key("key", name="a-key")
            await gateway.create_key("key", name="idle", is_inactive=True)
            await gateway.create_key("key", name="late", expires=NOW - 90)
            granted = {"api_id": "rights", "versions": ["v1"], "allowed_urls": [{"url": "/a", "methods": ["POST"]}]}
            await gateway.create_key(name="paths", access_rights={"rights": granted})
            await gateway.create_key("own", name="partner", jwt_data={"secret": OWN_SECRET})
            await gateway.create_key("own", name="weak", jwt_data={"secret": "short"})
            await gateway.create_key("hmac", name="signer", hmac_enabled=True, hmac_string=SECRET)
            await gateway.create_key("hmac", name="bare", hmac_enabled=True, rsa_certificate_id="lost")
            await gateway.create_key("jwt", name="policies")
            # Their policies were there when the keys were made, and are not any more.
            lost = {"apply_policies": ["fleeting"]}
            await gateway.create_key(name="lost-user", basic_auth_data={"password": "x"}, **lost)
            await gateway.create_key(name="lost-key", **lost)
            await gateway.create_key(name="lost-signer", hmac_enabled=True, hmac_string=SECRET, **lost)
            await gateway.create_key(name="lost-partner", jwt_data={"secret": OWN_SECRET}, **lost)
            gateway.remove("policies.d/fleeting.yaml")
            assert (await gateway.reload()).ok
            clock.advance(100)
            yield Site(gateway, issuer, fingerprints, contexts)


def bearer(text: str, scheme: str = "Bearer ") -> dict[str, Any]:
    return {"headers": {"Authorization": scheme + text}}


def basic(pair: bytes) -> dict[str, Any]:
    return bearer(base64.b64encode(pair).decode(), "Basic ")


def told(code: str, message: str | None = None, status: int | None = None) -> tuple[int, str, str]:
    problem = PROBLEMS[code]
    return status or problem.status, code, message or problem.message


def token(
    *, signer: Any = None, algorithm: str = "HS256", header: Mapping[str, Any] | None = None, **said: Any
) -> dict[str, Any]:
    claims = {"iss": "me", "aud": "web", "sub": "anna", "exp": NOW + 60, "jti": "1", "plan": "gold"} | said
    claims = {name: value for name, value in claims.items() if value is not None}
    return bearer(sign(claims, algorithm, signer, **(header or {})))


def id_token(**said: Any) -> Callable[[Site], dict[str, Any]]:
    return lambda site: token(
        algorithm="RS256",
        header={"kid": "one"},
        **{"iss": site.issuer.url, "iat": NOW, "jti": None, "plan": None} | said,
    )


def signed(
    covered: str = "(request-target) date", at: float = 0, name: str = "signer", secret: str = SECRET,
    algorithm: str = "hmac-sha256", sent: Mapping[str, str] | None = None, body: bytes = b"",
) -> dict[str, Any]:  # fmt: skip
    headers = {"Date": formatdate(NOW + at, usegmt=True)} if sent is None else dict(sent)
    method = "POST" if body else "GET"
    values = {"(request-target)": f"{method.lower()} /hmac/", **{key.lower(): value for key, value in headers.items()}}
    text = "\n".join(f"{part}: {values.get(part, '')}" for part in covered.split()).encode()
    made = base64.b64encode(hmac.digest(secret.encode(), text, "sha256")).decode()
    parameters = f'keyId="{name}",algorithm="{algorithm}",headers="{covered}",signature="{made}"'
    return {"method": method, "data": body or None, "headers": {**headers, "Authorization": f"Signature {parameters}"}}


def digested(digest: str) -> dict[str, Any]:
    sent = {"Date": formatdate(NOW, usegmt=True), "Digest": digest}
    return signed("(request-target) date digest", sent=sent, body=b"hello")


def fitting() -> dict[str, Any]:
    return signed()


NO_KEY = "no credential was found by key (header Authorization, parameter `k`, cookie `c`)"
ROWS: dict[str, list[tuple[Any, tuple[int, str, str], str]]] = {
    "key": [
        ({}, told("auth_missing"), NO_KEY),
        (
            {"headers": {"Authorization": " "}},
            told("auth_missing"),
            f"{NO_KEY}; Authorization was there, empty",
        ),
        (
            {"headers": {"Authorization": "one", "Cookie": "c=two"}},
            told("auth_ambiguous"),
            "the header Authorization and the cookie `c` carry 2 differing values",
        ),
        ({"key": "no"}, told("key_unknown"), "what was presented has 2 characters, a key 3 to 4096"),
        ({"key": "lost-key"}, told("key_unknown"), "policy not found: fleeting"),
        ({"key": "nobody"}, told("key_unknown"), "there is no record of that name in organisation 'default'"),
        ({"headers": {"Cookie": "c=anna"}}, told("key_unknown"),
         "the name belongs to a session of kind basic (anna), which is not accepted as a key"),
        ({"key": "idle"}, told("key_inactive"), "the session has is_inactive set"),
        ({"key": "late"}, told("key_expired"), "the session expired 90 s ago, at 2061-11-23T19:31:50Z"),
    ],
    "rights": [
        ({"key": "a-key"}, told("access_denied"), "API rights is not granted; the session grants key"),
        ({"key": "paths"}, told("path_denied"), "none of the 1 allowed paths matches GET /"),
        (
            {"key": "paths", "headers": {"X-Version": "v2"}},
            told("access_denied"),
            "version v2 of API rights is not granted; the session grants v1",
        ),
    ],
    "basic": [
        ({}, told("auth_missing"), "no credential was found by basic (header Authorization)"),
        (
            bearer("x"),
            told("auth_missing"),
            "no credential was found by basic (header Authorization); Authorization was there, of the scheme 'Bearer'",
        ),
        ({"key": "word"}, told("auth_malformed"), "the Authorization header is one word"),
        (
            bearer("a b", "Basic "),
            told("auth_malformed"),
            "the Authorization header is not the word Basic and one value",
        ),
        (
            bearer("%%%", "Basic "),
            told("auth_malformed", "Attempted access with malformed header, auth data not encoded correctly"),
            "the value is not base64",
        ),
        (
            basic(b"anna"),
            told("auth_malformed", "Attempted access with malformed header, values not in basic auth format"),
            "there is no colon between user and password",
        ),
        (basic(b"\xff:x"), told("auth_failed"), "user name or password is not UTF-8"),
        (
            basic(b"nobody:secret"),
            told("auth_failed"),
            "there is no record of that name in organisation 'default'",
        ),
        (
            basic(b"a-key:secret"),
            told("auth_failed"),
            "the name belongs to a session of kind key, not to a basic-auth user",
        ),
        (basic(b"lost-user:x"), told("auth_failed"), "policy not found: fleeting"),
        (basic(b"anna:wrong"), told("auth_failed"), "the password of user anna is wrong"),
        (
            basic(b"anna:secret "),
            told("auth_failed"),
            "the password of user anna ends in white space; it would be right without",
        ),
        (
            basic(b"anna:" + b"x" * 73),
            told("auth_failed"),
            "no user has what was presented as the password of anna: the password has 73 bytes, bcrypt …",
        ),
    ],
    "body": [
        (
            {"method": "POST", "data": "hello"},
            told("auth_malformed", "Body do not contain username"),
            "the pattern `body.user` matches nothing in a body of 5 characters",
        ),
        (
            {"method": "POST", "data": "<u>anna</u>"},
            told("auth_malformed", "Body do not contain password"),
            "the pattern `body.password` matches nothing in a body of 11 characters",
        ),
        (
            {"method": "POST", "data": "<u>anna</u><p>"},
            told("auth_malformed", "password should be inside regexp match group"),
            "the pattern `body.password` matches, and its group takes no part in that",
        ),
        (
            {"method": "POST", "data": b"<u>\xff</u><p>x"},
            told("auth_malformed", "Body do not contain username"),
            "user name or password is not UTF-8",
        ),
    ],
    "jwt": [
        ({}, told("auth_missing", status=400), "no credential was found by jwt (header Authorization)"),
        (bearer("x"), told("token_invalid"), "the token has 1 parts, a signed one has 3"),
        (bearer("a.e30.c2ln"), told("token_invalid"), "the header of the token is not base64url without padding"),
        (
            token(header={"crit": ["b64"]}),
            told("token_invalid"),
            "the header of the token asks for extensions that are not understood: ['b64']",
        ),
        (
            token(header={"kid": 5}),
            told("token_invalid"),
            "the header `kid` is not a text of at most 1024 characters",
        ),
        (token(header={"alg": "none"}), told("token_algorithm"), "the header `alg` is 'none', allowed here: HS256"),
        (
            token(signer=key_for("HS256", 1)),
            told("token_invalid"),
            "the signature is not that of the oct key (without kid) by HS256",
        ),
        (
            bearer(sign(b"[]")),
            told("token_rejected", "Key not authorized: token is malformed"),
            "the payload of the token is not a JSON object",
        ),
        (
            token(jti=None),
            told("token_rejected", "Key not authorized: the claim jti is missing"),
            "the token has no claim `jti`, which is required",
        ),
        (
            token(exp="soon"),
            told("token_rejected", "Key not authorized: the claim exp is not a number"),
            "the claim `exp` is 'soon', not a number",
        ),
        (token(exp=NOW - 9), told("token_expired"), "the claim `exp` passed 9 s ago, the skew is 5 s"),
        (
            token(nbf=NOW + 30),
            told("token_rejected", "Key not authorized: token is not valid yet"),
            "the claim `nbf` is 30 s ahead, the skew is 5 s",
        ),
        (
            token(iat=NOW + 30),
            told("token_rejected", "Key not authorized: token used before issued"),
            "the claim `iat` is 30 s ahead, the skew is 5 s",
        ),
        (
            token(iss="them"),
            told("token_rejected", "Key not authorized: invalid issuer claim"),
            "the claim `iss` is 'them', accepted: me",
        ),
        (
            token(aud=None),
            told("token_rejected", "Key not authorized: invalid audience claim"),
            "the claim `aud` is missing, accepted: web",
        ),
        (token(sub=None), told("token_identity"), "the token has no claim `sub` that is text"),
        (
            token(sub=""),
            told("token_identity", "found an empty user ID in sub claim"),
            "the claim `sub` is an empty text",
        ),
        (
            token(plan=5),
            told("token_policy"),
            "the claim `plan` is neither text nor a list of it",
        ),
        (
            token(plan=None),
            told("token_policy"),
            "the token names no policy in `plan`, and there is no default policy",
        ),
        (token(plan="lost"), told("token_policy"), "policy not found: lost"),
    ],
    "scoped": [
        (
            token(scope="write admin"),
            told("token_policy", "key not authorized: no matching policy found in scope claim"),
            "the claim `scope` has 'write admin', known scopes: read",
        ),
    ],
    "client": [
        (
            token(azp="nobody"),
            told("token_policy"),
            "the claim `azp` names no key: there is no record of that name in organisation 'default'",
        ),
        (
            token(azp="lost-key"),
            told("token_policy"),
            "the key that the claim `azp` names cannot be used: policy not found: fleeting",
        ),
        (token(azp="anna"), told("token_policy"), "the claim `azp` names a session of kind basic, not a key"),
        (token(azp="idle"), told("token_policy"), "the key that the claim `azp` names is inactive"),
        (token(azp="a-key"), told("token_policy"), "the key that the claim `azp` names has no policy"),
    ],
    "own": [
        (
            token(header={"kid": "nobody"}),
            told("token_invalid"),
            "the header `kid` names no key: there is no record of that name in organisation 'default'",
        ),
        (
            token(sub="a-key"),
            told("token_invalid"),
            "the identity in the token names a session of kind key (), which signs no tokens",
        ),
        (
            token(header={"kid": "lost-partner"}),
            told("token_invalid"),
            "the key that the header `kid` names cannot be used: policy not found: fleeting",
        ),
        (
            token(header={"kid": "weak"}),
            told("token_invalid"),
            "the key's own jwt_data.secret cannot be used: the secret has 5 bytes, at least 32 are needed",
        ),
        (token(sub=None), told("token_identity", status=404), "the token has no claim `sub` that is text"),
        (
            token(header={"kid": "partner"}),
            told("token_invalid"),
            "the signature is not that of the oct key (without kid) by HS256",
        ),
    ],
    "published": [
        (
            token(algorithm="RS256", header={"kid": "two"}),
            told("token_invalid"),
            "no key has the kid 'two', in the keys of <ISSUER>/jwks.json",
        ),
        (
            token(algorithm="RS256", signer=key_for("RS256", 1), header={"kid": "one"}),
            told("token_invalid"),
            "the signature is not that of the RSA key (kid 'one') by RS256",
        ),
    ],
    "away": [
        (
            token(algorithm="RS256"),
            told("issuer_unavailable"),
            "the keys of http://127.0.0.1:1/jwks.json are not known: …",
        ),
    ],
    "hmac": [
        (
            {},
            told("auth_missing", PROBLEMS["signature_invalid"].message, 400),
            "no credential was found by hmac (header Authorization)",
        ),
        (bearer("x", "Signature "), told("signature_invalid"), 'the signature is not a list of name="value"'),
        (
            bearer('keyId="a",algorithm="hmac-sha256"', "Signature "),
            told("signature_invalid"),
            "the signature has no parameter 'signature'",
        ),
        (
            bearer('keyId="a",keyId="b"', "Signature "),
            told("signature_invalid"),
            "the signature has the parameter 'keyId' twice",
        ),
        (
            bearer('opaque="a"', "Signature "),
            told("signature_invalid"),
            "the signature has an unknown parameter 'opaque'",
        ),
        (
            bearer('keyId="a",algorithm="hmac-sha256",signature="%"', "Signature "),
            told("signature_invalid"),
            "the signature is not base64",
        ),
        (
            signed("date date"),
            told("signature_invalid"),
            "the parameter headers names a header twice, or more than 64",
        ),
        (
            signed(algorithm="hmac-md5"),
            told("signature_invalid"),
            "the algorithm is 'hmac-md5', allowed here: hmac-sha256, hmac-sha384, hmac-sha512, rsa-sha256",
        ),
        (
            signed("date"),
            told("signature_invalid"),
            "the signature does not cover (request-target), which this API requires",
        ),
        (
            signed(body=b"hello"),
            told("signature_invalid"),
            "the signature does not cover digest, which this API requires",
        ),
        (signed(sent={}), told("signature_invalid"), "the header date is missing"),
        (signed(sent={"Date": "today"}), told("signature_invalid"), "the header date is no date: 'today'"),
        (
            signed(at=-61),
            told("signature_invalid"),
            "the header date is 61 s behind the gateway's clock, the skew is 60 s",
        ),
        (
            signed(at=75),
            told("signature_invalid"),
            "the header date is 75 s ahead of the gateway's clock, the skew is 60 s",
        ),
        (
            signed("(request-target) date x-more"),
            told("signature_invalid"),
            "the signature covers the header x-more, which the request does not have",
        ),
        (
            signed(name="nobody"),
            told("signature_invalid"),
            "the keyId names no key: there is no record of that name in organisation 'default'",
        ),
        (
            signed(name="lost-signer"),
            told("signature_invalid"),
            "the key of the keyId cannot be used: policy not found: fleeting",
        ),
        (
            signed(name="anna"),
            told("signature_invalid"),
            "the keyId names a session of kind basic (anna), which signs no requests",
        ),
        (signed(name="bare"), told("signature_invalid"), "the key has no hmac_string, so it can sign by RSA only"),
        (
            signed(name="bare", algorithm="rsa-sha256"),
            told("signature_invalid"),
            "the key's rsa_certificate_id is lost; no RSA certificate of that id is among …",
        ),
        (
            signed(secret="another"),
            told("signature_invalid"),
            "the hmac-sha256 signature is not that of the key's hmac_string over: (request-target) date",
        ),
        (
            digested("SHA-256=aGVsbG8="),
            told("signature_invalid"),
            "the header Digest has another SHA-256 than the body of 5 bytes",
        ),
        (digested("MD5=aGVsbG8="), told("signature_invalid"), "the header Digest has neither SHA-256 nor SHA-512"),
        (digested("hello"), told("signature_invalid"), "the header Digest is not a list of ALGORITHM=base64"),
    ],
    "oidc": [
        (
            {},
            told("auth_missing", "Key not authorised"),
            "no credential was found by oidc (header Authorization)",
        ),
        (bearer("x"), told("token_invalid", "Key not authorised", 401), "the token has 1 parts, a signed one has 3"),
        (
            id_token(iss="http://them"),
            told("token_invalid", "Key not authorised", 401),
            "the token is of the issuer 'http://them', accepted: <ISSUER>",
        ),
        (
            id_token(iss=None),
            told("token_invalid", "Key not authorised", 401),
            "the token has no claim `iss` that is text, accepted: <ISSUER>",
        ),
        (
            id_token(aud="else"),
            told("token_rejected", "Key not authorised"),
            "the claim `aud` is 'else', accepted: app, web",
        ),
        (
            id_token(aud=["web", "app"]),
            told("token_rejected", "Key not authorised"),
            "the claim `aud` names 2 of the clients, and there is no `azp`",
        ),
        (
            id_token(azp="else"),
            told("token_rejected", "Key not authorised"),
            "the claim `azp` is 'else', clients: web, app",
        ),
        (
            id_token(exp=NOW - 3),
            told("token_expired", "Key not authorised"),
            "the claim `exp` passed 3 s ago, the skew is 0 s",
        ),
        (
            id_token(sub=None),
            told("token_identity", "Key not authorised", 401),
            "the token has no claim `sub` that is text",
        ),
        (
            id_token(aud="app"),
            told("token_policy", "Key not authorized: no matching policy"),
            "client app: policy not found: lost",
        ),
    ],
    "asked": [
        ({}, told("auth_missing", status=400), "no credential was found by introspection (header Authorization)"),
        (
            bearer("unknown"),
            told("token_invalid", "access token is not valid", 401),
            "the introspection says that the token is not active",
        ),
        (
            bearer("yes"),
            told("token_invalid", "access token is not valid", 401),
            "the introspection says `active`: 'yes', which is not true",
        ),
        (
            bearer("early"),
            told("token_invalid", "access token is not valid", 401),
            "the claim `nbf` is 7 s ahead, the skew is 0 s",
        ),
        (
            bearer("foreign"),
            told("token_invalid", "access token is not valid", 401),
            "the claim `iss` is 'them', accepted: me",
        ),
        (
            bearer("x" * 7000),
            told("token_invalid", "access token is not valid", 401),
            "the introspection says that the token is not active",
        ),
        (
            bearer("no-name"),
            told("token_identity"),
            "the token has no claim `sub` and no `client_id` and no `username` that is text",
        ),
        (
            bearer("no-client"),
            told("token_policy"),
            "the claim `client_id` names no key: there is no record of that name in organisation 'default'",
        ),
        (
            bearer("no-policy"),
            told("token_policy"),
            "the key that the claim `client_id` names has no policy",
        ),
    ],
    "unasked": [
        (bearer("x"), told("issuer_unavailable"), "the introspection at http://127.0.0.1:1/ failed: …"),
    ],
    "mtls": [
        (
            {},
            told("tls_missing"),
            "the request came over plain HTTP, where no certificate can be shown",
        ),
        (
            {"certificate": ""},
            told("certificate_missing"),
            "the client came and showed no certificate; only a listener with `client_ca` asks for one",
        ),
        (
            {"certificate": "OTHER"},
            told("certificate_denied", "Certificate with SHA256 <OTHER> not allowed"),
            "certificate <OTHER> of …, valid from 2020-01-01T00:00:00Z until 2061-11-24T19:33:20Z: not in `allow`",
        ),
        (
            {"certificate": "ENDED"},
            told("certificate_expired"),
            "certificate <ENDED> of …, valid from 2020-01-01T00:00:00Z until 2061-11-22T19:33:20Z: expired 86400 s ago",
        ),
    ],
    "held": [
        (
            {},
            told("certificate_missing", "Client certificate required", 401),
            "the client came over plain HTTP; only a listener with `client_ca` asks for one",
        ),
        (
            {"certificate": "OTHER"},
            told("certificate_unknown"),
            "certificate <OTHER> of …: there is no record of that name in organisation 'default'",
        ),
    ],
    "oauth": [
        ({}, told("auth_missing", status=400), "no credential was found by oauth (header Authorization)"),
        (
            bearer("a b"),
            told("bearer_malformed"),
            "the header is not the word Bearer and one token",
        ),
        (bearer("nobody"), told("token_unknown"), "there is no record of that name in organisation 'default'"),
        (
            bearer("a-key"),
            told("token_unknown"),
            "the name belongs to a session of kind key, which is not an OAuth token",
        ),
    ],
    "any": [
        ({}, told("auth_missing"), "no credential was found by key (header X-Key), basic (header Authorization)"),
        (
            {"headers": {"X-Key": "nobody"}, "user": ("anna", "secret")},
            told("key_unknown"),
            "there is no record of that name in organisation 'default'",
        ),
    ],
    "all": [
        (
            {"headers": {"X-Key": "a-key"}},
            told("auth_missing"),
            "no credential was found by basic (header Authorization), and all methods are required",
        ),
        (
            {"user": ("anna", "secret")},
            told("auth_missing"),
            "no credential was found by key (header X-Key), and all methods are required",
        ),
        (
            {"user": ("anna", "wrong"), "headers": {"X-Key": "a-key"}},
            told("auth_failed"),
            "the password of user anna is wrong",
        ),
    ],
}  # fmt: skip


def agrees(reason: str, expected: str) -> bool:
    """`…` stands for what the machine or chance has a say in."""
    before, more, after = expected.partition("…")
    return reason == expected if not more else reason.startswith(before) and reason.endswith(after)


async def test_every_refusal_tells_the_client_one_thing_and_the_operator_the_exact_reason(tmp_path: Path) -> None:
    wrong: list[str] = []
    async with serving(tmp_path) as site:
        for api, rows in ROWS.items():
            for number, (sent, (status, code, message), reason) in enumerate(rows):
                reply = await site.ask(f"/{api}/", sent(site) if callable(sent) else sent)
                place = f"{api}[{number}]"
                body = json.loads(reply.body) if reply.status != 200 else reply.text
                expected = {"error": site.filled(message), "code": code, "request_id": reply.request_id}
                if (reply.status, body) != (status, expected):
                    wrong.append(f"{place}: {reply.status} {reply.text}, expected {status} {expected}")
                    continue
                said = (await site.gateway.why(reply))["reason"]
                if not agrees(said, site.filled(reason)):
                    wrong.append(f"{place}: the reason is {said!r}, expected {site.filled(reason)!r}")
                if said in f"{reply.headers}{reply.text}":
                    wrong.append(f"{place}: the client learns the reason")
    assert not wrong, "\n".join(wrong)


async def test_a_signature_that_was_used_before(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        assert (await site.ask("/hmac/", fitting())).status == 200
        reply = await site.ask("/hmac/", fitting())
        assert (reply.status, reply.code) == (400, "signature_invalid")
        assert (await site.gateway.why(reply))["reason"].startswith("the signature was used before, within the skew;")


async def test_who_failed_too_often_is_told_apart() -> None:
    files = {"apis.d/x.yaml": "{listen: /, auth: [key: {header: X-Key}, basic], plugins: [mock: hi]}"}
    async with running_gateway(files, failures__user="1/1m", failures__address="2/1m", clock=FakeClock(NOW)) as gateway:
        assert (await gateway.get("/", user=("anna", "x"))).status == 401
        user = await gateway.get("/", user=("anna", "x"))
        assert (user.code, (await gateway.why(user))["reason"]) == (
            "auth_throttled",
            "too many wrong passwords came from 127.0.0.1; user 'anna' waits 60 s",
        )
        assert (await gateway.get("/", headers={"X-Key": "nobody"})).status == 403
        key = await gateway.get("/", headers={"X-Key": "nobody-else"})
        assert (key.code, (await gateway.why(key))["reason"]) == (
            "auth_throttled",
            "too many unknown keys came from 127.0.0.1; it waits 60 s",
        )


def test_the_table_has_every_refusal_of_the_methods() -> None:
    elsewhere = {"auth_throttled", "auth_busy", "client_revoked", "oauth_refused", "session_missing"}
    of_methods = {
        code
        for code in PROBLEMS
        if code.startswith(("auth_", "key_", "token_", "certificate_", "tls_", "bearer_", "signature_", "issuer_"))
        or code in ("access_denied", "path_denied")
    }
    assert {row[1][1] for rows in ROWS.values() for row in rows} == of_methods - elsewhere
    assert set(ROWS) == set(AUTH)
