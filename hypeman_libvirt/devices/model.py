"""What the rules speak of: frozen facts, each with its unit and its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeAlias

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.card import Fingerprint, Verdict

Scope: TypeAlias = Literal["device", "group"]
DeviceType: TypeAlias = Literal["gpu", "pci"]
DeviceState: TypeAlias = Literal["present", "missing", "changed", "moved"]
GroupStatus: TypeAlias = Literal["viable", "needs_bind", "never"]
Severity: TypeAlias = Literal["ok", "warning", "error"]
AssignmentKind: TypeAlias = Literal[
    "hostdev",
    "interface",
    "mdev",
    "nvme_disk",
    "block_disk",
    "scsi",
    "scsi_host",
    "usb",
    "vdpa",
    "macvtap",
    "char_device",
]
_DIRECT: Final[frozenset[AssignmentKind]] = frozenset({"hostdev", "interface", "nvme_disk"})
EventType: TypeAlias = Literal[
    "registered",
    "unregistered",
    "bound",
    "unbound",
    "attached",
    "detached",
    "appeared",
    "vanished",
    "moved",
]


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
    link_capability: PcieLink | None = None
    link_status: PcieLink | None = None
    vgpu_profiles: tuple[VgpuProfile, ...] = ()
    path: str | None = None
    parent: str | None = None
    topology: str | None = None
    subsystem: str | None = None
    device_serial: str | None = None
    incarnation: str | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """libvirt's virtual machine.

    Attributes:
        uuid: With dashes, lower case.
        name: Unique on the host.
        state: libvirt's word for it: ``running``, ``paused``, ``shut off``, …
        active: It has a process now.
        persistent: It has a definition that outlives the process.
        instance_id: What a control plane wrote into the domain's metadata; None without.
        numa_nodes: Host nodes that its memory is bound to; empty when it is not.
    """

    uuid: str
    name: str
    state: str
    active: bool
    persistent: bool
    instance_id: str | None = None
    numa_nodes: frozenset[int] = frozenset()

    @property
    def instance(self) -> str:
        """What ``attached_to`` says of a device that this domain holds."""
        return self.instance_id or self.uuid


@dataclass(frozen=True, slots=True)
class Assignment:
    """A domain has a device of the host: the device itself, or something that lives on it.

    Attributes:
        domain: Which domain.
        device: Which device of the host.
        live: It is in the live XML of an active domain.
        persistent: It is in the definition for the next start.
        managed: libvirt binds it to vfio-pci at start and gives it back at stop.
        kind: ``hostdev``: ``<hostdev type='pci'>``. ``interface``: ``<interface type='hostdev'>``.
            ``mdev``: ``<hostdev type='mdev'>``, of the mediated device itself and of its parent.
            ``nvme_disk``: ``<disk type='nvme'>``. The others are reached through a controller:
            ``block_disk``, ``scsi``, ``scsi_host``, ``usb``, ``vdpa``, ``macvtap`` (a share of a
            network interface) and ``char_device`` (such as a GPU's render node).
        via: How the domain lives on a device that it does not have itself, for people, such as
            ``disk vda on /dev/nvme0n1p2``; None where it has the device itself.
        shares_slot: In the running guest it is one of several functions of a slot, which libvirt
            cannot unplug.
    """

    domain: Domain
    device: HostDeviceId
    live: bool
    persistent: bool
    managed: bool
    kind: AssignmentKind = "hostdev"
    via: str | None = None
    shares_slot: bool = False

    @property
    def direct(self) -> bool:
        """Whether the domain has the device itself: then ``attached_to`` names the domain."""
        if self.kind == "mdev":
            return isinstance(self.device, MdevUuid)
        return self.kind in _DIRECT


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


@dataclass(frozen=True, slots=True)
class Usage:
    """What domains and the host itself have of some devices, read at one moment.

    Attributes:
        assignments: Which domains have which device, running ones first.
        uses: What the host does; nothing when it was not asked.
    """

    assignments: Mapping[HostDeviceId, Sequence[Assignment]]
    uses: Sequence[HostUse] = ()


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """One registered device in a domain's metadata.

    Attributes:
        id: Of the registration, CUID2.
        name: Of the registration.
        device: What the domain holds.
        bound: Devices that attach took from their host driver, and that detach gives back;
            libvirt gives back by itself only what it took by itself.
    """

    id: str
    name: str
    device: HostDeviceId
    bound: tuple[PciAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry keeps of a device: its names, and what identifies the hardware.

    Attributes:
        id: CUID2.
        host: Key of the libvirt host; see ``Host.key``.
        pci_address: Unique on the host.
        name: Unique on the host; no name equals an id.
        created_at: UTC.
        created_by: Subject of the token; None without auth.
        vendor_id: At registration, as are the next five.
        device_id: Four hex digits.
        class_code: 24 bit.
        serial: From the vital product data.
        iommu_group: Number.
        host_driver: Driver that the host had on it; None without one, or when it was on vfio.
        tags: Free words of the user's.
        fingerprint: What tells its card from others; None for a registration of 0.1.
        moved_from: Where the card was before it was followed or moved; None if it never was.
        displaced: Another registration's card is at the address now.
    """

    id: str
    host: str
    pci_address: PciAddress
    name: str
    created_at: datetime
    created_by: str | None
    vendor_id: str
    device_id: str
    class_code: int | None
    serial: str | None
    iommu_group: int | None
    host_driver: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    fingerprint: Fingerprint | None = None
    moved_from: PciAddress | None = None
    displaced: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """A registration and what libvirt says of it now.

    Attributes:
        registration: Our record.
        node: What is at the address now; None when nothing is.
        assignment: The domain that holds it, a running one first; None when free.
        verdict: Where its card is; None where only the ids were compared.
    """

    registration: Registration
    node: NodeDevice | None
    assignment: Assignment | None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class AvailableDevice:
    """An assignable function on the host, registered or not.

    Attributes:
        node: What libvirt says of it.
        registration: Ours, if it is registered.
        assignment: The domain that holds it; None when free.
    """

    node: NodeDevice
    registration: Registration | None
    assignment: Assignment | None


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf an operation runs.

    Attributes:
        subject: Of the token; None without auth.
        is_retry: The client says that it sent the same request before and saw no answer.
    """

    subject: str | None = None
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of an IOMMU group, and who has it.

    Attributes:
        node: What libvirt says of it.
        registration: Ours, if it is registered.
        assignment: The domain that holds it; None when free.
    """

    node: NodeDevice
    registration: Registration | None
    assignment: Assignment | None


@dataclass(frozen=True, slots=True)
class GroupReport:
    """Whether a guest could be given the group as it is at this moment.

    Attributes:
        number: The kernel's number, 0 is legal.
        members: By address.
        viable: No member is on a host driver, which is what the kernel asks for.
        reason: Who stands in the way, for people; None when viable.
        status: ``needs_bind`` where binding its endpoints makes it viable, ``never`` where what is
            in the way stays with the host, or where there is no endpoint.
    """

    number: int
    members: tuple[GroupMember, ...]
    viable: bool
    reason: str | None
    status: GroupStatus = "viable"


@dataclass(frozen=True, slots=True)
class Check:
    """One question that preflight asked.

    Attributes:
        id: ``iommu``, ``vfio``, ``endpoint``, ``group``, ``critical``, ``identity``, ``in_use``,
            ``sriov``, ``numa`` or ``pcie_link``.
        severity: An ``error`` stops passthrough, a ``warning`` does not.
        message: What was found.
        hint: What someone can do about it; None when ok.
    """

    id: str
    severity: Severity
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """Would passthrough work? Nothing was changed to find out.

    Attributes:
        checks: In a fixed order.
    """

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """No check found an error."""
        return all(check.severity != "error" for check in self.checks)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a device, whoever caused it.

    Attributes:
        id: Grows; resumes a stream.
        type: What happened.
        at: UTC, when the service saw it.
        pci_address: Where.
        device_id: Of the registration; None for a device that is not registered.
        name: Likewise.
        driver: Bound after the event; None without one.
        attached_to: Instance that holds it after the event; None when free.
    """

    id: str
    type: EventType
    at: datetime
    pci_address: PciAddress
    device_id: str | None
    name: str | None
    driver: str | None
    attached_to: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was made, for whoever keeps a log of them.

    Attributes:
        action: ``register``, ``unregister``, ``relabel``, ``bind``, ``unbind``, ``attach`` or
            ``detach``.
        caller: On whose behalf.
        before: The device before it; None before its registration.
        after: The device after it; None after its unregistration.
        forced: The guard of critical devices was overridden.
    """

    action: str
    caller: Caller
    before: Device | None
    after: Device | None
    forced: bool = False
