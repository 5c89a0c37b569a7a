"""Which names and addresses mean this machine alone."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address


def is_loopback(host: str) -> bool:
    """Whether only this machine can be reached, or speaks, under that name or address; `[::1]` may stand in its brackets."""
    name = host.removeprefix("[").removesuffix("]").lower()
    try:
        address = ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761: no resolver may lead them elsewhere
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback
