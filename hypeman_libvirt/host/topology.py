"""Where a PCI function hangs, without bus numbers, which other cards shift."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import NodeDevice

_SYSFS: Final = "/sys/devices/"
_ADDRESS: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:(?P<place>[0-9a-f]{2}\.[0-7])")
_DEEPEST: Final = 64
"""Bridges above a function; more than PCIe has buses in a row, so that a loop ends."""


def topology_of_path(path: str | None) -> str | None:
    """Turn ``/sys/devices/pci0000:00/0000:00:08.0/0000:02:00.0`` to ``pci0000:00/08.0/00.0``.

    Source: the kernel's device tree; a root bus is named by its host bridge, not by enumeration.
    """
    if path is None or not path.startswith(_SYSFS):
        return None
    parts = path.removeprefix(_SYSFS).split("/")
    if not _ADDRESS.fullmatch(parts[-1]):
        return None
    return "/".join(_place(part) for part in parts)


def topology_by_parents(
    node: NodeDevice, find_named: Callable[[str], NodeDevice | None]
) -> str | None:
    """Go from ``<parent>`` to ``<parent>`` where libvirt gives no path.

    The highest PCI function is taken to be on a root bus.
    """
    places = [_function(node.address)]
    highest = node
    while highest.parent is not None and len(places) < _DEEPEST:
        above = find_named(highest.parent)
        if above is None:
            break
        places.append(_function(above.address))
        highest = above
    root = f"pci{highest.address.domain:04x}:{highest.address.bus:02x}"
    return "/".join([root, *reversed(places)])


def _place(part: str) -> str:
    address = _ADDRESS.fullmatch(part)
    return address["place"] if address else part


def _function(address: PciAddress) -> str:
    return f"{address.slot:02x}.{address.function:x}"
