"""Which addresses a definition may lead to that came over HTTP: a gateway must not become a way into its own machine.

A file in `apis.d/` is the operator's word and may name any address. What was written through the control API may not
lead to link-local addresses (where clouds keep their metadata), to the control port, or, where the settings say so, to
private networks. A name is judged by what it resolves to, when it is saved and again when it is connected to.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

__all__ = ["forbidden_address", "forbidden_host", "is_listener"]

_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    # AWS, Google, Azure and others share the first, which is link-local anyway.
    for text in ("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")
)
_METADATA_NAMES: Final = frozenset(
    ("metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal")
)
_TRANSLATED: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("2002::/16"))
_NUMBER: Final = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)", re.ASCII)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def forbidden_address(text: str, *, private: bool = True) -> str:
    """Why an address may not be reached, or nothing. `private`: whether private and loopback addresses may.

    A text that is no address is nobody's address and is refused as well.
    """
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return f"{text} is no address"
    inner = _inside(address)
    if inner is not None:
        return forbidden_address(str(inner), private=private)
    if address in _METADATA:
        return f"{text} is where a cloud keeps its metadata"
    if address.is_link_local:
        return f"{text} is a link-local address"
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        return f"{text} is no address of one machine"
    if not private and (address.is_private or address.is_loopback or address.is_reserved):
        return f"{text} is a private address"
    return ""


def _inside(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _TRANSLATED[0]:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour if address in _TRANSLATED[1] else None


def forbidden_host(host: str, *, private: bool = True) -> str:
    """Why a host, as it stands in a URL (IPv6 without brackets), may not be reached, or nothing.

    A host that ends in a number is an IPv4 address to some resolvers (`2130706433`, `0x7f.1`): only the usual spelling
    is taken. A name is not resolved here.
    """
    name = host.rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if _NUMBER.fullmatch(name.rpartition(".")[2]) is not None:
            return f"{host} is an address in an unusual spelling"
        if name in _METADATA_NAMES:
            return f"{host} is where a cloud keeps its metadata"
        if not private and (name == "localhost" or name.endswith(".localhost")):
            return f"{host} is this machine"
        return ""
    return forbidden_address(name, private=private)


def is_listener(text: str, port: int, listener: tuple[str, int]) -> bool:
    """Whether connecting to this address and port could reach a listener, given as the address and port it is bound to.

    A listener on every interface is reached by every address of the machine, and which those are is not known: then any
    loopback or private address counts.
    """
    try:
        address, bound = ipaddress.ip_address(text.partition("%")[0]), ipaddress.ip_address(listener[0])
    except ValueError:
        return False
    address = _inside(address) or address
    if port != listener[1]:
        return False
    if bound.is_unspecified:
        return address.is_loopback or address.is_private or address.is_unspecified
    return address == bound or address.is_unspecified or (address.is_loopback and bound.is_loopback)
