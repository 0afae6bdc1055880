"""What preflight's advice looks at besides the snapshot: hardware, and the guest's machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import NodeDevice

Chipset: TypeAlias = Literal["q35", "i440fx"]


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the host's kernel shows of a function.

    Attributes:
        memory_windows: Sizes in bytes of its 64-bit prefetchable BARs, which a guest maps above
            4 GiB.
        reset_methods: In the order in which the kernel tries them, such as ``flr`` and ``bus``;
            None where the kernel does not say.
        bus_members: Other functions on its bus, which a bus reset resets, too.

    Source: the kernel's Documentation/ABI/testing/sysfs-bus-pci.
    """

    memory_windows: Sequence[int] = ()
    reset_methods: Sequence[str] | None = None
    bus_members: Sequence[PciAddress] = ()


@dataclass(frozen=True, slots=True)
class GuestMachine:
    """What the definition of a domain says of its machine.

    Attributes:
        memory: Bytes.
        chipset: None of other machines than x86's.
        pci_hole: Bytes for BARs above 4 GiB (``<pcihole64>``); None where it does not say.
        address_bits: Of its physical addresses; None where they are the host's, or unknown.
        has_host_address_bits: The CPU has the host's number of address bits.
        hard_limit: Bytes that its process may lock (``<hard_limit>``); None where libvirt decides.
        has_iommu: It has an IOMMU of its own, so that each device maps the memory by itself.
        unprivileged: libvirt runs as an ordinary user and cannot raise limits.

    Source: https://libvirt.org/formatdomain.html
    """

    memory: int
    chipset: Chipset | None = None
    pci_hole: int | None = None
    address_bits: int | None = None
    has_host_address_bits: bool = False
    hard_limit: int | None = None
    has_iommu: bool = False
    unprivileged: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All of it, read at one moment.

    Attributes:
        hardware: Of the functions that the operation moves, and of those that the domain has.
        guest: None without a domain.
        held: Functions that the domain has already.
        fabric: NVSwitches of the host, and the GPUs that they may join; empty without a switch.
    """

    hardware: Mapping[PciAddress, Hardware] = field(default_factory=dict)
    guest: GuestMachine | None = None
    held: Collection[PciAddress] = ()
    fabric: Sequence[NodeDevice] = ()
