"""What plugins run beside the chain: at start and stop, on the control port, and when their code changes."""

from __future__ import annotations

from pathlib import Path

import pytest

import aiogate.builtin.key
import aiogate.builtin.mock
from aiogate.errors import DiagnosticsFound
from aiogate.testing import running_gateway

API = {"apis.d/api.yaml": "{listen: /api/, auth: none, plugins: [mock: x]}"}

NOTES = """
    from pathlib import Path

    from aiohttp import web

    from aiogate import Lifecycle, hookimpl

    BOOK = Path(__file__).parent.parent / "{name}.txt"


    def write(word):
        with BOOK.open("a") as book:
            book.write(word + " {name} {version}\\n")


    @hookimpl
    def aiogate_lifecycle(services):
        async def started():
            assert services.clock.now() > 0
            write("started")

        return Lifecycle(started=started, stopping=lambda: write("stopping"))


    @hookimpl
    def aiogate_control_routes(services):
        async def show(request):
            return web.json_response({{"page": request.match_info["page"], "version": {version}}})

        return [web.get("/notes/{{page}}", show), web.post("/notes/{{page}}", show)]
    """


def notes(name: str, version: int) -> dict[str, str]:
    return {f"plugins/{name}.py": NOTES.format(name=name, version=version)}


async def test_a_lifecycle_from_start_to_stop(tmp_path: Path) -> None:
    async with running_gateway({**API, **notes("a", 1)}, folder=tmp_path) as gateway:
        assert (tmp_path / "a.txt").read_text() == "started a 1\n"
        assert (await gateway.reload()).ok
        assert (tmp_path / "a.txt").read_text() == "started a 1\n", "what did not change keeps running"
    assert (tmp_path / "a.txt").read_text() == "started a 1\nstopping a 1\n"


async def test_changed_code_starts_before_the_old_stops_and_the_others_notice_nothing(tmp_path: Path) -> None:
    async with running_gateway({**API, **notes("a", 1), **notes("b", 1)}, folder=tmp_path) as gateway:
        assert (await gateway.reload(notes("a", 2))).ok
        assert (tmp_path / "a.txt").read_text() == "started a 1\nstarted a 2\nstopping a 1\n"
        assert (tmp_path / "b.txt").read_text() == "started b 1\n"
        gateway.remove("plugins/b.py")
        assert (await gateway.reload()).ok
        assert (tmp_path / "b.txt").read_text() == "started b 1\nstopping b 1\n"


async def test_routes_on_the_control_port_behind_the_secret(tmp_path: Path) -> None:
    async with running_gateway({**API, **notes("a", 1)}, folder=tmp_path) as gateway:
        for method in ("GET", "POST"):
            assert (await gateway.tyk(method, "/plugins/a/notes/7")).json == {"page": "7", "version": 1}
        assert (await gateway.tyk("DELETE", "/plugins/a/notes/7")).status == 405
        for path in ("/plugins/a/other", "/plugins/b/notes/7", "/plugins/key/notes"):
            assert (await gateway.tyk("GET", path)).status == 404
        assert (await gateway.dashboard("GET", "/plugins/a/notes/7")).status == 403
        assert (await gateway.reload(notes("a", 2))).ok
        assert (await gateway.tyk("GET", "/plugins/a/notes/7")).json["version"] == 2


async def test_a_plugin_that_cannot_start_refuses_the_reload(tmp_path: Path) -> None:
    failing = notes("b", 1)["plugins/b.py"].replace('write("started")', "raise OSError('no room')")
    async with running_gateway({**API, **notes("a", 1)}, folder=tmp_path) as gateway:
        verdict = await gateway.reload({**notes("a", 2), "plugins/b.py": failing})
        assert (verdict.ok, verdict.generation) == (False, 1)
        [diagnostic] = verdict.diagnostics
        assert (diagnostic.code, Path(diagnostic.file).name) == ("plugin_broken", "b.py")
        assert "OSError: no room" in diagnostic.message
        assert (tmp_path / "a.txt").read_text() == "started a 1\nstarted a 2\nstopping a 2\n"
        assert (await gateway.tyk("GET", "/plugins/a/notes/7")).json["version"] == 1
    with pytest.raises(DiagnosticsFound, match="no room"):
        async with running_gateway({**API, "plugins/b.py": failing}):
            pass


STAMP = """
    from aiogate import Middleware, MiddlewareKind, Model, Stage, hookimpl


    @hookimpl
    def aiogate_middleware():
        return MiddlewareKind("stamp", Stage.REQUEST, Model, build, refuses=False)


    def build(config, context):
        return Middleware(on_response=lambda exchange, response: response.set("X-Stamp", "{value}"), close=lambda: None)
    """


async def test_changed_code_of_a_middleware_serves_after_the_reload(tmp_path: Path) -> None:
    files = {
        "apis.d/stamped.yaml": "{listen: /stamped/, auth: none, plugins: [mock: x, stamp]}",
        **API,
        "plugins/stamp.py": STAMP.format(value=1),
    }
    async with running_gateway(files, folder=tmp_path) as gateway:
        assert (await gateway.get("/stamped/")).headers["X-Stamp"] == "1"
        verdict = await gateway.reload({"plugins/stamp.py": STAMP.format(value=2)})
        assert (verdict.ok, verdict.changed.changed) == (True, ("stamped",)), "only who uses it is compiled again"
        assert (await gateway.get("/stamped/")).headers["X-Stamp"] == "2"
        verdict = await gateway.reload({"plugins/stamp.py": STAMP.replace("def build", "def built")})
        assert not verdict.ok
        assert (await gateway.get("/stamped/")).headers["X-Stamp"] == "2"


async def test_a_builtin_moved_to_the_plugins_folder_still_works(tmp_path: Path) -> None:
    """Under another name, because its own is taken; not a line of it changes beside."""

    def moved(module: object, name: str) -> str:
        return Path(str(module.__file__)).read_text().replace(f'"{name}", ', f'"own_{name}", ', 1)  # type: ignore[attr-defined]

    key, mock = moved(aiogate.builtin.key, "key"), moved(aiogate.builtin.mock, "mock")
    assert 'AuthenticatorKind("own_key"' in key
    assert '"own_mock"' in mock
    files = {
        "plugins/own_key.py": key,
        "plugins/answer.py": mock,
        "apis.d/api.yaml": """
            listen: /api/
            auth: [basic, own_key: {query: api_key}]
            plugins: [own_mock: {status: 201, json: {moved: true}}]
            """,
    }
    async with running_gateway(files, folder=tmp_path) as gateway:
        token = await gateway.create_key("api")
        await gateway.create_user("anna", "test123", "api")
        for reply in (
            await gateway.get("/api/", key=token),
            await gateway.get(f"/api/?api_key={token}"),
            await gateway.get("/api/", user=("anna", "test123")),
        ):
            assert (reply.status, reply.json) == (201, {"moved": True})
        assert (await gateway.get("/api/", key="anna")).code == "key_unknown"
        assert (await gateway.get("/api/")).code == "auth_missing"
        shown = {info["name"]: info["source"] for info in (await gateway.tyk("GET", "/tyk/plugins")).json}
        assert shown["own_key"] == str(tmp_path / "plugins/own_key.py")
