"""What libvirt says that the host has, and what its active domains took of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import libvirt
from lxml.etree import _Element as Element

from hypeman_libvirt.devices.errors import (
    LibvirtDeniedError,
    LibvirtFailedError,
    NotSupportedError,
)
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.errors import is_gone
from hypeman_libvirt.host.node_devices import NodeDevices
from hypeman_libvirt.host.test_driver import is_test_driver
from hypeman_libvirt.host.xml.document import parse_xml
from hypeman_libvirt.host.xml.domain import DomainXml
from hypeman_libvirt.host.xml.network import parse_network
from hypeman_libvirt.host.xml.node_tree import is_inside
from hypeman_libvirt.resources.model import Guest, HostResources, Network, Platform, StoragePool

_KIB: Final = 1024
_MIB: Final = 1024 * 1024
_MEGABIT: Final = 1_000_000 // 8
_KILOBYTE: Final = 1000
"""Bytes: libvirt hands the figure to tc, whose ``kbps`` are thousands.

Source: https://libvirt.org/formatnetwork.html#quality-of-service; tc(8).
"""
_DEFAULT_NETWORK: Final = "default"
_NOT_A_CARD: Final = "computer"
"""Parent of bridges, bonds and taps in libvirt's tree."""


class ResourceFacts:
    """Reads what the host has over one connection."""

    def __init__(self, connection: Connection, node_devices: NodeDevices) -> None:
        """Ask over this connection; cards from these node devices."""
        self._connection = connection
        self._node_devices = node_devices

    def read(self) -> HostResources:
        """Read all of it."""
        _, mebibytes, cpus, *_ = self._connection.read("getInfo", lambda c: c.getInfo())
        return HostResources(
            cpus=int(cpus),
            memory=int(mebibytes) * _MIB,
            pools=self._read_pools(),
            link_speed=self._read_link_speed(),
            guests=sorted(
                self._connection.read("listAllDomains", lambda c: list(_list_guests(c))),
                key=lambda guest: guest.name,
            ),
        )

    def platform(self) -> Platform:
        """Read the capabilities.

        Source: https://libvirt.org/formatcaps.html
        """
        xml = self._connection.read("getCapabilities", lambda c: c.getCapabilities())
        capabilities = parse_xml(xml)
        arch = capabilities.findtext("host/cpu/arch", "")
        kinds = capabilities.iterfind(f"guest/arch[@name='{arch}']/domain")
        hypervisors = tuple(sorted({each.get("type") or "" for each in kinds}))
        # The test driver invents a CPU; what it runs on is this machine.
        machine = os.uname().machine if is_test_driver(self._connection.uri) else arch
        return Platform(machine, hypervisors, self._read_network())

    def _read_network(self) -> Network | None:
        """Read libvirt's network ``default``, which new domains are on unless they name another.

        None where there is no driver or daemon for networks, or no right to read them.
        """
        try:
            xml = self._connection.read_part("networkLookupByName", _describe_default_network)
        except (NotSupportedError, LibvirtDeniedError):
            return None
        return parse_network(xml) if xml else None

    def _read_pools(self) -> Sequence[StoragePool] | None:
        """Read storage pools; None where there is no driver or daemon, or no right to read them."""
        try:
            return self._connection.read_part("listAllStoragePools", lambda c: list(_list_pools(c)))
        except (NotSupportedError, LibvirtDeniedError):
            return None

    def _read_link_speed(self) -> int | None:
        """Add up cards whose link is up; a virtual function shares the link of its card."""
        cards = self._node_devices.list_devices()
        virtual = [each.path for each in cards if each.physical_function]
        try:
            nodes = self._node_devices.list_tree(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET)
        except LibvirtFailedError:
            return None
        speeds = [
            node.link_speed
            for node in nodes
            if node.link == "up"
            and node.link_speed is not None
            and node.parent != _NOT_A_CARD
            and not any(is_inside(node.path, path) for path in virtual)
        ]
        return sum(speeds) * _MEGABIT if speeds else None


def _describe_default_network(connection: libvirt.virConnect) -> str | None:
    try:
        return connection.networkLookupByName(_DEFAULT_NETWORK).XMLDesc(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise


def _list_pools(connection: libvirt.virConnect) -> Iterator[StoragePool]:
    for pool in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        try:
            _, capacity, allocation, available = pool.info()
            kind = parse_xml(pool.XMLDesc(0)).get("type") or ""
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                raise
        else:
            yield StoragePool(kind, capacity, allocation, available)


def _list_guests(connection: libvirt.virConnect) -> Iterator[Guest]:
    for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        try:
            info, xml = domain.info(), DomainXml(domain.XMLDesc(0))
        except libvirt.libvirtError as error:
            if not is_gone(error):
                raise
        else:
            yield _describe(domain, info, xml)


def _describe(domain: libvirt.virDomain, info: Sequence[int], xml: DomainXml) -> Guest:
    """Describe a guest.

    Source: virDomainGetInfo(): state, most memory, memory (KiB), virtual CPUs, CPU time.
    """
    return Guest(
        name=domain.name(),
        instance=xml.instance_id or domain.UUIDString(),
        cpus=info[3],
        memory=info[2] * _KIB,
        download=_bandwidth(xml.root, "inbound"),
        upload=_bandwidth(xml.root, "outbound"),
    )


def _bandwidth(domain: Element, direction: str) -> int | None:
    limits = domain.findall(f"devices/interface/bandwidth/{direction}[@average]")
    return sum(int(each.get("average") or 0) for each in limits) * _KILOBYTE if limits else None
