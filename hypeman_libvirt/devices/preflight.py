"""Would passthrough work? Every check asked, nothing changed."""

from __future__ import annotations

from dataclasses import replace

from hypeman_libvirt.devices import checks
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import Preflight, Registration, Scope
from hypeman_libvirt.devices.snapshot import SnapshotReader


class Preflighter:
    """Answers beforehand what attach would answer."""

    def __init__(self, inventory: Inventory, survey: SnapshotReader) -> None:
        """Ask about devices of this inventory."""
        self._inventory = inventory
        self._survey = survey

    def of_device(
        self, reference: str, instance: str | None = None, scope: Scope = "device"
    ) -> Preflight:
        """Check a registered device, for a domain if one is named.

        Raises:
            NotFoundError: No registration is known by the reference.
            InstanceNotFoundError: libvirt has no such domain.
        """
        registration = self._inventory.find_registration(reference)
        return self._inspect(registration.pci_address, registration, instance, scope)

    def of_address(
        self, pci_address: str, instance: str | None = None, scope: Scope = "device"
    ) -> Preflight:
        """Check what is at an address, registered or not.

        Raises:
            InvalidPciAddressError: It is no PCI address.
            DeviceNotFoundError: Nothing is there.
            InstanceNotFoundError: libvirt has no such domain.
        """
        node = self._inventory.node_device(PciAddress.parse(pci_address))
        return self._inspect(node.address, None, instance, scope)

    def _inspect(
        self,
        address: PciAddress,
        registration: Registration | None,
        instance: str | None,
        scope: Scope,
    ) -> Preflight:
        domain = self._survey.domain(instance) if instance is not None else None
        now = self._survey.snapshot(address, registration, scope, "attach")
        return checks.inspect(replace(now, domain=domain))
