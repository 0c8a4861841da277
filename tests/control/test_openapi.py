"""`/openapi.json` and the routes that are mounted are one list."""

from __future__ import annotations

import re

from aiogate.control.describe import operation_of


async def test_every_route_is_described_and_nothing_else(control):
    answer = await control.call("GET", "/openapi.json")
    assert answer.status == 200
    shown = {(method.upper(), path) for path, rows in answer.json["paths"].items() for method in rows}
    mounted = {
        (route.method, re.sub(r":[^}]*}", "}", route.resource.canonical).rstrip("/"))
        for route in control.client.server.app.router.routes()
        if route.method != "*"
    }
    assert shown == mounted
    assert all(
        operation_of(route.handler).summary
        for route in control.client.server.app.router.routes()
        if route.method != "*"
    )


async def test_what_needs_a_credential_says_so_and_refuses_without_one(control):
    paths = (await control.call("GET", "/openapi.json")).json["paths"]
    for path, rows in paths.items():
        for method, operation in rows.items():
            if not path.startswith(("/tyk/", "/api/", "/admin/")):
                continue
            answer = await control.call(method.upper(), re.sub(r"{[^}]*}", "nobody", path))
            assert operation["security"]
            assert answer.status in (401, 403)
            assert str(answer.status) in operation["responses"]


async def test_every_reference_leads_somewhere(control):
    answer = await control.call("GET", "/openapi.json")
    schemas = answer.json["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text)) <= schemas.keys()
