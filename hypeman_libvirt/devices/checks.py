"""The checks before an operation: one function each, for preflight and for every refusal.

A check returns its result, or raises the error that bind and attach would answer with. So
preflight and the operations can never disagree. Here are those before a device is passed through,
and the order of all; ``release_checks`` has those before it is taken back, ``function_checks``
those about virtual functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from hypeman_libvirt.devices import (
    function_checks,
    health_checks,
    move_checks,
    release_checks,
    rules,
    slice_checks,
)
from hypeman_libvirt.devices.address import MdevUuid, PciAddress
from hypeman_libvirt.devices.card import Verdict
from hypeman_libvirt.devices.definitions import describe_expecting
from hypeman_libvirt.devices.domain import Assignment
from hypeman_libvirt.devices.errors import (
    BusyError,
    CriticalDeviceError,
    DeviceError,
    ErrorDetail,
    IdentityChangedError,
    IommuGroupConflictError,
    NotAssignableError,
    NotFoundError,
    NotSupportedError,
    VfioUnavailableError,
    VirtualFunctionsEnabledError,
)
from hypeman_libvirt.devices.model import Check, Preflight, Registration, Severity
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.snapshot import Purpose, Snapshot


def check_endpoint(snapshot: Snapshot) -> Check:
    """A bridge can never be assigned."""
    if snapshot.registration and snapshot.verdict and snapshot.verdict.state == "moved":
        raise _doubtful(snapshot, snapshot.registration, snapshot.verdict)
    if snapshot.node is None and isinstance(snapshot.address, MdevUuid):
        raise IdentityChangedError(
            f"the mediated device {snapshot.address} is not active now",
            hint="start it on the host (virsh nodedev-list --cap mdev --all shows its name), or "
            "delete it",
        )
    if snapshot.node is None:
        raise _gone(snapshot)
    if not rules.is_endpoint(snapshot.node):
        raise NotAssignableError(
            f"{snapshot.address} is a bridge and stays with the host",
            hint="choose a device behind it",
        )
    if rules.is_nvswitch(snapshot.node):
        return Check(
            "endpoint",
            "warning",
            f"{snapshot.address} is an NVSwitch: all NVSwitches of a host belong together",
            "give every NVSwitch to the same guest as the GPUs, or leave all with the host",
        )
    return Check("endpoint", "ok", f"{snapshot.address} is an endpoint")


def check_iommu(snapshot: Snapshot) -> Check:
    """Without an IOMMU group there is no passthrough."""
    node = _present(snapshot)
    rules.check_assignable(node)
    return Check("iommu", "ok", f"{snapshot.address} is in IOMMU group {node.iommu_group}")


def check_identity(snapshot: Snapshot) -> Check:
    """The card must certainly be the one that was registered."""
    registration, verdict = snapshot.registration, snapshot.verdict
    if registration is None:
        _present(snapshot)
        return Check("identity", "ok", f"{snapshot.address} is not registered yet")
    _present(snapshot)
    if verdict is not None and verdict.state == "follow":
        raise BusyError(
            f"the card of {registration.name} has moved from {snapshot.address} to "
            f"{verdict.address} and is about to be followed",
            hint="try again",
        )
    changed = rules.differences(registration, _present(snapshot))
    if changed or (verdict is not None and verdict.state != "present"):
        what = ", ".join(changed) or "its ids are the same, and it is another card"
        raise IdentityChangedError(
            f"other hardware is at {snapshot.address} than was registered: {what}"
            + describe_expecting(snapshot.expecting),
            hint="unregister the device and register it anew if that is meant, or say where its "
            "card is: POST /devices/{id}/move",
        )
    if verdict is None:
        return Check("identity", "ok", "the mediated device is what was registered, by its UUID")
    return Check("identity", "ok", f"the card is what was registered, by its {verdict.proof}")


def check_identity_of_given_back(snapshot: Snapshot) -> Check:
    """What goes back to the host must be the registration's card, and not another's."""
    verdict = snapshot.verdict
    if snapshot.todo and verdict is not None and verdict.state != "present":
        return check_identity(snapshot)
    return Check("identity", "ok", "no other card goes back to the host")


def _doubtful(
    snapshot: Snapshot, registration: Registration, verdict: Verdict
) -> IdentityChangedError:
    places = [str(each) for each in verdict.candidates]
    return IdentityChangedError(
        f"the card of {registration.name} may be at {' or '.join(places)}, and nothing tells which"
        + describe_expecting(snapshot.expecting),
        hint="look which card it is; POST /devices/{id}/move says so",
        details=[ErrorDetail("candidate", each) for each in places],
    )


def _gone(snapshot: Snapshot) -> IdentityChangedError:
    registration = snapshot.registration
    if registration is not None and registration.displaced:
        found = f"another registration's card is at {snapshot.address} now"
    else:
        found = f"no PCI device is at {snapshot.address} now"
    return IdentityChangedError(
        found + describe_expecting(snapshot.expecting),
        hint="plug it in again, say where it is (POST /devices/{id}/move), or unregister it",
    )


def check_critical(snapshot: Snapshot) -> Check:
    """What the host lives on stays with it, over the whole group."""
    if not snapshot.uses:
        return Check("critical", "ok", "the host does not use the group")
    listed = "; ".join(f"{use.address}: {use.what}" for use in snapshot.uses)
    lead = "the host lives on it" if any(use.known for use in snapshot.uses) else "it may be in use"
    raise CriticalDeviceError(
        f"{lead}: {listed}",
        hint="free it on the host first, or pass force=true if the host can do without it",
        details=[ErrorDetail("host_use", f"{use.address}: {use.what}") for use in snapshot.uses],
    )


def check_in_use(snapshot: Snapshot) -> Check:
    """A device that a domain has, or lives on, stays with the domain."""
    for node in snapshot.taking if snapshot.purpose == "attach" else snapshot.todo:
        for assignment in snapshot.assignments.get(node.device, ()):
            if _disturbs(snapshot, assignment):
                raise rules.in_use(assignment)
    return Check("in_use", "ok", "no domain holds it")


def check_sriov(snapshot: Snapshot) -> Check:
    """A function whose virtual functions are enabled cannot leave its driver, nor they without it.

    Source: the kernel, vfio_pci_core: vfio-pci refuses a PF with VFs of its host driver, and a VF
    whose PF is on vfio-pci opens with a token only.
    """
    for node in snapshot.todo:
        if node.virtual_functions:
            raise VirtualFunctionsEnabledError(
                f"{node.address} has {len(node.virtual_functions)} virtual functions enabled",
                hint="pass one of them, or write 0 to its sriov_numvfs on the host first",
            )
        _refuse_without_token(snapshot, node)
    return Check("sriov", "ok", "no virtual functions are enabled on it")


def check_group(snapshot: Snapshot) -> Check:
    """After the call every member of the group must be off the host's drivers."""
    taken = [node.address for node in snapshot.taking]
    in_the_way = [(node, "driver") for node in rules.obstacles(snapshot.group, taken)]
    in_the_way += [
        (node, "domain") for node in snapshot.group if _held_elsewhere(snapshot, node, taken)
    ]
    if not in_the_way:
        return Check("group", "ok", f"the group of {len(snapshot.group)} can be passed through")
    members = [_in_the_way(snapshot, *each) for each in in_the_way]
    raise IommuGroupConflictError(
        f"IOMMU group {snapshot.group[0].iommu_group} is not viable without {', '.join(members)}",
        hint=_group_hint([node for node, _ in in_the_way]),
        details=[ErrorDetail("iommu_group_member", each) for each in members],
    )


