"""What is registered and what is on the host, read together: facts from libvirt, names from us."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid
from hypeman_libvirt.devices.card import Verdict
from hypeman_libvirt.devices.errors import (
    DeviceNotFoundError,
    NotFoundError,
)
from hypeman_libvirt.devices.model import (
    AvailableDevice,
    Device,
    GroupMember,
    GroupReport,
    Quarantine,
    Registration,
    Scope,
)
from hypeman_libvirt.devices.node_device import NodeDevice, list_slices
from hypeman_libvirt.devices.ports import AssignmentsByDevice, HostView, Registry
from hypeman_libvirt.devices.references import References
from hypeman_libvirt.devices.whereabouts import Whereabouts


class Inventory:
    """Reads of devices, registered or not. Changes nothing."""

    def __init__(self, view: HostView, registry: Registry) -> None:
        """Read from this view of the host and this registry."""
        self._view = view
        self._registry = registry
        self._references = References(view, registry)
        self._whereabouts = Whereabouts(view.key, view.list_hardware, registry)

    def get(self, reference: str) -> Device:
        """Return a registered device and what libvirt says of it now.

        Raises:
            NotFoundError: No registration is known by the reference.
        """
        return self.of(self._references.find(reference))

    def of(self, registration: Registration) -> Device:
        """Return what libvirt says now of a registration."""
        node = self._view.node_device(registration.device)
        verdict = None
        if registration.mdev is None:
            verdict = self._whereabouts.of(registration, node)
            if verdict.address is not None:
                node = self._view.node_device(verdict.address)
        nodes = {} if node is None else {node.device: node}
        assignments = self._view.list_assignments()
        return _device(registration, verdict, nodes, assignments, self.quarantines())

    def list_devices(self, tags: Mapping[str, str]) -> Sequence[Device]:
        """List registered devices that carry all the tags, in the order of registration."""
        registrations = self._registry.list_registrations(self._view.key(), tags)
        if not registrations:
            return []
        listed = self._view.list_node_devices()
        nodes = {node.device: node for node in listed}
        if any(each.mdev for each in registrations):
            nodes |= {each.device: each for each in self._list_slices(listed)}
        assignments = self._view.list_assignments()
        verdicts = self._whereabouts.of_all(registrations, listed)
        quarantines = self.quarantines()
        return [
            _device(each, verdicts.get(each.id), nodes, assignments, quarantines)
            for each in registrations
        ]

    def quarantines(self) -> Mapping[HostDeviceId, Quarantine]:
        """List the host's quarantines, also those that begin after a use."""
        return self._registry.list_quarantines(self._view.key())

    def list_available(self) -> Sequence[AvailableDevice]:
        """List endpoints in an IOMMU group, by address, each with its slices; registered or not."""
        registered, assignments = self._registered(), self._view.list_assignments()
        quarantines = self.quarantines()
        listed = self._view.list_node_devices()
        nodes = sorted([*listed, *self._list_slices(listed)], key=lambda node: node.address)
        return [
            AvailableDevice(
                node,
                registered.get(node.device),
                assignment,
                rules.in_effect(quarantines.get(node.device), assignment),
            )
            for node in nodes
            if rules.is_endpoint(node) and node.iommu_group is not None
            for assignment in [rules.first_assignment(assignments, node.address)]
        ]

    def list_functions(self) -> Sequence[GroupMember]:
        """List every PCI function and slice, bridges and what is in no IOMMU group included."""
        registered, assignments = self._registered(), self._view.list_assignments()
        listed = self._view.list_node_devices()
        nodes = [*listed, *self._list_slices(listed)]
        return [_member(node, registered, assignments) for node in nodes]

    def list_groups(self) -> Sequence[GroupReport]:
        """List the host's IOMMU groups by number."""
        registered, assignments = self._registered(), self._view.list_assignments()
        nodes = self._view.list_node_devices()
        return report_groups([_member(node, registered, assignments) for node in nodes])

    def get_group(self, number: int) -> GroupReport:
        """Return one IOMMU group.

        Raises:
            NotFoundError: The host has no group of that number.
        """
        for report in self.list_groups():
            if report.number == number:
                return report
        raise NotFoundError(
            f"this host has no IOMMU group {number}", hint="GET /iommu-groups lists them"
        )

    def node_device(self, device: HostDeviceId) -> NodeDevice:
        """Return what is at an address, or a mediated device that is active.

        Raises:
            DeviceNotFoundError: Nothing is.
        """
        node = self._view.node_device(device)
        if node is None and isinstance(device, MdevUuid):
            raise DeviceNotFoundError(
                f"the mediated device {device} is not active",
                hint="virsh nodedev-list --cap mdev --all shows its name, virsh nodedev-start "
                "starts it",
            )
        if node is None:
            raise DeviceNotFoundError(
                f"no PCI device {device} on this host", hint="GET /devices/available lists them"
            )
        return node

    def group_of(self, node: NodeDevice) -> Sequence[NodeDevice]:
        """Return all members of the device's IOMMU group, itself included, by address."""
        others = [each for each in node.group_addresses if each != node.address]
        read = [self._view.node_device(each) for each in others]
        members = [node, *(member for member in read if member is not None)]
        return sorted(members, key=lambda member: member.address)

    def in_scope(self, node: NodeDevice, scope: Scope) -> Sequence[NodeDevice]:
        """Return the device alone, or every endpoint of its IOMMU group, by address."""
        if scope == "device":
            return [node]
        return [member for member in self.group_of(node) if rules.is_endpoint(member)]

    def hostdev_xml(self, reference: str, scope: Scope) -> str:
        """Return what ``virsh attach-device`` takes to give the device to a domain.

        Of several, each is one line of the document, and goes into the definition of a domain.

        Raises:
            NotFoundError: No registration is known by the reference.
            DeviceNotFoundError: The device is not on the host now.
        """
        node = self.node_device(self._references.find(reference).device)
        rules.check_assignable(node)
        taking = self.in_scope(node, scope)
        return self._view.hostdev_xml(
            [each.device for each in taking],
            [each.address for each in taking if rules.is_vfio_provider(each)],
        )

    def _registered(self) -> Mapping[HostDeviceId, Registration]:
        listed = self._registry.list_registrations(self._view.key(), {})
        return {each.device: each for each in listed if not each.displaced}

    def _list_slices(self, nodes: Sequence[NodeDevice]) -> Sequence[NodeDevice]:
        return list_slices(nodes, self._view.list_mdevs())


