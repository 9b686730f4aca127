import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.fetch.http.addresses import blocked, opened

BLOCKED = """
0.0.0.0 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.255 168.63.129.16 169.254.169.254
169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.168.1.1 198.18.0.1 224.0.0.1 239.255.255.250
240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1::
2002:c0a8:101::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fec0::1 ff02::1
"""

PUBLIC = """
1.1.1.1 8.8.8.8 93.184.216.34 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 192.167.255.255
223.255.255.255 ::ffff:8.8.8.8 64:ff9b::808:808 2606:4700:4700::1111 2a00:1450:4001::1 2003::1
"""


@pytest.mark.parametrize("address", BLOCKED.split())
def test_blocked(address):
    assert blocked(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public(address):
    assert blocked(ipaddress.ip_address(address)) is None


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_that_python_calls_special_is_open(address):
    # The standard library's own tables are the oracle, in the direction in which a mistake would hurt.
    special = not address.is_global or address.is_multicast or address.is_reserved
    nat64 = address.version == 6 and address in ipaddress.ip_network("64:ff9b::/96")
    if special and not nat64 and not getattr(address, "ipv4_mapped", None):
        assert blocked(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_however_it_is_written(address):
    assert blocked(ipaddress.IPv6Address(f"::ffff:{address}")) == blocked(address)
    assert blocked(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + int(address))) == blocked(address)


def test_opened_pairs():
    pairs = opened(["127.0.0.1:8123", "[::1]:80"])
    assert pairs == {(ipaddress.ip_address("127.0.0.1"), 8123), (ipaddress.ip_address("::1"), 80)}
