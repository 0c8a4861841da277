"""`control: {listen: same}`: the control API behind the gateway's own port.

The control application listens on a loopback port that nobody is told, and the gateway forwards its paths there like
the paths of any API: one way through the listener, with its checks, for everything that arrives from outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from aiogate.config.definition import Definition, read_definition
from aiogate.config.source import read_source
from aiogate.errors import Diagnostic

__all__ = ["PATHS", "conflicts", "definitions"]

PATHS: Final = ("/tyk/", "/api/", "/admin/", "/plugins/", "/ready/", "/metrics/", "/openapi.json/")
"""What belongs to the control API then. No API may listen there; below them (`/api/shop/`) it may not either."""


def definitions(port: int) -> tuple[Definition, ...]:
    """Definitions that forward the control API's paths to its loopback port."""
    return tuple(
        read_definition(
            read_source(
                "aiogate.yaml",
                orjson.dumps(
                    {
                        "id": f"control{path.replace('/', '.').rstrip('.')}",
                        "listen": path,
                        "auth": "none",
                        "strip_listen_path": False,
                        "upstream": {"url": f"http://127.0.0.1:{port}/", "preserve_host": True},
                    }
                ),
            )
        )
        for path in PATHS
    )


def conflicts(declared: Iterable[Definition]) -> Iterable[Diagnostic]:
    """APIs that would take the control API's paths, or hide parts of it."""
    for definition in declared:
        path = definition.listen.path
        taken = next((own for own in PATHS if path.startswith(own)), None)
        if definition.active and taken is not None:
            position = definition.source.locate(("listen", "path"))
            message = f"`{path}` belongs to the control API, which listens on the same port"
            hint = "choose another path, or give the control API a port of its own: `control: {listen: 127.0.0.1:8081}`"
            yield Diagnostic.at(position, "listen_conflict", message, hint, "listen")
