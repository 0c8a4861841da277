"""Let only some addresses in, or keep some out.

    plugins:
      - ip_filter: {allow: [10.0.0.0/8, 2001:db8::/32], deny: [10.0.0.13]}

The address is the client's: behind `trusted_proxies` the one that they vouch for, otherwise the socket's other end. It
is decided before authentication, as in Tyk. `deny` goes before `allow`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from aiogate import PROBLEMS, BuildContext, Exchange, Middleware, MiddlewareKind, Model, Problem, Stage, hookimpl

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _parse_network(value: Any) -> Network:
    if not isinstance(value, str):
        raise ValueError("should be an address or a network, such as `10.0.0.0/8`")
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        raise PydanticCustomError("invalid_value", "is not a network", {"hint": _meant(value), "show": True}) from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        # Clients' addresses are compared without the mapping, so a mapped network would never match.
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _meant(text: str) -> str:
    """The hint for what is no network: the network that it lies in, where bits are set behind its prefix."""
    try:
        return f"did you mean `{ipaddress.ip_network(text, strict=False)}`?"
    except ValueError:
        return "such as `10.0.0.0/8` or `::1`"


_Networks = tuple[Annotated[Any, BeforeValidator(_parse_network)], ...]


class Config(Model):
    """Addresses and networks. Without `allow` everybody may come who is not in `deny`."""

    allow: _Networks | None = None
    deny: _Networks | None = None

    @model_validator(mode="after")
    def _some(self) -> Config:
        if not self.allow and not self.deny:
            raise ValueError("needs an address under `allow` or `deny`")
        if self.allow == ():
            raise ValueError("`allow` is empty; leave it out to allow everybody")
        return self


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("ip_filter", Stage.VERSION, Config, build, "lets addresses in, or keeps them out")


def build(config: Config, context: BuildContext) -> Middleware:
    allow, deny = config.allow, config.deny or ()
    refusal = PROBLEMS["ip_denied"]

    def check(exchange: Exchange) -> Problem | None:
        try:
            address = ipaddress.ip_address(exchange.client_ip)
        except ValueError:
            return refusal.because(f"the client's address is not known: {exchange.client_ip!r}")
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        found = _containing(deny, address)
        if found is not None:
            return refusal.because(f"{address} is denied by {found}")
        if allow is not None and _containing(allow, address) is None:
            return refusal.because(f"{address} is in none of the {len(allow)} allowed networks")
        return None

    return Middleware(on_request=check)


def _containing(networks: Sequence[Network], address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Network | None:
    for network in networks:
        if address in network:
            return network
    return None
