"""Routes that a plugin adds to the control port: behind the secret, and gone with the plugin."""

from __future__ import annotations

from aiogate.testing import running_gateway

PLUGIN = '''
    """Counts."""
    from aiohttp import web
    from aiogate import Lifecycle, hookimpl

    seen = []

    @hookimpl
    def aiogate_lifecycle(services):
        async def started():
            seen.append("started")
        return Lifecycle(started=started, stopping=lambda: seen.append("stopping"))

    @hookimpl
    def aiogate_control_routes(services):
        async def show(request):
            return web.json_response({"seen": seen, "name": request.match_info["name"]})
        return [web.get("/seen/{name}", show)]
'''
FILES = {
    "apis.d/hello.yaml": "{listen: /hello-world/, auth: none, plugins: [mock: hi]}",
    "plugins/counts.py": PLUGIN,
}


async def test_a_plugins_route_answers_behind_the_secret() -> None:
    async with running_gateway(FILES) as gateway:
        reply = await gateway.tyk("GET", "/plugins/counts/seen/ann")
        assert (reply.status, reply.json) == (200, {"seen": ["started"], "name": "ann"})
        for method, path, status in (
            ("POST", "/plugins/counts/seen/ann", 405),
            ("GET", "/plugins/counts/else", 404),
            ("GET", "/plugins/other/seen/ann", 404),
        ):
            assert (await gateway.tyk(method, path)).status == status
        gateway.secret = "a guess"
        assert (await gateway.tyk("GET", "/plugins/counts/seen/ann")).status == 403


async def test_a_reload_replaces_and_removes_routes() -> None:
    async with running_gateway(FILES) as gateway:
        assert (await gateway.reload({"plugins/counts.py": PLUGIN.replace("/seen/", "/told/")})).ok
        assert (await gateway.tyk("GET", "/plugins/counts/seen/ann")).status == 404
        assert (await gateway.tyk("GET", "/plugins/counts/told/ann")).status == 200
        gateway.remove("plugins/counts.py")
        assert (await gateway.reload()).ok
        assert (await gateway.tyk("GET", "/plugins/counts/told/ann")).status == 404
