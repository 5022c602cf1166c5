"""Which addresses outgoing calls may reach.

The rule is applied to addresses, never to names: a name is resolved once, and the connection goes to an address that
was checked. So neither a hostile DNS answer nor an odd spelling of an address gets further than a plain one.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from core.errors import ErrorClass, StepError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_GUARDED = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds
        "fe80::/10",
        "fd00:ec2::/32",  # AWS metadata over IPv6
        "fd20:ce::/32",  # GCP metadata over IPv6
        "100.100.100.200/32",  # Alibaba metadata
        "192.0.0.192/32",  # Oracle metadata
        "168.63.129.16/32",  # Azure wire server: a public address that is none
    )
)
_CLOSED = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "2001::/32",  # Teredo: hides an IPv4 address that we do not unpack
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "100::/64",
    )
)
_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
_NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)")


class EgressRefused(StepError):
    """The policy forbids this destination; no byte was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorClass.POLICY, message)


class EgressPolicy:
    """Public addresses, and whatever else is allowed.

    Args:
        allow: address ranges that may be reached although they are private (`127.0.0.0/8`). Link-local and metadata
            addresses open only to a range that lies within theirs: `0.0.0.0/0` does not reach them.

    Raises:
        ValueError: a range is malformed.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._allow: tuple[Network, ...] = tuple(ip_network(text.strip()) for text in allow)

    def permits(self, address: Address) -> bool:
        """Whether a connection to this address is allowed, whatever form the address hides in."""
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        target = embedded(address)
        containing = [network for network in self._allow if _within(target, network) or _within(address, network)]
        guards = [network for network in _GUARDED if _within(target, network)]
        if guards:
            return any(_inside(network, guard) for network in containing for guard in guards)
        return bool(containing) or _public(target)

    def check_host(self, host: str) -> None:
        """Refuse what can be refused before a name is resolved.

        Raises:
            EgressRefused: a forbidden address, or an address in another spelling than the usual one.
        """
        bare = host.strip("[]").rstrip(".")
        try:
            address = ip_address(bare)
        except ValueError:
            last = bare.rpartition(".")[2]
            if not bare or "%" in bare or ":" in bare or _NUMERIC_LABEL.fullmatch(last):
                message = f"The host {host[:100]!r} is not allowed: write an IP address in its usual form."
                raise EgressRefused(message) from None
        else:
            self.check_address(address, host)

    def check_address(self, address: Address, host: str) -> None:
        """Raise EgressRefused when the policy forbids the address that `host` stands for."""
        if not self.permits(address):
            raise EgressRefused(
                f"Calls to {host[:100]} are not allowed: its address is private, link-local or reserved. "
                "REFLUX_EGRESS_ALLOW lists ranges that may be reached."
            )


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to (mapped, compatible, NAT64, 6to4, ISATAP), or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    number = int(address)
    low = IPv4Address(number & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    isatap = (number >> 32) & 0xFDFF_FFFF == 0x0000_5EFE
    compatible = number >> 32 == 0 and number > 1
    if isatap or compatible or any(address in network for network in _NAT64):
        return low
    return address


def _public(address: Address) -> bool:
    if address.is_multicast or address.is_unspecified or address.is_reserved or not address.is_global:
        return False
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    return not any(_within(address, network) for network in _CLOSED)


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _inside(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
