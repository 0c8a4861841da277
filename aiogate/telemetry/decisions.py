"""The record of one refusal: which step spoke, by which rule, in which file and line, and the private reason.

Identifiers are hashed: the record names a session by its stored name (a SHA-256), never a key or a password.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson

__all__ = ["Decision", "text_of"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a request was refused, or would have been (`shadow`)."""

    request_id: str
    at: float
    """Epoch seconds."""
    method: str
    path: str
    api: str = ""
    version: str = ""
    step: str = ""
    """Name of the plugin or core step that refused; `router` and `listener` for what no chain saw."""
    stage: str = ""
    rule: str = ""
    """`file:line:column` of the rule."""
    code: str = ""
    status: int = 0
    message: str = ""
    reason: str = ""
    """The private reason. Never sent to the client of the API."""
    session: str = ""
    """Stored name of the session, when one was found."""
    label: str = ""
    client_ip: str = ""
    generation: int = 0
    shadow: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def text_of(decision: Decision) -> str:
    """The decision as JSON, for a store."""
    try:
        return orjson.dumps(decision).decode()
    except TypeError:
        # Bytes of a request that are not UTF-8 arrive as surrogates, which JSON cannot hold.
        fields = {
            name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for name, value in decision.as_dict().items()
        }
        return orjson.dumps(fields).decode()
