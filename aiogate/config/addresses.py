"""Addresses and paths that an operator writes: where the gateway listens, where an upstream is, what a listen path is.

Each has one canonical form, chosen here, so that two spellings of one place are found to be the same and no request is
compared with anything but that form.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import unquote_to_bytes

from pydantic import BeforeValidator, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema

from aiogate.config.model import mistake, scalar_schema

__all__ = [
    "Address",
    "HostName",
    "ListenPath",
    "UpstreamUrl",
    "canonical_path",
    "parse_address",
    "parse_host",
    "parse_listen_path",
    "parse_upstream_url",
]

_HOST_LABELS: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*", re.ASCII
)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_ADDRESS_WORDS: Final = "write HOST:PORT, such as `127.0.0.1:8080`, `[::1]:8080` or `:8080` for all IPv4 interfaces"
_URL_WORDS: Final = "write http://HOST[:PORT][/PATH], https://… or unix:/PATH"


def _host(text: str) -> str | None:
    """A host in its canonical form, an IPv6 address without its brackets; None for what is none."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            return None
    if _HOST_LABELS.fullmatch(text.removesuffix(".")) is None:
        return None
    return text.removesuffix(".").lower()


def _port(text: str) -> int | None:
    if _PORT.fullmatch(text) is None or int(text) > 65535:
        return None
    return int(text)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is bound. Port 0: any free one, told when the gateway is ready."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        examples = ["127.0.0.1:8080", "[::1]:8080"]
        return scalar_schema(parse_address, {"type": "string", "pattern": r":[0-9]{1,5}\s*$", "examples": examples})


def parse_address(value: Any) -> Address:
    """`HOST:PORT`, an IPv6 address in brackets. `:8080` is `0.0.0.0:8080`."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be an address", _ADDRESS_WORDS)
    name, colon, digits = value.strip().rpartition(":")
    port = _port(digits) if colon else None
    host = _host(name) if name else "0.0.0.0"  # noqa: S104  # the operator asked for it by naming no host
    if port is None or host is None:
        raise mistake("invalid_value", "is not an address", _ADDRESS_WORDS, show=True)
    return Address(host, port)


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """Where requests go. `host` is lower case, IPv6 without brackets; `path` begins with `/`; `query` has no `?`.

    `socket` is the path of a Unix socket, and empty for an address; its `host` is `localhost`, which is what the server
    there is told.
    """

    scheme: str
    host: str
    port: int
    path: str = "/"
    query: str = ""
    socket: str = ""

    @property
    def authority(self) -> str:
        """Host and port as a `Host` header has them: the port only where it is not the scheme's own."""
        default = 443 if self.scheme == "https" else 80
        return _bracketed(self.host) if self.port == default else f"{_bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        query = f"?{self.query}" if self.query else ""
        place = f"unix:{self.socket}:" if self.socket else self.authority
        return f"{self.scheme}://{place}{self.path}{query}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        pattern = r"^\s*[Hh][Tt][Tt][Pp][Ss]?://[^/?#@\s]+([/?][^#\s]*)?\s*$"
        return scalar_schema(parse_upstream_url, {"type": "string", "format": "uri", "pattern": pattern})


_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.ASCII | re.DOTALL)
_UNIX: Final = re.compile(r"(?:(https?)://)?unix:(/[^:?#\0]+)(?::(/[^?#]*))?(?:\?([^#]*))?", re.ASCII)
_PATH_CHARACTERS: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_QUERY_CHARACTERS: Final = re.compile(r"[\x21-\x7e]*", re.ASCII)


def parse_upstream_url(value: Any) -> UpstreamUrl:
    """An http or https URL with a host, and with neither user and password nor a fragment; or a Unix socket.

    That is `unix:/run/app.sock`, or as nginx writes it, with a path: `http://unix:/run/app.sock:/base/`.
    """
    if isinstance(value, UpstreamUrl):
        return value
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a URL", _URL_WORDS)
    if (local := _UNIX.fullmatch(value.strip())) is not None:
        scheme, path, query = local[1] or "http", local[3] or "/", local[4] or ""
        _check_path(path, query)
        return UpstreamUrl(scheme, "localhost", 443 if scheme == "https" else 80, path, query, local[2])
    found = _URL.fullmatch(value.strip())
    if found is None:
        raise mistake("invalid_url", "is not a URL", _URL_WORDS)
    scheme, authority, path, query = found[1].lower(), found[2], found[3] or "/", found[4] or ""
    if scheme not in ("http", "https"):
        raise mistake("invalid_url", "is neither http nor https", _URL_WORDS)
    if "@" in authority:
        raise mistake(
            "invalid_url", "holds a user or a password", "use the plugin request_headers: {set: {Authorization: …}}"
        )
    if found[5]:
        raise mistake("invalid_url", "has a fragment, which no server sees", "remove what begins with `#`")
    host, port = _authority(authority, 443 if scheme == "https" else 80)
    _check_path(path, query)
    return UpstreamUrl(scheme, host, port, path, query)


