"""Our metadata of domains: which registered devices each has."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.domain import Domain, MetadataEntry
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.ports import Host, Registry
from hypeman_libvirt.devices.transaction import Transaction

_log: Final = logging.getLogger(__name__)


class Notes:
    """Our metadata of domains: which registered devices each holds, and what attach bound."""

    def __init__(self, host: Host, registry: Registry) -> None:
        """Read from this host, and name devices as this registry does."""
        self._host = host
        self._registry = registry

    def add(
        self,
        transaction: Transaction,
        registration: Registration,
        domain: Domain,
        devices: Sequence[HostDeviceId],
        bound: Sequence[PciAddress],
    ) -> None:
        """Note the devices before the domain gets them, so that nothing is there without a note.

        What an earlier attach has bound, whose end was not seen, stays noted.
        """
        before = self._host.read_metadata(domain)
        entries = self._entries(before, registration, devices, bound)
        transaction.undo.callback(self._restore, transaction, domain, before, devices)
        transaction.changes.write_metadata(domain, entries)

    def complete(
        self,
        transaction: Transaction,
        registration: Registration,
        domain: Domain,
        devices: Sequence[HostDeviceId],
    ) -> None:
        """Note what the domain has without a note, such as after an attach with a lost reply."""
        try:
            before = self._host.read_metadata(domain)
            entries = self._entries(before, registration, devices, ())
            if {entry.id for entry in before} != {entry.id for entry in entries}:
                transaction.changes.write_metadata(domain, entries)
        except DeviceError:
            _log.exception(
                "metadata of domain %s lacks devices that it has",
                domain.name,
                extra={"domain": domain.name},
            )

    def _entries(
        self,
        before: Sequence[MetadataEntry],
        registration: Registration,
        devices: Sequence[HostDeviceId],
        bound: Sequence[PciAddress],
    ) -> Sequence[MetadataEntry]:
        earlier = [each for entry in before if entry.device in devices for each in entry.bound]
        entries = [entry for entry in before if entry.device not in devices]
        for device in devices:
            known = self._registry.find_by_device(registration.host, device)
            if known is not None:
                own = device == registration.device
                noted = tuple(dict.fromkeys([*earlier, *bound])) if own else ()
                entries.append(MetadataEntry(known.id, known.name, device, noted))
        return entries

    def remove(
        self, transaction: Transaction, domain: Domain, entries: Sequence[MetadataEntry]
    ) -> None:
        """Leave only these entries; the detach itself has succeeded, so a failure is logged."""
        try:
            transaction.changes.write_metadata(domain, entries)
        except DeviceError:
            if not self._has_left(domain):
                _log.exception(
                    "metadata of domain %s still names a detached device",
                    domain.name,
                    extra={"domain": domain.name},
                )

    def _has_left(self, domain: Domain) -> bool:
        try:
            return self._host.find_domain(domain.uuid) is None
        except DeviceError:
            return False

    def _restore(
        self,
        transaction: Transaction,
        domain: Domain,
        entries: Sequence[MetadataEntry],
        devices: Collection[HostDeviceId],
    ) -> None:
        """Undo a note, unless the domain has a device that could not be taken out again."""
        try:
            held = self._host.read_domain_assignments(domain)
            if not any(each.device in devices for each in held):
                transaction.changes.write_metadata(domain, entries)
        except DeviceError:
            _log.exception(
                "metadata of domain %s still names devices of a failed attach",
                domain.name,
                extra={"domain": domain.name},
            )