def _device(
    registration: Registration,
    verdict: Verdict | None,
    nodes: Mapping[HostDeviceId, NodeDevice],
    assignments: AssignmentsByDevice,
    quarantines: Mapping[HostDeviceId, Quarantine],
) -> Device:
    """Put a device together, at the address to which its card has certainly gone."""
    if verdict is not None and verdict.address not in {None, registration.pci_address}:
        registration = replace(registration, pci_address=verdict.address)
    elif registration.displaced:
        return Device(registration, None, None, verdict)
    device = registration.device
    assignment = rules.first_assignment(assignments, device)
    quarantine = rules.in_effect(quarantines.get(device), assignment)
    return Device(registration, nodes.get(device), assignment, verdict, quarantine)


def _member(
    node: NodeDevice,
    registered: Mapping[HostDeviceId, Registration],
    assignments: AssignmentsByDevice,
) -> GroupMember:
    assignment = rules.first_assignment(assignments, node.device)
    return GroupMember(node, registered.get(node.device), assignment)


def report_groups(members: Iterable[GroupMember]) -> Sequence[GroupReport]:
    """Put functions into their IOMMU groups, by number; a slice has a group of its own."""
    groups: dict[int, list[GroupMember]] = {}
    for member in members:
        if member.node.iommu_group is not None:
            groups.setdefault(member.node.iommu_group, []).append(member)
    return [_report(number, tuple(groups[number])) for number in sorted(groups)]


def _report(number: int, members: tuple[GroupMember, ...]) -> GroupReport:
    nodes = [member.node for member in members]
    return GroupReport(
        number,
        members,
        viable=not rules.obstacles(nodes),
        reason=_reason(nodes),
        status=rules.group_status(nodes),
    )


def _reason(group: Sequence[NodeDevice]) -> str | None:
    """Say why a guest cannot have the group now; None where it can."""
    if not any(map(rules.is_endpoint, group)):
        return "only bridges, which stay with the host"
    in_the_way = rules.obstacles(group)
    return f"on a host driver: {', '.join(map(rules.describe, in_the_way))}" if in_the_way else None
