"""Would passthrough work? Every check is run, nothing is changed."""

from __future__ import annotations

from typing import Literal, TypeAlias

from hypeman_libvirt.devices import advice, checks
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import DeviceNotFoundError
from hypeman_libvirt.devices.model import Preflight, Registration, Scope
from hypeman_libvirt.devices.references import References
from hypeman_libvirt.devices.snapshot import SnapshotReader

Asked: TypeAlias = Literal["attach", "bind"]
"""The operation that is asked about."""


class Preflighter:
    """Answers beforehand what attach or bind would answer."""

    def __init__(self, references: References, snapshots: SnapshotReader) -> None:
        """Ask about these devices."""
        self._references = references
        self._snapshots = snapshots

    def of_device(
        self,
        reference: str,
        instance: str | None = None,
        scope: Scope = "device",
        purpose: Asked = "attach",
    ) -> Preflight:
        """Check a registered device, for a domain if one is named.

        Raises:
            NotFoundError: No registration is known by the reference.
            InstanceNotFoundError: libvirt has no such domain.
        """
        return self._inspect(self._references.find(reference), instance, scope, purpose)

    def of_address(
        self,
        pci_address: str,
        instance: str | None = None,
        scope: Scope = "device",
        purpose: Asked = "attach",
    ) -> Preflight:
        """Check what is at an address, registered or not.

        Raises:
            InvalidPciAddressError: It is no PCI address.
            DeviceNotFoundError: Nothing is there.
            InstanceNotFoundError: libvirt has no such domain.
        """
        return self._inspect(PciAddress.parse(pci_address), instance, scope, purpose)

    def _inspect(
        self,
        device: Registration | PciAddress,
        instance: str | None,
        scope: Scope,
        purpose: Asked,
    ) -> Preflight:
        domain = self._snapshots.domain(instance) if instance is not None else None
        snapshot = self._snapshots.read(purpose, device, scope, domain)
        if snapshot.node is None and isinstance(device, PciAddress):
            raise DeviceNotFoundError(
                f"no PCI device {device} on this host", hint="GET /devices/available lists them"
            )
        report = checks.inspect(snapshot)
        surroundings = self._snapshots.read_surroundings(snapshot)
        return Preflight((*report.checks, *advice.inspect(snapshot, surroundings)))
