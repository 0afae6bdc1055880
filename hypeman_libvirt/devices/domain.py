"""What guests have: domains, and the devices of the host that are assigned to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.node_device import HostUse

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
class GuestInterface:
    """How a guest gets a network card's virtual function: as an interface, not as a plain device.

    Attributes:
        mac: Lower case, with colons; None for one that libvirt chooses.
        vlan: Tag, 1 to 4094; None for none.

    Source: https://libvirt.org/formatdomain.html, PCI passthrough of network interfaces.
    """

    mac: str | None = None
    vlan: int | None = None


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