def check_vfio(snapshot: Snapshot) -> Check:
    """The hypervisor must be able to pass PCI devices through."""
    if snapshot.has_vfio is False:
        raise VfioUnavailableError(
            "libvirt reports no VFIO on this host", hint="load vfio-pci: modprobe vfio-pci"
        )
    if snapshot.providers:
        return _check_providers(snapshot)
    known = (
        "the host has VFIO" if snapshot.has_vfio else "libvirt does not say that VFIO is missing"
    )
    return Check("vfio", "ok", known)


def check_numa(snapshot: Snapshot) -> Check:
    """A domain on another NUMA node reaches the device through the interconnect."""
    node = _present(snapshot)
    if snapshot.domain is None or node.numa_node is None or not snapshot.domain.numa_nodes:
        return Check("numa", "ok", "nothing binds the domain's memory to another NUMA node")
    if node.numa_node in snapshot.domain.numa_nodes:
        return Check("numa", "ok", f"domain and device are on NUMA node {node.numa_node}")
    nodes = ", ".join(map(str, sorted(snapshot.domain.numa_nodes)))
    return Check(
        "numa",
        "warning",
        f"the device is on NUMA node {node.numa_node}, memory of {snapshot.domain.name} on {nodes}",
        f"set <numatune><memory nodeset='{node.numa_node}'/> in the domain",
    )


