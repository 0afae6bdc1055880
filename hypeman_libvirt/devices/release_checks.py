"""The checks before a device leaves a guest, goes back to its host driver, or is unregistered."""

from __future__ import annotations

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    NotAttachedError,
    NotSupportedError,
    VirtualFunctionsEnabledError,
)
from hypeman_libvirt.devices.model import Check
from hypeman_libvirt.devices.snapshot import Snapshot


def check_group_idle(snapshot: Snapshot) -> Check:
    """While a guest has any of the group, no member can go back: it would lose its driver."""
    for assignment in snapshot.all_assignments() if snapshot.todo else ():
        if assignment.live:
            raise rules.in_use(assignment)
    return Check("in_use", "ok", "no guest has any of the group")


def check_functions_idle(snapshot: Snapshot) -> Check:
    """Virtual functions of a function on vfio-pci vanish when it goes back to its host driver."""
    for node in snapshot.todo:
        wanted = [each for each in node.virtual_functions if _is_wanted(snapshot, each)]
        if wanted:
            named = ", ".join(_describe_function(snapshot, each) for each in wanted)
            raise VirtualFunctionsEnabledError(
                f"virtual functions of {node.address} would vanish: {named}",
                hint="detach and unregister them first",
            )
    return Check("sriov", "ok", "nobody has virtual functions of it")


def check_unassigned(snapshot: Snapshot) -> Check:
    """A device that a domain has, or lives on, stays registered."""
    for assignment in snapshot.assignments.get(snapshot.address, ()):
        raise rules.in_use(assignment)
    return Check("in_use", "ok", "no domain has it")


def check_attached(snapshot: Snapshot) -> Check:
    """Only a device that a domain has as a hostdev or an interface can be taken out of it."""
    assignment = snapshot.assignment
    if assignment is None:
        name = snapshot.registration.name if snapshot.registration else "the device"
        raise NotAttachedError(f"no domain holds {name} ({snapshot.address})")
    if assignment.kind == "nvme_disk":
        raise rules.in_use(assignment)
    return Check("attached", "ok", f"{rules.describe_assignment(assignment)} has it")


def check_guest_slot(snapshot: Snapshot) -> Check:
    """libvirt cannot unplug one of several functions in a slot of a running guest."""
    for assignment in snapshot.leaving:
        if assignment.live and assignment.shares_slot:
            raise NotSupportedError(
                f"{assignment.device} is one of several functions in its slot of domain "
                f"{assignment.domain.name}, and libvirt cannot unplug those from a running domain; "
                "shut it off, then detach"
            )
    return Check("guest_slot", "ok", "it can be unplugged")


def _is_wanted(snapshot: Snapshot, function: PciAddress) -> bool:
    return function in snapshot.registered_functions or bool(snapshot.assignments.get(function))


def _describe_function(snapshot: Snapshot, function: PciAddress) -> str:
    assignments = snapshot.assignments.get(function)
    if assignments:
        return f"{function} ({rules.describe_assignment(assignments[0])})"
    return f"{function} (registered as {snapshot.registered_functions[function].name})"
