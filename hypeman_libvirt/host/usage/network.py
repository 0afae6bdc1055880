"""What the network interfaces of this host are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse
from hypeman_libvirt.host.usage.rtnetlink import Interface
from hypeman_libvirt.host.usage.sysfs import LocalFiles
from hypeman_libvirt.host.xml.node_tree import is_inside

_SHOWN: Final = 3
_SHARES: Final = frozenset({"ipvlan", "ipvtap", "macvlan", "macvtap"})
"""Kinds that give a guest or a container a share of an interface, without an address here."""


class LocalNetwork:
    """What each interface of this host is for, at one moment."""

    def __init__(self, interfaces: Sequence[Interface], files: LocalFiles) -> None:
        """Find the hardware of the interfaces."""
        self._macs = {interface.mac for interface in interfaces}
        self._pppoe = _list_pppoe(files)
        self._by_index = {interface.index: interface for interface in interfaces}
        self._places = {
            interface.index: files.resolve(f"/sys/class/net/{interface.name}")
            for interface in interfaces
        }

    def list_names(self, directory: str) -> Sequence[str]:
        """Name the interfaces of the PCI device that has this directory in sysfs."""
        return [interface.name for interface in self._list_inside(directory)]

    def list_uses(self, address: PciAddress, directory: str) -> Sequence[HostUse]:
        """Say what the interfaces of that PCI device are for; nothing of those that are idle."""
        described = map(self._describe, self._list_inside(directory))
        return [HostUse(address, what, known=known) for what, known in filter(None, described)]

    def _describe(self, interface: Interface) -> tuple[str, bool] | None:
        """Say what an interface is for, and whether that is known; None when it is idle."""
        roles = self._list_roles(interface)
        if roles:
            return f"{interface.name} {' and '.join(roles)}", True
        shares = [mac for mac in interface.receives if mac not in self._macs]
        if shares:
            receives = ", ".join(shares[:_SHOWN])
            what = f"{interface.name} receives for {receives}, perhaps a macvlan in a container"
            return what, False
        return None

    def _list_inside(self, directory: str) -> Sequence[Interface]:
        return [
            interface
            for index, interface in self._by_index.items()
            if is_inside(self._places[index], directory)
        ]

    def _list_roles(self, interface: Interface) -> Sequence[str]:
        roles = []
        if interface.master is not None:
            roles.append(f"is in {self._name_master(interface.master)}")
        if interface.addresses:
            roles.append(f"has the address {', '.join(interface.addresses[:_SHOWN])}")
        if interface.has_default_route:
            roles.append("has the default route")
        if interface.name in self._pppoe:
            roles.append("carries a PPPoE line")
        return [*roles, *self._list_upper_roles(interface)]

    def _list_upper_roles(self, interface: Interface) -> Sequence[str]:
        uppers = [upper for upper in self._by_index.values() if upper.lower == interface.index]
        return [
            f"carries {upper.name}"
            for upper in uppers
            if upper.kind in _SHARES or self._list_roles(upper)
        ]

    def _name_master(self, index: int) -> str:
        master = self._by_index.get(index)
        return "a bridge or bond" if master is None else f"the {master.kind} {master.name}"


def _list_pppoe(files: LocalFiles) -> frozenset[str]:
    """Name the interfaces that a session of PPP over Ethernet runs on.

    Source: the kernel's drivers/net/ppp/pppoe.c, pppoe_seq_show().
    """
    rows = [line.split() for line in files.text("/proc/net/pppoe").splitlines()[1:]]
    return frozenset(row[-1] for row in rows if row)