def check_pcie_link(snapshot: Snapshot) -> Check:
    """A link below its capability costs bandwidth; idle GPUs lower it by themselves."""
    node = _present(snapshot)
    can, runs = node.link_capability, node.link_status
    if can is None or runs is None or (runs.speed >= can.speed and runs.width >= can.width):
        return Check("pcie_link", "ok", "the PCIe link runs at its capability")
    return Check(
        "pcie_link",
        "warning",
        f"the PCIe link runs at {runs.speed:g} GT/s x{runs.width}, "
        f"it can do {can.speed:g} GT/s x{can.width}",
        "reseat the card or use a wider slot if it stays so under load",
    )


def check_registered(snapshot: Snapshot) -> Check:
    """The registration must still exist after the locks were taken."""
    registration = snapshot.registration
    if registration is not None and not snapshot.still_registered:
        raise NotFoundError(
            f"device {registration.id} was unregistered meanwhile",
            hint="GET /devices lists those that are registered",
        )
    return Check("registered", "ok", "it is registered")


Named: TypeAlias = tuple[str, Callable[[Snapshot], Check]]
"""A check and its id."""

_PASSTHROUGH: Final[Sequence[Named]] = (
    ("endpoint", check_endpoint),
    ("iommu", check_iommu),
    ("identity", check_identity),
    ("health", health_checks.check_health),
    ("critical", check_critical),
    ("in_use", check_in_use),
    ("slices", slice_checks.check_slices),
    ("sriov", check_sriov),
    ("group", check_group),
    ("vfio", check_vfio),
    ("numa", check_numa),
    ("pcie_link", check_pcie_link),
)
_GIVE_BACK: Final[Sequence[Named]] = (
    ("identity", check_identity_of_given_back),
    ("in_use", release_checks.check_group_idle),
    ("sriov", release_checks.check_functions_idle),
)
CHECKS: Final[Mapping[Purpose, Sequence[Named]]] = {
    "bind": _PASSTHROUGH,
    "attach": (*_PASSTHROUGH, ("link", function_checks.check_link)),
    "unbind": _GIVE_BACK,
    "detach": (
        ("attached", release_checks.check_attached),
        ("guest_slot", release_checks.check_guest_slot),
    ),
    "unregister": (("in_use", release_checks.check_unassigned), *_GIVE_BACK),
    "clear": (
        ("endpoint", check_endpoint),
        ("identity", check_identity),
        ("answers", health_checks.check_answers),
        ("in_use", health_checks.check_released),
        ("driver", health_checks.check_driver),
    ),
    "move": (
        ("destination", move_checks.check_destination),
        ("identity", move_checks.check_same_card),
        ("unclaimed", move_checks.check_unclaimed),
        ("definitions", move_checks.check_definitions),
    ),
    "virtual_functions": (
        ("endpoint", check_endpoint),
        ("identity", check_identity),
        ("sriov", function_checks.check_count),
        ("in_use", function_checks.check_unassigned),
        ("registered", function_checks.check_unregistered),
        ("critical", function_checks.check_idle_on_host),
    ),
}
"""Of each operation, in the order in which it refuses."""


