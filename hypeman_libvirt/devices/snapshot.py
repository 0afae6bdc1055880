"""All that the checks decide on, read from the host itself at one moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.card import Verdict
from hypeman_libvirt.devices.definitions import NO_PLAN, Definitions, Plan, Relocation, relocate
from hypeman_libvirt.devices.domain import Assignment, Domain, GuestInterface, Usage
from hypeman_libvirt.devices.errors import InstanceNotFoundError
from hypeman_libvirt.devices.fingerprint import Seen, fingerprint_all
from hypeman_libvirt.devices.model import Device, Quarantine, Registration, Scope
from hypeman_libvirt.devices.node_device import (
    HostUse,
    MediatedDevice,
    NetworkLink,
    NodeDevice,
)
from hypeman_libvirt.devices.ports import AssignmentsByDevice, Host, Registry
from hypeman_libvirt.devices.surroundings import Surroundings
from hypeman_libvirt.devices.whereabouts import Whereabouts

Purpose: TypeAlias = Literal[
    "bind", "unbind", "attach", "detach", "unregister", "move", "clear", "virtual_functions"
]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a card is said to be, for a move.

    Attributes:
        seen: Fingerprints of all that the host has.
        owner: Another registration whose card is certainly there; None without.
        plan: What becomes of the definitions of domains.
    """

    seen: Seen = field(default_factory=dict)
    owner: Registration | None = None
    plan: Plan = NO_PLAN


NOWHERE: Final = Destination()
"""Of all that is no move."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A device and all that the checks of an operation on it need.

    Attributes:
        purpose: The operation.
        address: Where the device is; of a mediated device its UUID.
        node: What is there; None when nothing is.
        registration: Ours; None for a device that is not registered.
        group: Every member of its IOMMU group, by address.
        taking: Members that the scope covers.
        assignments: Which domains have members of the group or their virtual functions.
        uses: What the host does with endpoints of the group.
        has_vfio: Whether the hypervisor passes devices through; None when it does not say.
        domain: The domain that gets the device or gives it back; None when that is open.
        still_registered: The registration was there after the locks were taken.
        physical_functions: Of virtual functions in ``taking``, by address.
        registered_functions: Virtual functions of ``taking`` that are registered.
        verdict: Where the registered card is; None for a device that is not registered.
        libvirt: Its version, such as ``9.0.0``; None where it decides over nothing.
        destination: Of a move, whose address is the new one; empty for all else.
        quarantines: Of members of the group.
        silent: Members of the scope that do not answer on the bus.
        expecting: Domains that have in their definition a card that is not certainly there.
        interface: How the domain is to get a network card's function; None for a plain hostdev.
        link: Of the physical function, of a network card's virtual function that is attached.
        count: How many virtual functions are wanted; None where that is not the question.
        slices: Mediated devices that live on members of ``taking``, and end with their driver.
        registered_slices: Those of them that are registered.
    """

    purpose: Purpose
    address: HostDeviceId
    node: NodeDevice | None
    registration: Registration | None
    group: Sequence[NodeDevice]
    taking: Sequence[NodeDevice]
    assignments: AssignmentsByDevice
    uses: Sequence[HostUse] = ()
    has_vfio: bool | None = None
    domain: Domain | None = None
    still_registered: bool = True
    physical_functions: Mapping[PciAddress, NodeDevice] = field(default_factory=dict)
    registered_functions: Mapping[PciAddress, Registration] = field(default_factory=dict)
    verdict: Verdict | None = None
    libvirt: str | None = None
    destination: Destination = NOWHERE
    expecting: Sequence[Assignment] = ()
    quarantines: Mapping[HostDeviceId, Quarantine] = field(default_factory=dict)
    silent: Collection[PciAddress] = ()
    interface: GuestInterface | None = None
    link: NetworkLink | None = None
    count: int | None = None
    slices: Sequence[MediatedDevice] = ()
    registered_slices: Mapping[MdevUuid, Registration] = field(default_factory=dict)

    @property
    def going(self) -> Sequence[PciAddress]:
        """Virtual functions that go, if only to come back: the kernel changes no count but 0."""
        if self.node is None or self.count in {None, len(self.node.virtual_functions)}:
            return ()
        return self.node.virtual_functions

    @property
    def todo(self) -> Sequence[NodeDevice]:
        """Members that the operation has to move; none when everything is as it should be."""
        if self.purpose == "bind":
            return [node for node in self.taking if not rules.is_on_vfio(node)]
        if self.purpose in {"unbind", "unregister"}:
            return [node for node in self.taking if rules.on_vfio(node.driver)]
        if self.purpose == "attach":
            return [node for node in self.taking if not self._has_it(node)]
        return self.taking

    @property
    def providers(self) -> Sequence[NodeDevice]:
        """Members of the scope that stay on their driver, which gives them to guests itself."""
        return [node for node in self.taking if rules.is_vfio_provider(node)]

    @property
    def is_done(self) -> bool:
        """Whether bind or attach would find everything done."""
        return self.purpose in {"bind", "attach"} and self.node is not None and not self.todo

    @property
    def device(self) -> Device | None:
        """The registered device as it was at this moment; None for one that is not registered."""
        if self.registration is None:
            return None
        return Device(self.registration, self.node, self.assignment, self.verdict, self.quarantine)

    @property
    def quarantine(self) -> Quarantine | None:
        """Why the device itself is offered to nobody."""
        return self.quarantine_of(self.address)

    def quarantine_of(self, device: HostDeviceId) -> Quarantine | None:
        """Why a member is offered to nobody."""
        assignment = rules.first_assignment(self.assignments, device)
        return rules.in_effect(self.quarantines.get(device), assignment)

    @property
    def assignment(self) -> Assignment | None:
        """The domain that has the device itself."""
        return rules.first_assignment(self.assignments, self.address)

    @property
    def leaving(self) -> Sequence[Assignment]:
        """What a detach takes: of the whole group what the same domain has, never a part."""
        holder = self.assignment
        if holder is None:
            return ()
        return [
            each
            for member in self._members()
            for each in self.assignments.get(member, ())
            if each.direct and each.domain.uuid == holder.domain.uuid
        ]

    def all_assignments(self) -> Sequence[Assignment]:
        """List those of the device and of its group, running domains first."""
        assignments = [
            each for member in self._members() for each in self.assignments.get(member, ())
        ]
        return sorted(assignments, key=lambda each: not each.live)

    def _members(self) -> Sequence[HostDeviceId]:
        return [node.device for node in self.group] or [self.address]

    def _has_it(self, node: NodeDevice) -> bool:
        """Whether the domain has the member already: now if it runs, and at its next start."""
        domain = self.domain
        return domain is not None and any(
            each.direct
            and each.domain.uuid == domain.uuid
            and each.live == domain.active
            and each.persistent == domain.persistent
            for each in self.assignments.get(node.device, ())
        )


