"""What the host has: PCI functions and their slices, and what the host does with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress

Framework: TypeAlias = Literal["mdev", "vendor"]
"""How the host makes vGPUs: as mediated devices, or by a type on a virtual function (vendor VFIO).
"""


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
    """A type of vGPU that a PCI function offers.

    Attributes:
        type_id: The kernel's name, such as ``nvidia-222``; of vendor VFIO a number.
        name: The vendor's name, such as ``GRID T4-1B``.
        available: How many more instances fit.
        framework: How one is made.
    """

    type_id: str
    name: str
    available: int
    framework: Framework = "mdev"


@dataclass(frozen=True, slots=True)
class MediatedDevice:
    """A mediated device, such as a vGPU, as libvirt lists it on the host.

    Attributes:
        node_name: libvirt's name, usually ``mdev_UUID_PARENT``.
        uuid: By which the kernel knows it.
        parent: libvirt's name of the PCI function that it is a slice of.
        type_id: The kernel's name of its type, such as ``nvidia-222``.
        active: It exists; one that is only defined can be started.
        persistent: It is defined, so that it outlives its end.
        autostart: It is started with the host, or once its parent is there.
        iommu_group: Its own; None while it is not active.
        driver: Bound to it, such as ``vfio_mdev``; None while it is not active.

    Source: https://libvirt.org/formatnode.html, mdev
    """

    node_name: str
    uuid: MdevUuid
    parent: str
    type_id: str
    active: bool
    persistent: bool
    autostart: bool
    iommu_group: int | None = None
    driver: str | None = None


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
        vgpu_profiles: Types of vGPUs on offer.
        vgpu_type: Of a virtual function that can be a vGPU without being a mediated device, the id
            of its type, ``0`` for none; None for all others, and where the service is not on the
            host.
        path: Directory in sysfs.
        parent: libvirt's name of what it hangs on; None at the root.
        topology: Slot and function of each bridge from the root to it, such as
            ``pci0000:00/08.0/00.0``; None where the host does not say.
        subsystem: ``vendor:device`` of the board; None where the service is not on the host.
        device_serial: PCIe Device Serial Number; None where it cannot be read.
        incarnation: Differs after each boot and each time the kernel finds the device anew; None
            where the service is not on the host.
        is_vfio_provider: The driver is not vfio-pci and gives the device to guests itself; None
            where the service is not on the host.
        mdev: The mediated device that this is; the other facts are then its parent's, but for
            name, driver and IOMMU group. None for a PCI function.

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
    vgpu_type: str | None = None
    path: str | None = None
    parent: str | None = None
    topology: str | None = None
    subsystem: str | None = None
    device_serial: str | None = None
    incarnation: str | None = None
    is_vfio_provider: bool | None = None
    mdev: MediatedDevice | None = None

    @property
    def device(self) -> HostDeviceId:
        """What a domain is given: the PCI function, or the mediated device."""
        return self.address if self.mdev is None else self.mdev.uuid


def slice_of(parent: NodeDevice, mdev: MediatedDevice) -> NodeDevice:
    """Describe a mediated device that is active: a device of its own on its parent's hardware."""
    return replace(
        parent,
        node_name=mdev.node_name,
        parent=parent.node_name,
        driver=mdev.driver,
        iommu_group=mdev.iommu_group,
        group_addresses=(),
        physical_function=None,
        virtual_functions=(),
        link_capability=None,
        link_status=None,
        max_virtual_functions=None,
        autoprobe=None,
        vgpu_profiles=(),
        vgpu_type=None,
        incarnation=None,
        is_vfio_provider=False,
        mdev=mdev,
    )


def list_slices(
    nodes: Iterable[NodeDevice], mdevs: Iterable[MediatedDevice]
) -> Sequence[NodeDevice]:
    """Describe the mediated devices that are active, each on its parent among the nodes."""
    parents = {node.node_name: node for node in nodes}
    return [
        slice_of(parents[each.parent], each)
        for each in mdevs
        if each.active and each.parent in parents
    ]


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