def guard(snapshot: Snapshot, *, force: bool = False) -> None:
    """Raise the first error of the operation's checks; ``force`` overrides ``critical`` alone.

    Raises:
        DeviceError: That of the first check that fails.
    """
    check_registered(snapshot)
    if snapshot.is_done:
        return
    for check_id, check in CHECKS[snapshot.purpose]:
        if not (force and check_id == "critical"):
            check(snapshot)


def inspect(snapshot: Snapshot) -> Preflight:
    """Run every check of the operation. Those about a device that is not there are left out."""
    asked = CHECKS[snapshot.purpose]
    if snapshot.node is None:
        asked = asked[:1]
    return Preflight(tuple(_answer(check_id, check, snapshot) for check_id, check in asked))


def _answer(check_id: str, check: Callable[[Snapshot], Check], snapshot: Snapshot) -> Check:
    """Run one check; an error is a warning only where the operation is done already."""
    try:
        return check(snapshot)
    except DeviceError as error:
        severity: Severity = "warning" if snapshot.is_done else "error"
        return Check(check_id, severity, error.finding, error.hint)


def _present(snapshot: Snapshot) -> NodeDevice:
    check_endpoint(snapshot)
    if snapshot.node is None:  # check_endpoint has refused it
        raise AssertionError(snapshot.address)
    return snapshot.node


def _disturbs(snapshot: Snapshot, assignment: Assignment) -> bool:
    """Whether the operation would take a device from a domain; what lives on a device always."""
    if not assignment.direct:
        return True
    if snapshot.purpose == "bind":
        return assignment.live
    return snapshot.domain is None or assignment.domain.uuid != snapshot.domain.uuid


def _refuse_without_token(snapshot: Snapshot, node: NodeDevice) -> None:
    physical = node.physical_function and snapshot.physical_functions.get(node.physical_function)
    if snapshot.purpose == "attach" and physical and rules.on_vfio(physical.driver):
        raise VfioUnavailableError(
            f"{node.address} is a virtual function of {physical.address}, which is on "
            f"{physical.driver} itself: such a function opens with a token only",
            hint=f"give {physical.address} back to its host driver first",
        )


def _check_providers(snapshot: Snapshot) -> Check:
    """Leave a device on its driver where that gives it to guests, by a libvirt that does so."""
    found = ", ".join(f"{node.address} is on {node.driver}" for node in snapshot.providers)
    if snapshot.libvirt is not None and not rules.keeps_providers(snapshot.libvirt):
        raise NotSupportedError(
            f"{found}, which gives it to guests itself, and libvirt {snapshot.libvirt} cannot "
            "leave it there",
            hint="needs libvirt 9.7.0 or newer on the host",
        )
    return Check("vfio", "ok", f"{found}, which gives it to guests itself: it stays there")


def _held_elsewhere(
    snapshot: Snapshot, node: NodeDevice, taken: Sequence[PciAddress]
) -> Assignment | None:
    """The running domain that has a sibling, and with it the whole group."""
    if snapshot.purpose == "bind" or node.address in taken:
        return None
    assignments = snapshot.assignments.get(node.address, ())
    return next((each for each in assignments if each.live and _disturbs(snapshot, each)), None)


def _in_the_way(snapshot: Snapshot, node: NodeDevice, why: str) -> str:
    if why == "driver":
        return rules.describe(node)
    assignment = snapshot.assignments[node.address][0]
    return f"{node.address} is held by {rules.describe_assignment(assignment)}"


def _group_hint(in_the_way: Sequence[NodeDevice]) -> str:
    fixed = [node for node in in_the_way if not rules.is_endpoint(node)]
    if fixed:
        return f"{fixed[0].address} cannot be passed through, so nor can its group"
    siblings = ", ".join(f"{node.address} ({rules.kind(node)})" for node in in_the_way)
    return f"also pass {siblings}, or use scope=group"