def _check_path(path: str, query: str) -> None:
    if _PATH_CHARACTERS.fullmatch(path) is None or _QUERY_CHARACTERS.fullmatch(query) is None:
        raise mistake("invalid_url", "holds a character that a URL must escape", "percent-encode it")
    if any(segment in (".", "..") for segment in _unescape_dots(path).split("/")):
        raise mistake("invalid_url", "holds `.` or `..` as a segment", "write the path that is meant")


def _authority(text: str, default_port: int) -> tuple[str, int]:
    name, colon, digits = text.rpartition(":")
    if not colon or digits.endswith("]"):
        name, digits = text, ""
    if colon and name != text and not digits:
        raise mistake("invalid_url", "has a colon without a port", _URL_WORDS)
    host = _host(name)
    port = _port(digits) if digits else default_port
    if host is None:
        hint = "write an international name in its xn-- form" if not text.isascii() else _URL_WORDS
        raise mistake("invalid_url", "has no usable host", hint)
    if port is None or port == 0:
        raise mistake("invalid_url", "has a port outside 1 to 65535", _URL_WORDS)
    return host, port


_ESCAPE: Final = re.compile("%([0-9A-Fa-f]{2})", re.ASCII)
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEVER: Final = {0x2F: "an escaped slash", 0x5C: "an escaped backslash", 0x7F: "an escaped control character"}


def _unescape_dots(path: str) -> str:
    return path.replace("%2e", ".").replace("%2E", ".")


def canonical_path(text: str) -> str:
    """The one form in which a declared path is compared with requests.

    Escapes of unreserved characters are resolved, all others upper case; characters beyond ASCII are escaped as UTF-8.
    What a request could never carry is refused: `//`, dot segments, spaces, `?`, `#`, a backslash, an escaped slash.
    """
    if not text.startswith("/"):
        raise mistake("invalid_value", "does not begin with `/`", f"did you mean `/{text.lstrip('./')}`?", show=True)
    encoded = "".join(char if char.isascii() else _percent(char) for char in text)
    if _PATH_CHARACTERS.fullmatch(encoded) is None:
        hint = "a path has no query, fragment, space, braces or backslash"
        raise mistake("invalid_value", "holds a character that a path cannot have", hint, show=True)

    def one(found: re.Match[str]) -> str:
        code = found[1].upper()
        char = int(code, 16)
        if char in _NEVER or char < 0x20:
            what = _NEVER.get(char, "an escaped control character")
            raise mistake("invalid_value", f"holds {what}, which the gateway refuses in requests", show=True)
        return chr(char) if char in _UNRESERVED else f"%{code}"

    path = _ESCAPE.sub(one, encoded)
    if "//" in path:
        raise mistake(
            "invalid_value", "holds an empty segment", "requests have their slashes merged; write one", show=True
        )
    if any(segment.partition(";")[0] in (".", "..") for segment in path.replace("%3B", ";").split("/")):
        raise mistake("invalid_value", "holds `.` or `..` as a segment", "write the path that is meant", show=True)
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise mistake("invalid_value", "is not UTF-8 behind its escapes", show=True) from error
    return path


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def parse_listen_path(value: Any) -> str:
    """A listen path in canonical form; it ends with `/`, so that `/login` and `/login/` are one place."""
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a path", "such as `/login/`")
    if "*" in value:
        raise mistake(
            "invalid_value",
            "holds a wildcard",
            "a listen path takes everything below it; write its beginning",
            show=True,
        )
    path = canonical_path(value)
    return path if path.endswith("/") else f"{path}/"


def parse_host(value: Any) -> str:
    """A host name as requests carry it: lower case, no port, IPv6 in brackets."""
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be a host name", "such as `api.example.com`")
    host = _host(value.strip())
    if host is None:
        hint = "leave the port out" if ":" in value and "[" not in value else "such as `api.example.com`"
        raise mistake("invalid_value", "is not a host name", hint, show=True)
    return _bracketed(host)


ListenPath = Annotated[
    str,
    BeforeValidator(parse_listen_path),
    WithJsonSchema({"type": "string", "pattern": r"^/[^*?#\s\\]*$", "examples": ["/login/"]}),
]
"""A canonical path that begins and ends with `/`."""

HostName = Annotated[str, BeforeValidator(parse_host), WithJsonSchema({"type": "string", "format": "hostname"})]
"""A lower-case host name without a port."""