class SnapshotReader:
    """Reads snapshots, from libvirt itself: no answer is from a cache."""

    def __init__(self, host: Host, registry: Registry) -> None:
        """Read from this host and this registry."""
        self._host = host
        self._registry = registry
        self._whereabouts = Whereabouts(host.key, host.read_node_devices, registry)
        self._definitions = Definitions(host)

    def read(
        self,
        purpose: Purpose,
        device: Registration | HostDeviceId,
        scope: Scope | None = "device",
        domain: Domain | None = None,
        *,
        is_new: bool = False,
        interface: GuestInterface | None = None,
        count: int | None = None,
    ) -> Snapshot:
        """Read the device, its IOMMU group, which domains have it and what the host does with it.

        Args:
            purpose: The operation that it is for.
            device: A registration, or a device that is not registered.
            scope: What the operation moves; None for nothing.
            domain: The domain that is to get the device.
            is_new: The registration is not in the registry yet.
            interface: How the domain is to get it.
            count: How many virtual functions it is to have.
        """
        registration = device if isinstance(device, Registration) else None
        address = device.device if isinstance(device, Registration) else device
        lost = registration is not None and registration.displaced
        node = None if lost else self._host.node_device(address)
        group = self._group_of(node) if node else []
        endpoints = [member for member in group if rules.is_endpoint(member)]
        alone = [node] if node and scope == "device" else []
        taking = endpoints if scope == "group" else alone
        functions = [each for member in taking for each in member.virtual_functions]
        moves = purpose in {"bind", "attach"}
        devices = {address, *(member.device for member in group), *functions}
        slices = self._slices(taking) if moves else []
        lost_by_host = endpoints if moves else self._going(node, count)
        usage = self._usage(devices, lost_by_host)
        verdict = self.verdict(registration, node) if registration else None
        return Snapshot(
            purpose=purpose,
            address=address,
            node=node,
            registration=registration,
            group=group,
            taking=taking,
            assignments={} if lost else usage.assignments,
            uses=usage.uses,
            has_vfio=self._host.has_vfio() if moves else None,
            domain=domain,
            still_registered=registration is None or is_new or self._is_registered(registration),
            physical_functions=self._physical_functions(taking),
            registered_functions=self._registered(functions),
            verdict=verdict,
            libvirt=self._libvirt(taking) if purpose == "attach" else None,
            expecting=self._expecting(registration, verdict),
            interface=interface,
            link=self._link(node) if purpose == "attach" and node else None,
            count=count,
            slices=slices,
            registered_slices=self._registered_slices(slices),
            quarantines=self._registry.list_quarantines(self._host.key()),
            silent=self._silent(taking) if moves or purpose == "clear" else (),
        )

    def read_move(self, registration: Registration, address: PciAddress) -> Snapshot:
        """Read what is at an address that the card of a registration is said to be at."""
        nodes = self._host.read_node_devices()
        verdicts = self._whereabouts.judge(nodes)
        others = self._registry.list_registrations(registration.host, {})
        owner = next(
            (
                each
                for each in others
                if each.id != registration.id
                and each.id in verdicts
                and verdicts[each.id].address == address
            ),
            None,
        )
        present = {node.address for node in nodes}
        relocations = self._relocations(registration, address, present)
        return Snapshot(
            purpose="move",
            address=address,
            node=next((node for node in nodes if node.address == address), None),
            registration=registration,
            group=[],
            taking=[],
            assignments={},
            still_registered=self._is_registered(registration),
            verdict=verdicts.get(registration.id),
            destination=Destination(
                fingerprint_all(nodes), owner, self._definitions.plan(relocations)
            ),
        )

    def _expecting(
        self, registration: Registration | None, verdict: Verdict | None
    ) -> Sequence[Assignment]:
        if registration is None or verdict is None or verdict.address is not None:
            return ()
        return self._definitions.expecting([registration])[registration.id]

    def read_surroundings(self, snapshot: Snapshot) -> Surroundings:
        """Read what preflight's advice on a snapshot is about."""
        domain = snapshot.domain
        held = self._host.read_domain_assignments(domain) if domain else ()
        addresses = {each.device for each in held if isinstance(each.device, PciAddress)}
        nodes = [*snapshot.taking, *self._read(addresses - {n.address for n in snapshot.taking})]
        hardware = {node.address: self._host.read_hardware(node) for node in nodes}
        return Surroundings(
            hardware={address: each for address, each in hardware.items() if each is not None},
            guest=self._host.read_guest_machine(domain) if domain else None,
            held=addresses,
            fabric=self._fabric(snapshot.taking),
        )

    def _fabric(self, taking: Sequence[NodeDevice]) -> Sequence[NodeDevice]:
        """List NVSwitches and the GPUs that they may join; only where one of these is taken."""
        if not any(map(rules.may_be_on_nvswitch, taking)):
            return ()
        members = [
            each for each in self._host.read_node_devices() if rules.may_be_on_nvswitch(each)
        ]
        return members if any(map(rules.is_nvswitch, members)) else ()

    def _read(self, addresses: Collection[PciAddress]) -> Sequence[NodeDevice]:
        read = [self._host.node_device(each) for each in sorted(addresses)]
        return [node for node in read if node is not None]

    def _relocations(
        self, registration: Registration, address: PciAddress, present: Collection[PciAddress]
    ) -> Sequence[Relocation]:
        """Say where domains may still expect the card: also where it was before it was followed."""
        old = dict.fromkeys([registration.pci_address, registration.moved_from])
        return [
            relocate(
                self._registry,
                registration,
                each,
                address,
                present,
                means_unnoted=each == registration.pci_address and not registration.displaced,
            )
            for each in old
            if each not in {None, address} and each is not None
        ]

    def verdict(self, registration: Registration, node: NodeDevice | None) -> Verdict | None:
        """Say where the card of a registration is; ``node`` is what is at its address.

        None of a mediated device: no other one ever has its UUID.
        """
        return None if registration.mdev else self._whereabouts.of(registration, node)

    def domain(self, instance: str) -> Domain:
        """Look up a domain by UUID, name or instance id.

        Raises:
            InstanceNotFoundError: libvirt knows none.
        """
        domain = self._host.find_domain(instance)
        if domain is None:
            raise InstanceNotFoundError(
                f"libvirt has no domain {instance[: rules.MAX_NAME]!r}",
                hint="give its UUID, name or instance id; virsh list --all shows them",
            )
        return domain

    def lock_keys(self, device: HostDeviceId) -> Collection[str]:
        """Return the keys of the locks on a device and its group."""
        return lock_keys(device, self._host.node_device(device))

    def _group_of(self, node: NodeDevice) -> Sequence[NodeDevice]:
        others = [each for each in node.group_addresses if each != node.address]
        read = [self._host.node_device(each) for each in others]
        members = [node, *(member for member in read if member is not None)]
        return sorted(members, key=lambda member: member.address)

    def _usage(self, devices: Collection[HostDeviceId], endpoints: Sequence[NodeDevice]) -> Usage:
        """Read who has the devices; with a device on vfio the host itself does nothing."""
        asked = [each for each in endpoints if not rules.is_on_vfio(each)]
        return self._host.read_usage(devices, asked)

    def _going(self, node: NodeDevice | None, count: int | None) -> Sequence[NodeDevice]:
        """Read the virtual functions that would go, and that a driver of the host may have."""
        if node is None or count in {None, len(node.virtual_functions)}:
            return []
        read = [self._host.node_device(each) for each in node.virtual_functions]
        return [each for each in read if each is not None]

    def _link(self, node: NodeDevice) -> NetworkLink | None:
        """Read the link of the network card that a virtual function is of."""
        if node.physical_function is None or not rules.is_network_card(node):
            return None
        physical = self._host.node_device(node.physical_function)
        return None if physical is None else self._host.read_link(physical)

    def _silent(self, taking: Sequence[NodeDevice]) -> Collection[PciAddress]:
        cards = [node for node in taking if node.mdev is None]
        return [node.address for node in cards if self._host.answers(node) is False]

    def _libvirt(self, taking: Sequence[NodeDevice]) -> str | None:
        return self._host.version() if any(map(rules.is_vfio_provider, taking)) else None

    def _is_registered(self, registration: Registration) -> bool:
        """Whether it is, of the host that answers now: a URI may have come to lead elsewhere."""
        host = registration.host
        return host == self._host.key() and self._registry.find(host, registration.id) is not None

    def _physical_functions(self, taking: Sequence[NodeDevice]) -> Mapping[PciAddress, NodeDevice]:
        addresses = {each.physical_function for each in taking} - {None}
        read = [self._host.node_device(each) for each in addresses if each is not None]
        return {node.address: node for node in read if node is not None}

    def _registered(self, functions: Sequence[PciAddress]) -> Mapping[PciAddress, Registration]:
        if not functions:
            return {}
        key = self._host.key()
        registrations = [self._registry.find_by_device(key, each) for each in functions]
        return {each.pci_address: each for each in registrations if each is not None}

    def _slices(self, taking: Sequence[NodeDevice]) -> Sequence[MediatedDevice]:
        """Read which mediated devices live on these; only their parents have types of them."""
        parents = {node.node_name for node in taking if node.vgpu_profiles}
        if not parents:
            return []
        return [each for each in self._host.read_mdevs() if each.active and each.parent in parents]

    def _registered_slices(
        self, slices: Sequence[MediatedDevice]
    ) -> Mapping[MdevUuid, Registration]:
        if not slices:
            return {}
        key = self._host.key()
        known = {each.uuid: self._registry.find_by_device(key, each.uuid) for each in slices}
        return {uuid: each for uuid, each in known.items() if each is not None}


def lock_keys(device: HostDeviceId, node: NodeDevice | None) -> Collection[str]:
    """Return the keys of the locks on a device, on its IOMMU group and on all members of it."""
    members = {device, *(node.group_addresses if node else ())}
    keys = {f"device {each}" for each in members}
    if node is not None and node.iommu_group is not None:
        keys.add(f"group {node.iommu_group}")
    return keys
