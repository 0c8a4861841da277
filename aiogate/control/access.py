"""Who may talk to the control port.

`/tyk` and `/admin` know one shared secret, `/api` the access keys of dashboard users; `/hello` and `/ready` are open,
and so is `/metrics` unless the settings close it. Secrets are compared as bytes in constant time, so that a header that
is not ASCII is simply wrong.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from aiogate.control.operations.accounts import Accounts, Caller
from aiogate.domain.user import may
from aiogate.errors import Rejected

if TYPE_CHECKING:
    from aiogate.config.settings import Settings

__all__ = ["GATEWAY_REFUSED", "HostCheck", "dashboard_caller", "has_admin_secret", "has_secret", "metrics_closed"]

GATEWAY_REFUSED: Final = "Attempted administrative access with invalid or missing key!"
_BEARER: Final = "bearer "


def has_secret(request: web.Request, secret: str) -> bool:
    """Whether the request carries the gateway's secret, in `X-Tyk-Authorization` or as a bearer token."""
    presented = request.headers.get("X-Tyk-Authorization")
    if presented is None:
        authorization = request.headers.get(hdrs.AUTHORIZATION, "")
        if not authorization.lower().startswith(_BEARER):
            return False
        presented = authorization[len(_BEARER) :]
    return bool(secret) and compare_digest(_bytes(presented.strip()), _bytes(secret))


def metrics_closed(settings: Settings) -> bool:
    """Whether `/metrics` asks for the secret: where the settings say so, and on the port that strangers reach."""
    return settings.control.metrics == "secret" or settings.control.listen == "same"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def has_admin_secret(request: web.Request, secret: str) -> bool:
    """Whether the request carries the gateway's secret in `admin-auth`, as for the Admin API."""
    presented = request.headers.get("admin-auth", "")
    return bool(secret) and compare_digest(_bytes(presented.strip()), _bytes(secret))


async def dashboard_caller(request: web.Request, accounts: Accounts) -> Caller:
    """Whose access key the request carries, bare or as a bearer token. Raises `Rejected` 401, and 403 where that user
    has no permission for what is asked.
    """
    presented = request.headers.get(hdrs.AUTHORIZATION, "")
    if presented.lower().startswith(_BEARER):
        presented = presented[len(_BEARER) :]
    caller = await accounts.caller(presented.strip()) if presented.strip() else None
    if caller is None:
        raise Rejected(401, "Not authorised")
    if not may(caller.permissions, _section(request.path), write=request.method not in (hdrs.METH_GET, hdrs.METH_HEAD)):
        raise Rejected(403, f"access denied: You do not have permission to access  {request.path}")
    return caller


def _section(path: str) -> str:
    """What a Dashboard path is about, in the words of `user_permissions`."""
    steps = path.strip("/").split("/")[1:]
    if "keys" in steps[:3] and steps[0] in ("keys", "apis"):
        return "keys"
    return steps[1] if steps[0] == "portal" and len(steps) > 1 else steps[0]


class HostCheck:
    """Refuses a foreign `Host` on a loopback listener, so that a web page cannot reach it by DNS rebinding.

    `listen_hosts` are the configured addresses. A listener that is reachable from other machines is called by names
    that only its operator knows: there every host is accepted.
    """

    __slots__ = ("_names", "_strict")

    def __init__(self, listen_hosts: Collection[str]) -> None:
        self._names = {name.lower().strip("[]") for name in listen_hosts} | {"localhost"}
        self._strict = bool(listen_hosts) and all(_is_loopback(name) for name in self._names)

    def accepts(self, host: str) -> bool:
        """`host` is the header's value, with or without a port."""
        if not self._strict:
            return True
        name = _without_port(host).lower()
        return name in self._names or name.endswith(".localhost") or _is_address(name)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)
