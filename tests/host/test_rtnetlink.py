from __future__ import annotations

from collections.abc import Mapping, Sequence
from socket import AF_BRIDGE
from types import TracebackType
from typing import Self

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from hypeman_libvirt.host.usage.rtnetlink import Interface, read_interfaces


class Message(dict[str, object]):
    """A netlink message as pyroute2 decodes it: header fields, and attributes by name."""

    def __init__(self, header: Mapping[str, object], **attributes: object) -> None:
        super().__init__(header)
        self._attributes = attributes

    def get_attr(self, name: str) -> object:
        return self._attributes.get(name)


class Netlink:
    """Answers the four questions, or refuses."""

    def __init__(
        self,
        links: Sequence[Message] = (),
        addresses: Sequence[Message] = (),
        routes: Sequence[Message] = (),
        error: Exception | None = None,
        filters: Sequence[Message] = (),
    ) -> None:
        self._links, self._addresses, self._routes = links, addresses, routes
        self._error = error
        self._filters = filters

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def get_links(self) -> Sequence[Message]:
        if self._error is not None:
            raise self._error
        return self._links

    def get_addr(self) -> Sequence[Message]:
        return self._addresses

    def get_routes(self) -> Sequence[Message]:
        return self._routes

    def get_neighbours(self, *, family: int) -> Sequence[Message]:
        assert family == AF_BRIDGE
        return self._filters


def link(index: int, **attributes: object) -> Message:
    return Message({"index": index}, IFLA_IFNAME=f"if{index}", **attributes)


def address(index: int, **attributes: object) -> Message:
    return Message({"index": index}, **attributes)


def route(prefix: int = 0, kind: int = 1, **attributes: object) -> Message:
    return Message({"dst_len": prefix, "type": kind}, **attributes)


def read(netlink: Netlink) -> Sequence[Interface]:
    return read_interfaces(lambda: netlink)


def test_this_machine_has_a_loopback_interface_with_its_address() -> None:
    loopback = next(interface for interface in read_interfaces() if interface.name == "lo")
    assert "127.0.0.1" in loopback.addresses
    assert not loopback.has_default_route


def test_the_address_that_the_kernel_gives_to_every_link_does_not_count() -> None:
    given = [
        address(2, IFA_ADDRESS="fe80::1"),
        address(2, IFA_ADDRESS="2001:db8::1"),
        address(2, IFA_ADDRESS="169.254.0.7"),
    ]
    (interface,) = read(Netlink([link(2)], given))
    assert interface.addresses == ("2001:db8::1", "169.254.0.7")


def test_of_a_point_to_point_link_the_own_address_is_told() -> None:
    given = [address(2, IFA_LOCAL="10.0.0.1", IFA_ADDRESS="10.0.0.2")]
    assert read(Netlink([link(2)], given))[0].addresses == ("10.0.0.1",)


def test_master_kind_and_lower_interface_are_told() -> None:
    kind = Message({}, IFLA_INFO_KIND="vlan")
    (interface,) = read(Netlink([link(4, IFLA_LINKINFO=kind, IFLA_MASTER=7, IFLA_LINK=2)]))
    assert interface == Interface(4, "if4", kind="vlan", master=7, lower=2)


def test_an_index_of_another_namespace_is_not_taken_for_one_of_ours() -> None:
    (interface,) = read(Netlink([link(4, IFLA_LINK=2, IFLA_LINK_NETNSID=0)]))
    assert interface.lower is None


def test_a_default_route_is_found_with_one_hop_or_with_several() -> None:
    routes = [
        route(RTA_OIF=2),
        route(RTA_MULTIPATH=[{"oif": 3}, {"oif": 4}]),
        route(prefix=24, RTA_OIF=5),
        route(kind=7, RTA_OIF=6),
    ]
    found = read(Netlink([link(index) for index in range(2, 7)], routes=routes))
    assert [interface.index for interface in found if interface.has_default_route] == [2, 3, 4]


def test_an_interface_says_which_other_stations_it_receives_for() -> None:
    filters = [
        Message({"ifindex": 2, "flags": 2}, NDA_LLADDR="02:42:ac:11:00:02"),
        Message({"ifindex": 2, "flags": 2}, NDA_LLADDR="33:33:00:00:00:01"),
        Message({"ifindex": 2, "flags": 4}, NDA_LLADDR="02:00:00:00:00:09"),
        Message({"ifindex": 2, "flags": 2}),
    ]
    (interface,) = read(Netlink([link(2, IFLA_ADDRESS="52:54:00:00:00:01")], filters=filters))
    assert interface.mac == "52:54:00:00:00:01"
    assert interface.receives == ("02:42:ac:11:00:02",)


def test_a_refusal_of_the_kernel_is_an_os_error() -> None:
    with pytest.raises(OSError, match="not permitted"):
        read(Netlink(error=NetlinkError(1, "not permitted")))
