"""Advice of preflight: what does not stop an attach, and may stop or slow down the guest.

None of these is an error: libvirt accepts the device, and only the guest shows what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.model import Check
from hypeman_libvirt.devices.snapshot import Snapshot
from hypeman_libvirt.devices.surroundings import GuestMachine, Surroundings

_GIB: Final = 1 << 30
_DEFAULT_HOLE: Final = {"q35": 32 * _GIB, "i440fx": 2 * _GIB}
"""Source: QEMU's Q35_PCI_HOST_HOLE64_SIZE_DEFAULT and I440FX_PCI_HOST_HOLE64_SIZE_DEFAULT."""
_DEFAULT_BITS: Final = 40
"""Of a CPU model that is not the host's. Source: QEMU's TCG_PHYS_ADDR_BITS."""
_OVERHEAD: Final = _GIB
"""What VFIO locks besides the memory. Source: libvirt's qemuDomainGetMemLockLimitBytes()."""


def inspect(snapshot: Snapshot, surroundings: Surroundings) -> Sequence[Check]:
    """Give every piece of advice about a device that is there."""
    if snapshot.node is None:
        return []
    asked = _OF_ATTACH if snapshot.purpose == "attach" else _OF_BIND
    return [check(snapshot, surroundings) for check in asked]


def check_reset(snapshot: Snapshot, surroundings: Surroundings) -> Check:
    """Between two guests a function is reset, by itself or with all that is on its bus."""
    taken = {node.address for node in snapshot.taking}
    for node in snapshot.taking:
        hardware = surroundings.hardware.get(node.address)
        methods = hardware.reset_methods if hardware else None
        if hardware is None or methods is None:
            continue
        if not methods:
            return Check(
                "reset",
                "warning",
                f"the kernel has no way to reset {node.address}: a guest leaves its state behind",
                "power the host off and on between guests that do not trust each other",
            )
        others = [each for each in hardware.bus_members if each not in taken]
        if set(methods) <= {"bus", "cxl_bus"} and others:
            return Check(
                "reset",
                "warning",
                f"{node.address} is reset with its whole bus alone, and {_join(others)} on it "
                "would stay behind",
                "give them to the same guest, or it is not reset between guests",
            )
    return Check("reset", "ok", "each function can be reset, or nobody says that it cannot")


def check_mmio(snapshot: Snapshot, surroundings: Surroundings) -> Check:
    """The BARs of all devices must fit above the guest's memory, and below the end of addresses."""
    guest = surroundings.guest
    addresses = {*surroundings.held, *(node.address for node in snapshot.taking)}
    sizes = [
        size
        for address in addresses
        if address in surroundings.hardware
        for size in surroundings.hardware[address].memory_windows
    ]
    needed = _window(sizes)
    if guest is None or guest.chipset is None or not needed:
        return Check("mmio", "ok", "nothing is known that would not fit")
    hole = guest.pci_hole or _DEFAULT_HOLE[guest.chipset]
    total = f"the BARs of {len(addresses)} function(s) need {_gib(needed)}"
    if needed > hole and (guest.pci_hole is not None or not guest.has_host_address_bits):
        return Check(
            "mmio",
            "warning",
            f"{total}, and the guest has {_gib(hole)} for them",
            f"set <pcihole64 unit='GiB'>{_round_up(needed) // _GIB}</pcihole64> in its pcie-root "
            "controller and <cpu mode='host-passthrough'><maxphysaddr mode='passthrough'/></cpu>",
        )
    bits = _address_bits(guest)
    if bits is not None and guest.memory + max(needed, hole) > 1 << bits:
        return Check(
            "mmio",
            "warning",
            f"{total}, which does not fit with {_gib(guest.memory)} of memory into {bits} address "
            "bits",
            "set <cpu mode='host-passthrough'><maxphysaddr mode='passthrough'/></cpu>",
        )
    return Check("mmio", "ok", f"{total}, which fit")


def check_memlock(snapshot: Snapshot, surroundings: Surroundings) -> Check:
    """VFIO locks all memory of the guest; with an IOMMU of its own, once for each device."""
    guest = surroundings.guest
    if guest is None:
        return Check("memlock", "ok", "no domain is asked about")
    devices = len({*surroundings.held, *(node.address for node in snapshot.taking)})
    times = devices if guest.has_iommu else 1
    needed = guest.memory * times + _OVERHEAD
    if guest.hard_limit is not None and guest.hard_limit < needed:
        return Check(
            "memlock",
            "warning",
            f"the domain may lock {_gib(guest.hard_limit)}, and VFIO locks {_gib(needed)}",
            f"raise <memtune><hard_limit> to {_gib(needed)}, or take it out: libvirt knows it",
        )
    if guest.unprivileged:
        return Check(
            "memlock",
            "warning",
            f"VFIO locks {_gib(needed)}, and a libvirt session cannot raise its limit",
            "raise memlock of its user in /etc/security/limits.d, or use qemu:///system",
        )
    return Check("memlock", "ok", "libvirt lets it lock what VFIO needs")


def check_fabric(snapshot: Snapshot, surroundings: Surroundings) -> Check:
    """GPUs on NVSwitches find each other through all of them: a part needs Fabric Manager.

    Source: NVIDIA Fabric Manager User Guide, virtualization models.
    """
    members = {node.address for node in surroundings.fabric}
    concerned = [node for node in snapshot.taking if node.address in members]
    taken = {*surroundings.held, *(node.address for node in snapshot.taking)}
    left = [node for node in surroundings.fabric if node.address not in taken]
    if not concerned or not left:
        return Check("nvswitch", "ok", "no NVSwitch joins it with what the guest does not have")
    return Check(
        "nvswitch",
        "warning",
        f"NVSwitches join {concerned[0].address} with {_join([each.address for each in left])}, "
        "which the guest does not have",
        "give all GPUs and NVSwitches of the board to one guest, or run Fabric Manager on the host "
        "and give GPUs alone, by its partitions",
    )


def _window(sizes: Sequence[int]) -> int:
    """Return the bytes that BARs take, each at a multiple of its size: the largest first."""
    total = sum(sizes)
    largest = max(sizes, default=0)
    return -(-total // largest) * largest if largest else 0


def _address_bits(guest: GuestMachine) -> int | None:
    if guest.has_host_address_bits:
        return guest.address_bits
    return guest.address_bits or _DEFAULT_BITS


def _round_up(size: int) -> int:
    """Return the next power of two."""
    return 1 << (size - 1).bit_length()


def _gib(size: int) -> str:
    return f"{size / _GIB:g} GiB" if size >= _GIB else f"{size >> 20} MiB"


def _join(addresses: Sequence[PciAddress]) -> str:
    return ", ".join(map(str, sorted(addresses)))


_Advice = Callable[[Snapshot, Surroundings], Check]
_OF_BIND: Final[Sequence[_Advice]] = (check_reset,)
_OF_ATTACH: Final[Sequence[_Advice]] = (check_reset, check_mmio, check_memlock, check_fabric)
