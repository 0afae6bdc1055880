"""What the host is to do with a PCI function at boot, before domains start."""

from __future__ import annotations

from dataclasses import dataclass

from hypeman_libvirt.devices.address import PciAddress


@dataclass(frozen=True, slots=True)
class BootRule:
    """What is done when the kernel finds a PCI function, if it is the one that is meant.

    Attributes:
        address: Where it must be.
        vendor_id: What it must be, as is the next; four hex digits.
        device_id: Four hex digits.
        topology: The chain of bridges that it must hang on; None where that is not known.
        virtual_functions: How many of them to enable once its host driver has it; None to bind
            the function itself to vfio-pci instead.
        autoprobe: Whether host drivers take the virtual functions.
    """

    address: PciAddress
    vendor_id: str
    device_id: str
    topology: str | None = None
    virtual_functions: int | None = None
    autoprobe: bool = False
