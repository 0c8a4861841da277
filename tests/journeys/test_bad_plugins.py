"""Plugins that fail wherever they are called: one request, one reload or one start is refused, and the worker lives."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiogate.testing import RecordingUpstream

Start = Callable[..., Any]
WHAT = ("RuntimeError('canary')", "SystemExit('canary')", "RecursionError('canary')", "MemoryError('canary')")
WHERE = ("on_request", "later", "on_response", "later_response")
STEPS = """
    from aiogate import Middleware, MiddlewareKind, Model, Stage, hookimpl


    class Config(Model):
        where: str
        what: str


    @hookimpl
    def aiogate_middleware():
        return MiddlewareKind("faulty", Stage.REQUEST, Config, build)


    def build(config, context):
        def fail(*_):
            raise eval(config.what)

        async def later(*_):
            fail()

        if config.where == "build":
            fail()
        calls = {
            "on_request": Middleware(on_request=fail),
            "later": Middleware(on_request=later),
            "on_response": Middleware(on_response=fail),
            "later_response": Middleware(on_response=later),
        }
        return calls[config.where]
    """
LIFE = """
    from aiogate import Lifecycle, hookimpl


    @hookimpl
    def aiogate_lifecycle(services):
        def fail():
            raise {what}

        return Lifecycle({when}=fail)
    """


def api(name: str, where: str, what: str, upstream: str, shadow: str = "") -> dict[str, str]:
    return {
        f"apis.d/{name}.yaml": f"""
            listen: /{name}/
            auth: none
            upstream: {upstream}
            plugins:
              - faulty: {{where: {where}, what: "{what}"}}{shadow}
            """
    }


def well(upstream: RecordingUpstream) -> dict[str, str]:
    """The plugin, and an API without it."""
    return {
        "plugins/faulty.py": STEPS,
        "apis.d/well.yaml": f"{{listen: /well/, auth: none, upstream: '{upstream.url}'}}",
    }


@pytest.mark.slow
async def test_78_a_step_that_raises(start: Start, upstream: RecordingUpstream) -> None:
    """Every kind of exception that a plugin can raise by itself, `sys.exit()` included, in every place of the chain."""
    cases = {f"{where.replace('_', '-')}-{n}": (where, what) for where in WHERE for n, what in enumerate(WHAT)}
    site = well(upstream)
    for name, (where, what) in cases.items():
        site |= api(name, where, what, upstream.url)
    site |= api("seen", "on_request", WHAT[1], upstream.url, "\n                mode: shadow")
    async with start(site) as gateway:
        for name, (_, what) in cases.items():
            reply = await gateway.get(f"/{name}/")
            assert (name, reply.status, reply.code) == (name, 500, "internal_error")
            assert "canary" not in reply.text
            assert "Traceback" not in reply.text
            assert what.partition("(")[0] in (await gateway.why(reply))["reason"]
            assert (await gateway.get("/well/")).status == 200
        assert (await gateway.get("/seen/")).status == 200, "what only looks on refuses nobody"
        assert gateway.process.returncode is None


@pytest.mark.slow
@pytest.mark.parametrize("what", WHAT[:2])
async def test_78_what_cannot_be_built_or_started(start: Start, upstream: RecordingUpstream, what: str) -> None:
    site = well(upstream)
    async with start(site) as gateway:
        (gateway.folder / "apis.d/broken.yaml").write_text(
            f"{{listen: /broken/, auth: none, upstream: '{upstream.url}', "
            f'plugins: [faulty: {{where: build, what: "{what}"}}]}}'
        )
        refused = await gateway.reload_now()
        assert refused.status == 422, refused.text
        assert [one["code"] for one in refused.json["diagnostics"]] == ["build_failed"]
        (gateway.folder / "apis.d/broken.yaml").unlink()

        for text in (LIFE.format(when="started", what=what), f"raise {what}\n"):
            write(gateway.folder / "plugins/life.py", text)
            refused = await gateway.reload_now()
            assert refused.status == 422, refused.text
            assert [one["code"] for one in refused.json["diagnostics"]] == ["plugin_broken"]
            assert (await gateway.get("/well/")).status == 200
        write(gateway.folder / "plugins/life.py", LIFE.format(when="stopping", what=what))
        assert (await gateway.reload_now()).status == 200
        (gateway.folder / "plugins/life.py").unlink()
        assert (await gateway.reload_now()).status == 200, "its end fails, and it is gone all the same"
        assert (await gateway.get("/well/")).status == 200
        gateway.terminate()
        assert await gateway.ended() == 0


def write(path: Path, text: str) -> None:
    path.write_text(textwrap.dedent(text))
