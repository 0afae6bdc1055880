"""What is ours: registrations, what is answered about devices, and what happened to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.card import Fingerprint, Verdict
from hypeman_libvirt.devices.domain import Assignment
from hypeman_libvirt.devices.node_device import NodeDevice

Scope: TypeAlias = Literal["device", "group"]
DeviceType: TypeAlias = Literal["gpu", "pci"]
DeviceState: TypeAlias = Literal["present", "missing", "changed", "moved"]
GroupStatus: TypeAlias = Literal["viable", "needs_bind", "never"]
Severity: TypeAlias = Literal["ok", "warning", "error"]
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
    "adopted",
    "quarantined",
    "cleared",
    "relabeled",
]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a device is offered to nobody.

    Attributes:
        reason: For people.
        since: UTC.
        after_use: It begins when no domain has the device any more.
    """

    reason: str
    since: datetime
    after_use: bool = False


@dataclass(frozen=True, slots=True)
class Vgpu:
    """What a registration is that is a slice of a GPU.

    Attributes:
        type_id: The kernel's name of its type, such as ``nvidia-222``.
        profile: The vendor's name of the type, such as ``GRID T4-1B``.
        mdev: Which mediated device it is; None where it is a virtual function.
        made: The service made it, and takes it away when it is unregistered.
        persist: Of a virtual function, whose driver forgets: the service makes it a vGPU again.
    """

    type_id: str
    profile: str
    mdev: MdevUuid | None = None
    made: bool = False
    persist: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry stores of a device: its names, and what identifies the hardware.

    Attributes:
        id: CUID2.
        host: Key of the libvirt host; see ``Host.key``.
        pci_address: Unique on the host, but of a mediated device, whose parent's it is.
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
        fingerprint: What distinguishes its card from others; None for a registration of 0.1.
        moved_from: Where the card was before it was followed or moved; None if it never was.
        displaced: Another registration's card is at the address now.
        vgpu: What it is a slice of; None for a device that is no slice.
        require_clean: It is quarantined after each use.
        persistent: A boot rule binds it to vfio-pci.
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
    vgpu: Vgpu | None = None
    require_clean: bool = False
    persistent: bool = False

    @property
    def mdev(self) -> MdevUuid | None:
        """The mediated device that it is; None for a PCI function."""
        return self.vgpu.mdev if self.vgpu else None

    @property
    def device(self) -> HostDeviceId:
        """What a domain is given, unique on the host."""
        return self.mdev or self.pci_address


@dataclass(frozen=True, slots=True)
class Device:
    """A registration and what libvirt says of it now.

    Attributes:
        registration: Our record.
        node: What is at the address now; None when nothing is, or its vGPU is not active.
        assignment: The domain that holds it, a running one first; None when free.
        verdict: Where its card is; None where only the ids were compared, as of a mediated device.
        quarantine: Why it is offered to nobody; None when it is well.
    """

    registration: Registration
    node: NodeDevice | None
    assignment: Assignment | None
    verdict: Verdict | None = None
    quarantine: Quarantine | None = None


@dataclass(frozen=True, slots=True)
class AvailableDevice:
    """An assignable function on the host, registered or not.

    Attributes:
        node: What libvirt says of it.
        registration: Ours, if it is registered.
        assignment: The domain that holds it; None when free.
        quarantine: Why it is offered to nobody; None when it is well.
    """

    node: NodeDevice
    registration: Registration | None
    assignment: Assignment | None
    quarantine: Quarantine | None = None


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
    """The result of one check of preflight.

    Attributes:
        id: ``iommu``, ``vfio``, ``endpoint``, ``group``, ``critical``, ``identity``, ``health``,
            ``in_use``, ``slices``, ``sriov``, ``numa``, ``pcie_link``, ``link``, ``reset``,
            ``mmio``, ``memlock`` or ``nvswitch``.
        severity: An ``error`` stops passthrough, a ``warning`` does not.
        message: The finding, for people.
        hint: What to do about it; None when ok.
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
        """Whether no check is an error."""
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
        mdev: The mediated device; None for a PCI function.
    """

    id: str
    type: EventType
    at: datetime
    pci_address: PciAddress
    device_id: str | None
    name: str | None
    driver: str | None
    attached_to: str | None
    mdev: MdevUuid | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was made, for the log.

    Attributes:
        action: ``register``, ``unregister``, ``relabel``, ``move``, ``clear``, ``bind``,
            ``unbind``, ``attach``, ``detach`` or ``set_virtual_functions``.
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
