"""The checks of a device's health: before it is given to anybody, and before it is cleared."""

from __future__ import annotations

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.errors import DriverNotBoundError, QuarantinedError
from hypeman_libvirt.devices.model import Check
from hypeman_libvirt.devices.quarantine import SILENT
from hypeman_libvirt.devices.snapshot import Snapshot


def check_health(snapshot: Snapshot) -> Check:
    """A device under quarantine is given to nobody."""
    check_answers(snapshot)
    for node in snapshot.taking:
        quarantine = snapshot.quarantine_of(node.device)
        if quarantine is not None:
            raise QuarantinedError(
                f"{node.device} is quarantined since {quarantine.since:%Y-%m-%d %H:%M} UTC: "
                f"{quarantine.reason}",
                hint="look what it has; POST /devices/{id}/clear ends the quarantine if it is well",
            )
    return Check("health", "ok", "it is not quarantined")


def check_answers(snapshot: Snapshot) -> Check:
    """A device whose config space reads all ones has left the bus, or has died on it."""
    for address in snapshot.silent:
        raise QuarantinedError(
            f"{address}: {SILENT}",
            hint="reset its slot or restart the host; replace it if it stays so",
        )
    return Check("answers", "ok", "its config space can be read, or nobody may")


def check_released(snapshot: Snapshot) -> Check:
    """While a running domain has the device, nobody knows how it will come back."""
    for assignment in snapshot.assignments.get(snapshot.address, ()):
        if assignment.live:
            raise rules.in_use(assignment)
    return Check("in_use", "ok", "no running domain has it")


def check_driver(snapshot: Snapshot) -> Check:
    """A device that had a driver has one again."""
    node, registration = snapshot.node, snapshot.registration
    expected = registration.host_driver if registration else None
    if node is not None and node.driver is None and expected is not None:
        raise DriverNotBoundError(
            f"{node.address} has no driver, and was on {expected}",
            hint=f"echo {node.address} > /sys/bus/pci/drivers_probe; see dmesg",
        )
    return Check("driver", "ok", "it has a driver, or never had one")
