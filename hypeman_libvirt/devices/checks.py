"""The questions before passthrough: one function each, for preflight and for every refusal.

A check returns what it found, or raises the error that bind and attach would answer with. So
preflight and the operations can never disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    CriticalDeviceError,
    DeviceError,
    ErrorDetail,
    IdentityChangedError,
    InUseError,
    IommuGroupConflictError,
    NotAssignableError,
    VfioUnavailableError,
    VirtualFunctionsEnabledError,
)
from hypeman_libvirt.devices.model import (
    Assignment,
    Check,
    Domain,
    HostUse,
    NodeDevice,
    Preflight,
    Registration,
)
from hypeman_libvirt.devices.ports import AssignmentsByDevice


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the checks look at, read once.

    Attributes:
        address: The device in question.
        node: What is there; None when nothing is.
        registration: Ours; None for a device that is not registered.
        group: Every member of its IOMMU group.
        taking: Members that the scope covers.
        assignments: Who holds what.
        uses: What the host does with endpoints of the group.
        has_vfio: Whether the hypervisor passes devices through; None when it does not say.
        purpose: To change the driver, or to give the device to a domain.
        domain: Who is to get it; None when that is not decided.
    """

    address: PciAddress
    node: NodeDevice | None
    registration: Registration | None
    group: Sequence[NodeDevice]
    taking: Sequence[NodeDevice]
    assignments: AssignmentsByDevice
    uses: Sequence[HostUse]
    has_vfio: bool | None
    purpose: Literal["bind", "attach"]
    domain: Domain | None = None


def check_endpoint(now: Snapshot) -> Check:
    """A bridge can never be assigned."""
    if now.node is None:
        raise IdentityChangedError(
            f"no PCI device is at {now.address} now", hint="plug it in again, or unregister it"
        )
    if not rules.is_endpoint(now.node):
        raise NotAssignableError(
            f"{now.address} is a bridge and stays with the host", hint="choose a device behind it"
        )
    return Check("endpoint", "ok", f"{now.address} is an endpoint")


def check_iommu(now: Snapshot) -> Check:
    """Without an IOMMU group there is no passthrough."""
    node = _present(now)
    rules.check_assignable(node)
    return Check("iommu", "ok", f"{now.address} is in IOMMU group {node.iommu_group}")


def check_identity(now: Snapshot) -> Check:
    """The hardware must be what was registered."""
    node = _present(now)
    if now.registration is None:
        return Check("identity", "ok", f"{now.address} is not registered yet")
    changed = rules.differences(now.registration, node)
    if changed:
        raise IdentityChangedError(
            f"other hardware is at {now.address} than was registered: {', '.join(changed)}",
            hint="unregister the device and register it anew if that is meant",
        )
    return Check("identity", "ok", "the hardware is what was registered")


def check_critical(now: Snapshot) -> Check:
    """What the host lives on stays with it, over the whole group."""
    if not now.uses:
        return Check("critical", "ok", "the host does not use the group")
    found = "; ".join(f"{use.address}: {use.what}" for use in now.uses)
    lead = "the host lives on it" if any(use.known for use in now.uses) else "it may be in use"
    raise CriticalDeviceError(
        f"{lead}: {found}",
        hint="free it on the host first, or pass force=true if the host can do without it",
        details=[ErrorDetail("host_use", f"{use.address}: {use.what}") for use in now.uses],
    )


def check_in_use(now: Snapshot) -> Check:
    """A domain that holds a device keeps it."""
    for node in now.taking:
        for assignment in now.assignments.get(node.address, ()):
            if _disturbs(now, assignment):
                raise in_use(assignment)
    return Check("in_use", "ok", "no domain holds it")


def check_sriov(now: Snapshot) -> Check:
    """A physical function whose virtual functions are enabled cannot leave its driver.

    Source: the kernel, vfio_pci_core: vfio-pci refuses a PF with VFs of its host driver.
    """
    for node in now.taking:
        if node.virtual_functions:
            raise VirtualFunctionsEnabledError(
                f"{node.address} has {len(node.virtual_functions)} virtual functions enabled",
                hint="pass one of them, or write 0 to its sriov_numvfs on the host first",
            )
    return Check("sriov", "ok", "no virtual functions are enabled on it")


def check_group(now: Snapshot) -> Check:
    """After the call every member of the group must be off the host's drivers."""
    taken = [node.address for node in now.taking]
    in_the_way = [(node, "driver") for node in rules.obstacles(now.group, taken)]
    in_the_way += [(node, "domain") for node in now.group if _held_elsewhere(now, node, taken)]
    if not in_the_way:
        return Check("group", "ok", f"the group of {len(now.group)} can be passed through")
    found = [_in_the_way(now, *each) for each in in_the_way]
    raise IommuGroupConflictError(
        f"IOMMU group {now.group[0].iommu_group} is not viable without {', '.join(found)}",
        hint=_group_hint([node for node, _ in in_the_way]),
        details=[ErrorDetail("iommu_group_member", each) for each in found],
    )


