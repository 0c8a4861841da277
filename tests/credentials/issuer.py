"""An issuer of tokens for tests: keys, tokens, and a server that publishes its keys and can misbehave.

As a program it is a process of its own, as issuers are: it prints its address and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from aiohttp import web
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

SECRET = "a secret of at least thirty-two bytes, for tests"


def part(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def key_for(algorithm: str, number: int = 0) -> Any:
    """A private key; the same one whenever it is asked for again. RSA keys take long to make."""
    return _made("RS256" if algorithm[:2] in ("RS", "PS") else algorithm, number)


@cache
def _made(algorithm: str, number: int) -> Any:
    if algorithm.startswith("HS"):
        return OctKey.import_key(SECRET + "!" * number)
    if algorithm == "RS256":
        return RSAKey.generate_key(2048)
    if algorithm.startswith("ES"):
        return ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm])
    return OKPKey.generate_key("Ed448" if algorithm == "Ed448" else "Ed25519")


def sign(claims: Mapping[str, Any] | bytes, algorithm: str = "HS256", key: Any = None, **header: Any) -> str:
    """A token. Claims that are bytes are taken as they are; `alg` in the header is overridden by `header`."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{part(json.dumps({'alg': algorithm, **header}).encode())}.{part(payload)}"
    model = JWSRegistry.algorithms[algorithm]
    return f"{signed}.{part(model.sign(signed.encode(), key or key_for(algorithm)))}"


def public_jwk(algorithm: str, number: int = 0, **members: Any) -> dict[str, Any]:
    return {**key_for(algorithm, number).as_dict(private=False), **members}


def pem(algorithm: str, number: int = 0) -> str:
    """The public key as PEM text."""
    return str(key_for(algorithm, number).as_pem(private=False).decode())


@dataclass
class Issuer:
    """A running issuer. `keys` are published at `jwks`; `behave` may answer in their place."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    delay: float = 0.0
    broken: Any = None
    """A response to give in the place of the keys: (status, body)."""
    discovery: dict[str, Any] = field(default_factory=dict)
    """What the discovery document says beside, or in the place of, the issuer's own."""
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What introspection says of tokens; others are not active."""
    asked_about: list[str] = field(default_factory=list)
    credentials: str = "Basic Z2F0ZXdheTpzZWNyZXQlM0Etb25l"
    """Who may introspect: `gateway`, with the secret `secret:-one`."""

    @property
    def jwks(self) -> str:
        return f"{self.url}/jwks.json"

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        keys = list(self.keys)
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.broken is not None:
            status, body = self.broken
            return web.Response(status=status, body=body, headers={"Location": f"{self.url}/jwks.json"})
        return web.json_response({"keys": keys})

    async def discover(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"issuer": self.url, "jwks_uri": self.jwks} | self.discovery)

    async def introspect(self, request: web.Request) -> web.Response:
        form = await request.post()
        token = str(form["token"])
        self.asked_about.append(token)
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.broken is not None:
            return web.Response(status=self.broken[0], body=self.broken[1])
        by_form = form.get("client_id") == "gateway" and form.get("client_secret") == "secret:-one"
        if request.headers.get("Authorization") != self.credentials and not by_form:
            return web.Response(status=401)
        return web.json_response(self.known.get(token, {"active": False}))


@asynccontextmanager
async def running_issuer(*keys: dict[str, Any]) -> AsyncIterator[Issuer]:
    """An issuer in this process."""
    issuer = Issuer(keys=list(keys))
    application = web.Application()
    application.router.add_get("/jwks.json", issuer.answer)
    application.router.add_get("/.well-known/openid-configuration", issuer.discover)
    application.router.add_post("/introspect", issuer.introspect)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        issuer.url = f"http://{host}:{port}"
        yield issuer
    finally:
        await runner.cleanup()


async def main() -> None:
    """Serve; every line of the input is the JSON of the keys to publish from now on, and is answered with `ok`."""
    async with running_issuer() as issuer:
        tell(issuer.jwks)
        while line := await asyncio.to_thread(sys.stdin.readline):
            issuer.keys = json.loads(line)
            tell(f"ok {issuer.asked}")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def claims(**more: Any) -> dict[str, Any]:
    """Claims that hold for an hour."""
    return {"sub": "anna", "exp": int(time.time()) + 3600, **more}


if __name__ == "__main__":
    asyncio.run(main())
