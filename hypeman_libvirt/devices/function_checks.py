"""The checks about virtual functions: before their number changes, and before one is attached."""

from __future__ import annotations

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.errors import (
    BadRequestError,
    CriticalDeviceError,
    ErrorDetail,
    InUseError,
    LinkDownError,
    NoVirtualFunctionsError,
    VirtualFunctionsEnabledError,
)
from hypeman_libvirt.devices.model import Check
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.snapshot import Snapshot


def check_link(snapshot: Snapshot) -> Check:
    """libvirt sets MAC and VLAN on the card, which needs the physical function's link.

    Source: libvirt, virNetDevReadNetConfig() and virNetDevSetNetConfig().
    """
    node, link, wanted = snapshot.node, snapshot.link, snapshot.interface
    if wanted is not None and not (node and node.physical_function and rules.is_network_card(node)):
        raise NoVirtualFunctionsError(
            f"{snapshot.address} is no virtual function of a network card, which is what gets a "
            "MAC address and a VLAN",
            hint="attach it without mac and vlan",
        )
    if wanted is not None and len(snapshot.taking) > 1:
        raise BadRequestError("mac and vlan are of one device", hint="use scope=device")
    if node is None or link is None or link.up:
        return Check("link", "ok", "no network interface is down that it needs")
    finding = f"{link.name} of {node.physical_function} is down"
    hint = f"ip link set dev {link.name} up"
    if wanted is not None:
        raise LinkDownError(finding, hint=hint)
    return Check("link", "warning", finding, hint)


def check_count(snapshot: Snapshot) -> Check:
    """Virtual functions are made by the host driver of a function with SR-IOV."""
    node, count = snapshot.node, snapshot.count
    if node is None or count is None:
        return Check("sriov", "ok", "no other number of virtual functions is asked for")
    total = count_possible(node)
    if count > total:
        raise BadRequestError(f"{node.address} has at most {total} virtual functions")
    if count != len(node.virtual_functions) and not rules.on_host_driver(node):
        raise NoVirtualFunctionsError(
            f"{node.address} is on {node.driver or 'no driver'}, and its host driver makes them",
            hint="give it back to its host driver first",
        )
    return Check("sriov", "ok", f"{node.address} can have {total} virtual functions")


def count_possible(node: NodeDevice) -> int:
    """Return how many virtual functions a physical one can have.

    Raises:
        NoVirtualFunctionsError: It has no SR-IOV.
    """
    if node.max_virtual_functions is None:
        raise NoVirtualFunctionsError(
            f"{node.address} has no SR-IOV", hint="the card's firmware may have it switched off"
        )
    return node.max_virtual_functions


def check_unassigned(snapshot: Snapshot) -> Check:
    """No virtual function goes that a domain has or lives on, be it only to come back."""
    holders = [
        assignment
        for function in snapshot.going
        for assignment in snapshot.assignments.get(function, ())
    ]
    if holders:
        named = [f"{each.device} by {rules.describe_assignment(each)}" for each in holders]
        raise InUseError(
            f"virtual functions of {snapshot.address} are in use: {'; '.join(named)}",
            hint="another number takes all of them away first; detach these",
            details=[ErrorDetail("in_use", each) for each in named],
        )
    return Check("in_use", "ok", "no domain has a virtual function that goes")


def check_unregistered(snapshot: Snapshot) -> Check:
    """No virtual function that is registered goes for good."""
    gone = snapshot.going[snapshot.count or 0 :]
    registered = [snapshot.registered_functions.get(each) for each in gone]
    named = ", ".join(f"{each.pci_address} ({each.name})" for each in registered if each)
    if named:
        raise VirtualFunctionsEnabledError(
            f"registered virtual functions of {snapshot.address} would vanish: {named}",
            hint="unregister them first",
        )
    return Check("registered", "ok", "no virtual function that is registered vanishes")


def check_idle_on_host(snapshot: Snapshot) -> Check:
    """No virtual function goes that the host itself uses."""
    if snapshot.uses:
        listed = [f"{use.address}: {use.what}" for use in snapshot.uses]
        raise CriticalDeviceError(
            f"the host uses virtual functions of {snapshot.address}: {'; '.join(listed)}",
            hint="free them on the host first",
            details=[ErrorDetail("host_use", each) for each in listed],
        )
    return Check("critical", "ok", "the host uses no virtual function that goes")
