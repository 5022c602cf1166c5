from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.nodes.egress import EgressPolicy, EgressRefused

CLOSED = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1", "2001::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2606:4700::5efe:7f00:1", "fe80::1%eth0",
]  # fmt: skip


@pytest.mark.parametrize("text", CLOSED)
def test_what_is_not_public_is_refused(text: str) -> None:
    assert not EgressPolicy().permits(ip_address(text))
    with pytest.raises(EgressRefused):
        EgressPolicy().check_host(f"[{text}]" if ":" in text else text)


@pytest.mark.parametrize("text", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_what_is_public_is_permitted(text: str) -> None:
    assert EgressPolicy().permits(ip_address(text))


def test_a_range_opens_private_addresses_but_not_metadata() -> None:
    everything = EgressPolicy(["0.0.0.0/0", "::/0"])
    assert everything.permits(ip_address("127.0.0.1"))
    assert everything.permits(ip_address("::ffff:10.0.0.1"))
    for guarded in ("169.254.169.254", "169.254.1.1", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254"):
        assert not everything.permits(ip_address(guarded))
    listed = EgressPolicy(["169.254.169.254/32"])
    assert listed.permits(ip_address("169.254.169.254"))
    assert not listed.permits(ip_address("169.254.169.253"))
    loopback = EgressPolicy(["127.0.0.0/8"])
    assert loopback.permits(ip_address("::ffff:127.0.0.1"))
    assert not loopback.permits(ip_address("10.0.0.1"))


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "127.0.0.1.", "1.1.1.1.1", "", "[::1%lo]", "0x"],
)
def test_odd_spellings_do_not_slip_through(host: str) -> None:
    with pytest.raises(EgressRefused):
        EgressPolicy().check_host(host)


@pytest.mark.parametrize("host", ["api.example.com", "1.example.com", "1e100.net", "abc", "xn--bcher-kva.example"])
def test_names_wait_for_their_address(host: str) -> None:
    EgressPolicy().check_host(host)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0xFFFF << 32, 0, 0x64FF9B << 96, 0x64FF9B0001 << 80]))
def test_an_embedded_address_is_judged_as_the_address(number: int, prefix: int) -> None:
    if prefix == 0 and number < 2:
        return
    policy = EgressPolicy(["10.0.0.0/8"])
    assert policy.permits(IPv6Address(prefix | number)) == policy.permits(IPv4Address(number))
    assert policy.permits(IPv6Address((0x2002 << 112) | (number << 80))) == policy.permits(IPv4Address(number))


def test_a_malformed_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="300"):
        EgressPolicy(["300.0.0.0/8"])
