"""Names and values of headers as they may be declared, and which headers are the gateway's own to say.

Framing and connection management belong to one hop (RFC 9110 section 7.6.1), and who the client is the gateway says
itself: neither is for a definition to change. The request side filters by the same tables.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from aiogate.config.model import mistake

__all__ = ["FRAMING", "HOP_BY_HOP", "SAID_BY_US", "EditableHeader", "HeaderName", "HeaderValue"]

HOP_BY_HOP: Final = frozenset(
    {
        "connection", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Of one connection, in lower case."""
FRAMING: Final = HOP_BY_HOP | {"content-length"}
"""Of one message on one connection."""
SAID_BY_US: Final = frozenset(
    {
        "expect", "forwarded", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
        "x-request-id",
    }
)  # fmt: skip
"""By these a server learns who the client is and what it asked."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _parse_name(value: Any) -> str:
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be the name of a header", "such as `X-From`")
    if _TOKEN.fullmatch(value) is None:
        raise mistake(
            "invalid_value", "is not the name of a header", "letters, digits and `-`, such as `X-From`", show=True
        )
    return value


def _parse_editable(value: Any) -> str:
    name = _parse_name(value)
    if name.lower().replace("_", "-") in FRAMING | SAID_BY_US:
        raise mistake("invalid_value", "is a header that the gateway itself says", "leave it out", show=True)
    return name


def _parse_value(value: Any) -> str:
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be text", "quote it to make it text")
    if _CONTROL.search(value) is not None:
        raise mistake("invalid_value", "holds a line break or another control character", "a header is one line")
    return value


HeaderName = Annotated[str, BeforeValidator(_parse_name)]
"""A name that may stand in a header (RFC 9110 section 5.1), as it was written."""
EditableHeader = Annotated[str, BeforeValidator(_parse_editable)]
"""The name of a header that is not the gateway's own to say."""
HeaderValue = Annotated[str, BeforeValidator(_parse_value)]
"""Text that may stand in a header, without line breaks."""
