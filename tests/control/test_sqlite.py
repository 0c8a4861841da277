"""The same life of a user on the store that a default start uses."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from aiogate.control.application import application
from aiogate.domain.account import stored_name
from aiogate.stores.repositories import SessionDirectory
from aiogate.stores.sqlite import SqliteStore

SECRET = "control-secret-0123456789abcdef"
USER = {"access_rights": {"login": {}}, "basic_auth_data": {"password": "test123"}}


@pytest.fixture
async def call(make_site, tmp_path):
    site = make_site()
    site.store = SqliteStore(tmp_path / "aiogate.db", site.clock)
    await site.store.open()
    site.sessions = SessionDirectory(site.store.sessions, site.clock)
    await site.reload("start")
    async with TestClient(TestServer(application(site))) as client:

        async def call(method, path, body=None):
            headers = {"X-Tyk-Authorization": SECRET}
            url = URL(f"/tyk{path}", encoded=True)
            async with client.request(method, url, json=body, headers=headers) as response:
                return response.status, await response.json()

        yield call
    await site.passwords.close()
    await site.store.close()


async def test_a_users_life_on_sqlite(call):
    hashed = stored_name("default", "alice")
    made = {"key": "alice", "status": "ok", "action": "added", "key_hash": hashed}
    assert await call("POST", "/keys/alice", USER) == (200, made)
    assert await call("GET", "/keys") == (200, {"keys": [hashed]})
    assert await call("GET", "/keys?api_id=portal") == (200, {"keys": []})
    status, changed = await call("PUT", f"/keys/{hashed}", {"access_rights": {"portal": {}}, "alias": "Alice"})
    assert (status, changed["action"]) == (200, "modified")
    status, shown = await call("GET", "/keys/alice")
    assert (status, shown["alias"], list(shown["access_rights"])) == (200, "Alice", ["portal"])
    status, deleted = await call("DELETE", "/keys/alice")
    assert (status, deleted["action"]) == (200, "deleted")
    assert await call("GET", "/keys/alice") == (404, {"status": "error", "message": "Key not found"})


@pytest.mark.parametrize("text", ["%00", "%FF", "%ED%A0%80", "%F0%9F%92%A9", "%25", "_", "'"])
async def test_odd_bytes_find_nothing(call, text):
    await call("POST", "/keys/alice", USER)
    for path in (f"/keys/{text}{text}{text}?hashed=1", f"/keys/{text}{text}{text}", f"/decisions/{text}"):
        assert (await call("GET", path))[0] == 404
    for query in (f"filter={text}", f"org_id={text}", f"api_id={text}"):
        assert await call("GET", f"/keys?{query}") == (200, {"keys": []})
    assert await call("GET", f"/decisions?api={text}") == (200, {"decisions": []})
