"""What an operation leaves behind when the service dies in the middle of it.

An operation that fails undoes its steps; one whose process is killed cannot. Nothing of it is
stored, so it is recognised by what no whole operation leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.model import GroupReport
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.doctor.facts import Finding, Noted
from hypeman_libvirt.host.xml.domain import DEVICES_NAMESPACE

_ID: Final = "interrupted"


def check_interrupted(
    groups: Sequence[GroupReport], noted: Sequence[Noted], misplaced: Sequence[Noted] = ()
) -> Iterator[Finding]:
    """No IOMMU group is half on vfio-pci, and what domains note is what they hold.

    Args:
        groups: Of the host.
        noted: What domains note and do not hold.
        misplaced: What they note and hold elsewhere than it is registered.
    """
    nodes = {member.node.address: member.node for group in groups for member in group.members}
    findings = [
        *(finding for group in groups for finding in _check_group(group)),
        *(_explain(each, nodes) for each in noted),
        *map(_explain_misplaced, misplaced),
    ]
    yield from findings or [Finding(_ID, "ok", "no operation was interrupted")]


def _check_group(group: GroupReport) -> Iterator[Finding]:
    registered = [each.registration for each in group.members if each.registration is not None]
    held = any(each.assignment is not None and each.assignment.live for each in group.members)
    nodes = [each.node for each in group.members if rules.is_endpoint(each.node)]
    taken = [node for node in nodes if rules.on_vfio(node.driver)]
    left = [node for node in nodes if rules.on_host_driver(node)]
    if registered and not held and taken and left:
        yield Finding(
            _ID,
            "warning",
            f"IOMMU group {group.number} is half on vfio-pci: {_list(taken)} is, "
            f"and {_list(left)} is not",
            f"hypeman-libvirt devices unbind {registered[0].name} --scope group, or bind it so",
        )


def _explain(noted: Noted, nodes: Mapping[PciAddress, NodeDevice]) -> Finding:
    entry = noted.entry
    touched = [
        node for address, node in nodes.items() if address == entry.device or address in entry.bound
    ]
    return Finding(
        _ID,
        "warning",
        f"the metadata of {noted.domain} names {entry.name} ({entry.device}), which it does "
        "not hold",
        "; ".join(
            [
                *(f"virsh nodedev-reattach {each.node_name}" for each in touched if _stays(each)),
                *(_probe(each) for each in touched if each.driver is None),
                f"virsh metadata {noted.domain} {DEVICES_NAMESPACE} --remove",
            ]
        ),
    )


def _explain_misplaced(noted: Noted) -> Finding:
    entry = noted.entry
    return Finding(
        _ID,
        "warning",
        f"{noted.domain} has {entry.name} at {entry.device}, and it is registered elsewhere",
        f"hypeman-libvirt devices move {entry.name} --pci-address {entry.device}, if it is there",
    )


def _stays(node: NodeDevice) -> bool:
    return rules.on_vfio(node.driver)


def _probe(node: NodeDevice) -> str:
    return f"echo {node.address} > /sys/bus/pci/drivers_probe"


def _list(nodes: Sequence[NodeDevice]) -> str:
    return ", ".join(rules.describe(node) for node in nodes)
