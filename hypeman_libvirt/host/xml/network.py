"""libvirt's XML of a virtual network: whether guests meet on it, and where the host is.

Source: https://libvirt.org/formatnetwork.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Final

from lxml.etree import _Element as Element

from hypeman_libvirt.host.xml.document import parse_xml
from hypeman_libvirt.resources.model import Network

_APART: Final = frozenset({"private", "vepa", "passthrough", "hostdev"})
"""Modes in which each guest has a port of a card, and what it sends leaves by that."""


def parse_network(xml: str) -> Network:
    """Read what ``virNetworkGetXMLDesc()`` returned.

    Raises:
        LibvirtFailedError: The document is not well-formed.
    """
    network = parse_xml(xml)
    forward, isolated = network.find("forward"), network.find("port[@isolated='yes']")
    mode = "isolated" if forward is None else forward.get("mode", "nat")
    joins_guests = mode not in _APART and isolated is None
    address = next(_read_addresses(network), None)
    if address is None:
        return Network(joins_guests)
    return Network(joins_guests, gateway=str(address.ip), subnet=str(address.network))


def _read_addresses(network: Element) -> Iterator[IPv4Interface | IPv6Interface]:
    for ip in network.iterfind("ip[@address]"):
        length = ip.get("prefix") or ip.get("netmask")
        with suppress(ValueError):
            yield ip_interface(f"{ip.get('address')}/{length}")
