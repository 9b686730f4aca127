"""Decides which addresses fetch may connect to: public ones, and those that the recipe allows (`fetch.allow`).

The tables are IANA's special-purpose registries, plus addresses outside of these at which clouds serve credentials.
`ipaddress.is_global` is not used, as its answers changed between patch releases of Python.
"""

import functools
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_NO_V4 = [
    (IPv4Network(network), kind)
    for network, kind in [
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "private (shared)"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    ]
]

# Of IPv6, only 2000::/3 is assigned to hosts; _NO_V6 lists the exceptions inside it.
_GLOBAL_V6 = IPv6Network("2000::/3")
_NO_V6 = [
    (IPv6Network(network), kind)
    for network, kind in [
        ("2001::/23", "reserved"),  # with Teredo, which carries an IPv4 address
        ("2001:db8::/32", "reserved"),
        ("2002::/16", "reserved"),  # 6to4, which carries an IPv4 address
        ("2620:4f:8000::/48", "reserved"),
        ("3fff::/20", "reserved"),
    ]
]
_NAMED_V6 = [
    (IPv6Network("::1/128"), "loopback"),
    (IPv6Network("fe80::/10"), "link-local"),
    (IPv6Network("fc00::/7"), "private"),
    (IPv6Network("ff00::/8"), "multicast"),
]
# On an IPv6-only machine every IPv4 host appears under this prefix.
_NAT64 = IPv6Network("64:ff9b::/96")


@functools.lru_cache(maxsize=65536)
def blocked(address: Address) -> str | None:
    """Returns why an address is blocked (`loopback`, `private`, …), or None where it is public.

    An IPv6 address that contains an IPv4 address (mapped, NAT64) gets the answer of that IPv4 address.
    """
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _NO_V4 if address in network), None)
    if address.ipv4_mapped:
        return blocked(address.ipv4_mapped)
    if address in _NAT64:
        return blocked(IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _GLOBAL_V6:
        return next((kind for network, kind in _NO_V6 if address in network), None)
    return next((kind for network, kind in _NAMED_V6 if address in network), "reserved")


def opened(allow: Iterable[str]) -> frozenset[tuple[Address, int]]:
    """Returns the recipe's `address:port` entries, parsed; each allows exactly this address and port."""
    pairs = (entry.rpartition(":") for entry in allow)
    return frozenset((ip_address(host.strip("[]")), int(port)) for host, _, port in pairs)
