"""Network interfaces, as the kernel reports them over rtnetlink."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_BRIDGE
from typing import Any, Final, TypeAlias

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_RTN_UNICAST: Final = 1
_NTF_SELF: Final = 2

_Netlink: TypeAlias = Any
"""pyroute2's socket; it has no types."""

_Message: TypeAlias = Any
"""A netlink message, as pyroute2 decodes it."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface as rtnetlink reports it.

    Attributes:
        index: Unique in the network namespace.
        name: Such as ``eth0``.
        kind: ``bridge``, ``bond``, ``vlan``, …; None for hardware.
        master: Index of the bridge, bond or other that it is a port of.
        lower: Index of the interface that it is made on, as a VLAN is.
        addresses: IP addresses, without link-local ones of IPv6.
        has_default_route: Of IPv4 or IPv6, in any table.
        mac: Its own link address; None without.
        receives: Other link addresses that it takes frames for, as below a macvlan that is up.

    Source: rtnetlink(7).
    """

    index: int
    name: str
    kind: str | None = None
    master: int | None = None
    lower: int | None = None
    addresses: tuple[str, ...] = ()
    has_default_route: bool = False
    mac: str | None = None
    receives: tuple[str, ...] = ()


def read_interfaces(open_netlink: Callable[[], _Netlink] = IPRoute) -> Sequence[Interface]:
    """Ask the kernel for the interfaces of this network namespace.

    An IPv6 link-local address does not count: the kernel gives one to every link that is up.

    Raises:
        OSError: The kernel does not answer, or a sandbox forbids to ask.
    """
    try:
        with open_netlink() as netlink:
            links = list(netlink.get_links())
            addresses = _group_addresses(netlink.get_addr())
            routed = _list_default_routed(netlink.get_routes())
            filters = _group_filters(netlink.get_neighbours(family=AF_BRIDGE))
    except NetlinkError as error:
        raise OSError(*error.args) from error
    return [_make_interface(link, addresses, routed, filters) for link in links]


def _make_interface(
    link: _Message,
    addresses: Mapping[int, Sequence[str]],
    routed: Collection[int],
    filters: Mapping[int, Sequence[str]],
) -> Interface:
    index: int = link["index"]
    information = link.get_attr("IFLA_LINKINFO")
    lies_elsewhere = link.get_attr("IFLA_LINK_NETNSID") is not None
    return Interface(
        index=index,
        name=link.get_attr("IFLA_IFNAME"),
        kind=information.get_attr("IFLA_INFO_KIND") if information is not None else None,
        master=link.get_attr("IFLA_MASTER"),
        lower=None if lies_elsewhere else link.get_attr("IFLA_LINK"),
        addresses=tuple(addresses.get(index, ())),
        has_default_route=index in routed,
        mac=link.get_attr("IFLA_ADDRESS"),
        receives=tuple(filters.get(index, ())),
    )


def _group_addresses(messages: Iterable[_Message]) -> Mapping[int, Sequence[str]]:
    grouped: dict[int, list[str]] = {}
    for message in messages:
        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if not _is_automatic(address):
            grouped.setdefault(message["index"], []).append(address)
    return grouped


def _group_filters(messages: Iterable[_Message]) -> Mapping[int, Sequence[str]]:
    """Return the unicast addresses in the filter of each interface.

    Source: the kernel's ndo_dflt_fdb_dump(), and macvlan_open(), which adds one.
    """
    grouped: dict[int, list[str]] = {}
    for message in messages:
        address = message.get_attr("NDA_LLADDR")
        if address and message["flags"] & _NTF_SELF and not int(address[:2], 16) & 1:
            grouped.setdefault(message["ifindex"], []).append(address)
    return grouped


def _is_automatic(address: str) -> bool:
    parsed = ip_address(address)
    return parsed.version == 6 and parsed.is_link_local  # noqa: PLR2004 - the version's name


def _list_default_routed(messages: Iterable[_Message]) -> frozenset[int]:
    """Return the indexes of interfaces that a default route of any table leaves by."""
    indexes: set[int] = set()
    for route in messages:
        if route["dst_len"] == 0 and route["type"] == _RTN_UNICAST:
            indexes.update(hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ())
            indexes.update(filter(None, [route.get_attr("RTA_OIF")]))
    return frozenset(indexes)
