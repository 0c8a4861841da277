"""A client of both ports of a gateway, for tests: it asks, and it never retries, redirects or keeps cookies.

Every request has a connection of its own, so that a test of a stop or a reload sees what the gateway did and not what a
connection pool made of it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from multidict import CIMultiDictProxy
from yarl import URL

__all__ = ["GatewayClient", "Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, read to its end. `headers` are case-insensitive."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON. Raises `orjson.JSONDecodeError`."""
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """The stable word of a refusal; empty for anything else."""
        try:
            body = self.json
        except orjson.JSONDecodeError:
            return ""
        return str(body.get("code", "")) if isinstance(body, dict) else ""

    @property
    def error(self) -> str:
        """The message of a refusal."""
        return str(self.json["error"])

    @property
    def request_id(self) -> str:
        return self.headers["X-Request-Id"]


class GatewayClient:
    """What a test asks of a gateway, by HTTP.

    `url` and `control_url` have no slash at their end. `secret` opens `/tyk`, `access_key` opens `/api`.
    """

    def __init__(self, url: str, control_url: str, secret: str, access_key: str) -> None:
        self.url = url
        self.control_url = control_url
        self.secret = secret
        self.access_key = access_key
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what the client has open. Safe to call more than once."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | str | None = None,
        json: Any = None,
        user: tuple[str, str] | None = None,
        key: str | None = None,
    ) -> Reply:
        """One request to the gateway's port. `path` goes out as it is; `user` is (name, password), `key` a token."""
        sent = dict(headers or {})
        if user is not None:
            sent["Authorization"] = "Basic " + b64encode(":".join(user).encode()).decode()
        if key is not None:
            sent["Authorization"] = key
        return await self._ask(method, self.url + path, sent, data, json)

    async def get(self, path: str, **options: Any) -> Reply:
        """`request` with GET."""
        return await self.request("GET", path, **options)

    async def tyk(self, method: str, path: str, json: Any = None, *, data: bytes | str | None = None) -> Reply:
        """One call of the Gateway API with the secret; `path` begins with `/tyk`."""
        return await self._ask(method, self.control_url + path, {"X-Tyk-Authorization": self.secret}, data, json)

    async def dashboard(self, method: str, path: str, json: Any = None, *, data: bytes | str | None = None) -> Reply:
        """One call of the Dashboard API with the access key; `path` begins with `/api`."""
        return await self._ask(method, self.control_url + path, {"Authorization": self.access_key}, data, json)

    async def create_key(self, *apis: str, name: str = "", **session: Any) -> str:
        """A key that grants `apis`, with further fields of a session; its text. `name`: chosen, not generated."""
        document = {"access_rights": {api: {"api_id": api, "versions": []} for api in apis}, **session}
        path = f"/tyk/keys/{URL.build(path=name).raw_path}" if name else "/tyk/keys"
        return str(_made(await self.tyk("POST", path, document))["key"])

    async def create_user(self, name: str, password: str, *apis: str, **session: Any) -> None:
        """A basic-auth user who may use `apis`, with further fields of a session."""
        await self.create_key(*apis, name=name, basic_auth_data={"password": password}, **session)

    async def revoke(self, name: str) -> None:
        """Delete a key or a user."""
        _made(await self.tyk("DELETE", f"/tyk/keys/{URL.build(path=name).raw_path}"))

    async def why(self, reply: Reply | str) -> Mapping[str, Any]:
        """The decision record of a refusal, or of the request with this id."""
        request_id = reply if isinstance(reply, str) else reply.request_id
        found: Mapping[str, Any] = _made(await self.tyk("GET", f"/tyk/decisions/{request_id}"))
        return found

    async def reload_now(self) -> Reply:
        """A reload through the control API, waited for: 200 or 422, with the verdict."""
        return await self.tyk("GET", "/tyk/reload?block=true")

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | str | None, json: Any
    ) -> Reply:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=60),
                auto_decompress=False,
            )
        target = URL(url, encoded=True)
        async with self._session.request(
            method, target, headers=headers, data=data, json=json, allow_redirects=False
        ) as response:
            return Reply(response.status, response.headers, await response.read())


def _made(reply: Reply) -> Any:
    """The JSON of a call that has to work. Raises AssertionError with what came instead."""
    assert reply.status == 200, f"{reply.status}: {reply.text}"
    return reply.json
