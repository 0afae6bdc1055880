"""The console of this host: the display that the firmware chose, and keyboards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse
from hypeman_libvirt.host.usage.sysfs import LocalFiles
from hypeman_libvirt.host.xml.node_tree import is_inside

_INPUTS: Final = "/sys/class/input"
_TYPEWRITER: Final = 0xFFFFFFFE
"""Keys 1 to 31, escape to D: who has them all is a keyboard, not a power button.

Source: systemd's src/udev/udev-builtin-input_id.c, test_key().
"""


def list_console_uses(files: LocalFiles, address: PciAddress, directory: str) -> Sequence[HostUse]:
    """Say what of the console lies on the PCI device that has this directory in sysfs.

    Source: the kernel's Documentation/ABI/testing/sysfs-bus-pci, boot_vga.
    """
    is_boot_vga = files.text(f"{directory}/boot_vga") == "1"
    whats = ["it is the boot VGA"] if is_boot_vga else []
    whats += [f"the keyboard {name} is on it" for name in _list_keyboards(files, directory)]
    return [HostUse(address, what) for what in whats]


def _list_keyboards(files: LocalFiles, directory: str) -> Sequence[str]:
    names = [name for name in files.names(_INPUTS) if name.startswith("input")]
    return [
        files.text(f"{_INPUTS}/{name}/name") or name
        for name in names
        if is_inside(files.resolve(f"{_INPUTS}/{name}"), directory)
        and _is_keyboard(files.text(f"{_INPUTS}/{name}/capabilities/key"))
    ]


def _is_keyboard(keys: str) -> bool:
    """Read the bitmap of keys: words in hex, the lowest last."""
    lowest = int((keys.split() or ["0"])[-1], 16)
    return lowest & _TYPEWRITER == _TYPEWRITER