def check_vfio(now: Snapshot) -> Check:
    """The hypervisor must be able to pass PCI devices through."""
    if now.has_vfio is False:
        raise VfioUnavailableError(
            "libvirt reports no VFIO on this host", hint="load vfio-pci: modprobe vfio-pci"
        )
    known = "the host has VFIO" if now.has_vfio else "libvirt does not say that VFIO is missing"
    return Check("vfio", "ok", known)


def check_numa(now: Snapshot) -> Check:
    """A domain on another NUMA node reaches the device through the interconnect."""
    node = _present(now)
    if now.domain is None or node.numa_node is None or not now.domain.numa_nodes:
        return Check("numa", "ok", "nothing binds the domain's memory to another NUMA node")
    if node.numa_node in now.domain.numa_nodes:
        return Check("numa", "ok", f"domain and device are on NUMA node {node.numa_node}")
    nodes = ", ".join(map(str, sorted(now.domain.numa_nodes)))
    return Check(
        "numa",
        "warning",
        f"the device is on NUMA node {node.numa_node}, memory of {now.domain.name} on {nodes}",
        f"set <numatune><memory nodeset='{node.numa_node}'/> in the domain",
    )


def check_pcie_link(now: Snapshot) -> Check:
    """A link below its capability costs bandwidth; idle GPUs lower it by themselves."""
    node = _present(now)
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


CHECKS: Final[Sequence[tuple[str, Callable[[Snapshot], Check]]]] = (
    ("endpoint", check_endpoint),
    ("iommu", check_iommu),
    ("identity", check_identity),
    ("critical", check_critical),
    ("in_use", check_in_use),
    ("sriov", check_sriov),
    ("group", check_group),
    ("vfio", check_vfio),
    ("numa", check_numa),
    ("pcie_link", check_pcie_link),
)
"""In the order in which an operation refuses."""


def guard(now: Snapshot, *, force: bool) -> None:
    """Raise what stands against the operation; ``force`` overrides ``critical`` alone.

    Raises:
        DeviceError: The first check that found an error.
    """
    for check_id, check in CHECKS:
        if not (force and check_id == "critical"):
            check(now)


def inspect(now: Snapshot) -> Preflight:
    """Ask every question. Those about a device that is not there are left out."""
    asked = CHECKS if now.node is not None else CHECKS[:1]
    return Preflight(tuple(_answer(check_id, check, now) for check_id, check in asked))


def in_use(assignment: Assignment) -> InUseError:
    """The refusal that names who holds a device."""
    return InUseError(
        f"{assignment.device} is in use by {rules.describe_assignment(assignment)}",
        hint="detach it there first",
    )


def _answer(check_id: str, check: Callable[[Snapshot], Check], now: Snapshot) -> Check:
    try:
        return check(now)
    except DeviceError as error:
        return Check(check_id, "error", error.finding, error.hint)


def _present(now: Snapshot) -> NodeDevice:
    check_endpoint(now)
    if now.node is None:  # check_endpoint has refused it
        raise AssertionError(now.address)
    return now.node


def _disturbs(now: Snapshot, assignment: Assignment) -> bool:
    if now.purpose == "bind":
        return assignment.live
    return now.domain is None or assignment.domain.uuid != now.domain.uuid


def _held_elsewhere(
    now: Snapshot, node: NodeDevice, taken: Sequence[PciAddress]
) -> Assignment | None:
    """The running domain that has a sibling, and with it the whole group."""
    if now.purpose == "bind" or node.address in taken:
        return None
    assignments = now.assignments.get(node.address, ())
    return next((each for each in assignments if each.live and _disturbs(now, each)), None)


def _in_the_way(now: Snapshot, node: NodeDevice, why: str) -> str:
    if why == "driver":
        return rules.describe(node)
    return (
        f"{node.address} is held by {rules.describe_assignment(now.assignments[node.address][0])}"
    )


def _group_hint(in_the_way: Sequence[NodeDevice]) -> str:
    fixed = [node for node in in_the_way if not rules.is_endpoint(node)]
    if fixed:
        return f"{fixed[0].address} cannot be passed through, so nor can its group"
    siblings = ", ".join(f"{node.address} ({rules.kind(node)})" for node in in_the_way)
    return f"also pass {siblings}, or use scope=group"
