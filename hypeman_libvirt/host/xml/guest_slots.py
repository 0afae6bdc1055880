"""Slots of a guest that a device can be attached to.

Source: libvirt's docs/pci-hotplug.rst.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Final

from lxml.etree import _Element as Element

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.host.xml.document import read_address
from hypeman_libvirt.host.xml.domain import DomainXml, build_hostdev, build_mdev_hostdev

_CONTROLLERS: Final = "devices/controller[@type='pci']"
_ROOT_PORTS: Final = "devices/controller[@type='pci'][@model='pcie-root-port']"
_PCI_ROOT: Final = "devices/controller[@type='pci'][@model='pci-root']"
_TAKEN: Final = "devices/*/address[@type='pci']"
_FIRST_PCI_SLOT: Final = 2
"""On pci.0 slot 0 is the host bridge, slot 1 the ISA bridge."""
_PROPOSED_SLOTS: Final = range(0x10, 0x1C)
"""Free on the root bus of most q35 and i440fx guests."""


def build_hostdevs(
    devices: Sequence[HostDeviceId],
    definition: DomainXml | None = None,
    unmanaged: Collection[HostDeviceId] = (),
) -> Sequence[str]:
    """Write ``<hostdev>`` elements; functions of one host slot become functions of one guest slot.

    Args:
        devices: On the host.
        definition: Of the domain for its next start, to find a free slot in; without one the
            slot is a proposal.
        unmanaged: Those that stay on their driver.
    """
    slots = _propose_slots() if definition is None else _list_cold_slots(definition)
    elements = [build_mdev_hostdev(each) for each in devices if isinstance(each, MdevUuid)]
    addresses = sorted(each for each in devices if isinstance(each, PciAddress))
    for _, functions in groupby(addresses, key=_slot):
        together = list(functions)
        if len(together) == 1:
            elements.append(build_hostdev(together[0], managed=together[0] not in unmanaged))
        else:
            elements.extend(_build_together(together, next(slots, None), unmanaged))
    return elements


def list_hot_slots(live: DomainXml) -> Iterator[PciAddress]:
    """List the free root ports of a running domain, each of which takes one device.

    libvirt finds one by itself for a PCI Express function only. A conventional one, such as the
    audio function of a GPU may be, goes there as well if its XML says so.
    """
    taken = {_slot(read_address(each)) for each in live.root.iterfind(_TAKEN)}
    ports = (_port_slot(port) for port in live.root.iterfind(_ROOT_PORTS) if _takes_hotplug(port))
    return (slot for slot in ports if _slot(slot) not in taken)


def shares_slot(live: DomainXml, address: HostDeviceId) -> bool:
    """Whether the device is one of several functions in its guest slot.

    libvirt refuses to unplug such a device.
    """
    held = live.find(address)
    if held is None or held.guest_address is None:
        return False
    slot = _slot(held.guest_address)
    taken = [_slot(read_address(each)) for each in live.root.iterfind(_TAKEN)]
    return taken.count(slot) > 1


def _build_together(
    functions: Sequence[PciAddress], slot: PciAddress | None, unmanaged: Collection[HostDeviceId]
) -> Iterator[str]:
    """Write the functions as they are on the host; a guest finds none in a slot without a 0."""
    numbers = [each.function for each in functions]
    if 0 not in numbers:
        numbers = list(range(len(functions)))
    for address, number in zip(functions, numbers, strict=True):
        guest = None if slot is None else PciAddress(slot.domain, slot.bus, slot.slot, number)
        managed = address not in unmanaged
        yield build_hostdev(address, guest, managed=managed, multifunction=number == 0)


def _propose_slots() -> Iterator[PciAddress]:
    return (PciAddress(0, 0, slot, 0) for slot in _PROPOSED_SLOTS)


def _list_cold_slots(definition: DomainXml) -> Iterator[PciAddress]:
    """List free slots for the next start; none where the definition shows no PCI controllers."""
    taken = {_slot(read_address(each)) for each in definition.root.iterfind(_TAKEN)}
    return (slot for slot in _list_slots(definition) if _slot(slot) not in taken)


def _list_slots(definition: DomainXml) -> Iterator[PciAddress]:
    """List slots for devices; libvirt adds the root ports that a definition only speaks of."""
    controllers = definition.root.findall(_CONTROLLERS)
    if definition.root.find(_PCI_ROOT) is not None:
        yield from (PciAddress(0, 0, slot, 0) for slot in range(_FIRST_PCI_SLOT, 0x20))
    elif controllers:
        for port in definition.root.iterfind(_ROOT_PORTS):
            yield _port_slot(port)
        new = 1 + max(int(each.get("index") or 0) for each in controllers)
        yield from (PciAddress(0, bus, 0, 0) for bus in range(new, 0x100))


def _port_slot(port: Element) -> PciAddress:
    """Return the one slot behind a root port: its index is the number of the bus."""
    return PciAddress(0, int(port.get("index") or 0), 0, 0)


def _takes_hotplug(port: Element) -> bool:
    target = port.find("target")
    return target is None or target.get("hotplug") != "off"


def _slot(address: PciAddress) -> tuple[int, int, int]:
    return (address.domain, address.bus, address.slot)
