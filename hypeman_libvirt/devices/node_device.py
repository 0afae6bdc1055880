"""What the host has: PCI functions as libvirt lists them, and what the host does with them."""

from __future__ import annotations

from dataclasses import dataclass

from hypeman_libvirt.devices.address import PciAddress


@dataclass(frozen=True, slots=True)
class PcieLink:
    """Speed and width of a PCIe link.

    Attributes:
        speed: GT/s per lane.
        width: Lanes.
    """

    speed: float
    width: int


@dataclass(frozen=True, slots=True)
class VgpuProfile:
    """A mediated device type that a physical GPU offers.

    Attributes:
        type_id: The kernel's name, such as ``nvidia-222``.
        name: The vendor's name, such as ``GRID T4-1B``.
        available: How many more instances fit.
    """

    type_id: str
    name: str
    available: int


@dataclass(frozen=True, slots=True)
class NodeDevice:
    """A PCI function as libvirt lists it on the host.

    Attributes:
        node_name: libvirt's name, usually ``pci_dddd_bb_ss_f``.
        address: Where it sits.
        vendor_id: Four hex digits, lower case, without ``0x``.
        device_id: Likewise; ``<product>`` in libvirt's XML.
        class_code: 24 bit, such as 0x030200; None where libvirt does not say.
        vendor_name: From the host's pci.ids; None when unknown there.
        device_name: Likewise.
        driver: Host driver that is bound now; None without one.
        iommu_group: Number, 0 is legal; None without an IOMMU.
        group_addresses: All members of the group, this one included, sorted.
        is_bridge: libvirt reports a ``pci-bridge`` or ``cardbus-bridge`` capability.
        numa_node: None where the host does not say.
        serial: From the vital product data; None where there is none.
        physical_function: Of a virtual function, else None.
        virtual_functions: Those enabled now, of a physical function.
        max_virtual_functions: How many it can have; None of a device without SR-IOV.
        autoprobe: Whether host drivers take new virtual functions; None where the service is not
            on the host.
        link_capability: What the PCIe link can do; None for conventional PCI.
        link_status: What the PCIe link runs at; None where libvirt does not say.
        vgpu_profiles: Mediated device types on offer.
        path: Directory in sysfs.
        parent: libvirt's name of what it hangs on; None at the root.
        topology: Slot and function of each bridge from the root to it, such as
            ``pci0000:00/08.0/00.0``; None where the host does not say.
        subsystem: ``vendor:device`` of the board; None where the service is not on the host.
        device_serial: PCIe Device Serial Number; None where it cannot be read.
        incarnation: Differs after each boot and each time the kernel finds the device anew; None
            where the service is not on the host.
        is_vfio_provider: The driver is not vfio-pci and gives the device to guests itself; False
            where the service is not on the host, too.

    Source: https://libvirt.org/formatnode.html
    """

    node_name: str
    address: PciAddress
    vendor_id: str
    device_id: str
    class_code: int | None = None
    vendor_name: str | None = None
    device_name: str | None = None
    driver: str | None = None
    iommu_group: int | None = None
    group_addresses: tuple[PciAddress, ...] = ()
    is_bridge: bool = False
    numa_node: int | None = None
    serial: str | None = None
    physical_function: PciAddress | None = None
    virtual_functions: tuple[PciAddress, ...] = ()
    max_virtual_functions: int | None = None
    autoprobe: bool | None = None
    link_capability: PcieLink | None = None
    link_status: PcieLink | None = None
    vgpu_profiles: tuple[VgpuProfile, ...] = ()
    path: str | None = None
    parent: str | None = None
    topology: str | None = None
    subsystem: str | None = None
    device_serial: str | None = None
    incarnation: str | None = None
    is_vfio_provider: bool = False


@dataclass(frozen=True, slots=True)
class NetworkLink:
    """The network interface of a PCI function.

    Attributes:
        name: Such as ``enp3s0f0``; of several, the first.
        up: On the host itself whether one is switched on, elsewhere whether one has a link.
    """

    name: str
    up: bool


@dataclass(frozen=True, slots=True)
class HostUse:
    """Something that the host itself does with a PCI device.

    Attributes:
        address: The device.
        what: For people, such as ``vda3 carries /`` or ``enp1s0 has an address``.
        known: False where the service cannot see mounts and addresses, so that it may be idle.
    """

    address: PciAddress
    what: str
    known: bool = True
