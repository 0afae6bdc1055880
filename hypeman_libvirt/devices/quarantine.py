"""Putting devices under quarantine, at the moment at which they do not come back whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

from hypeman_libvirt.devices.address import HostDeviceId
from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.model import Quarantine, Registration
from hypeman_libvirt.devices.ports import Clock, Host, Registry

_log: Final = logging.getLogger(__name__)
SILENT: Final = "its config space reads all ones: the device does not answer"


class Quarantiner:
    """Puts devices under quarantine, and says which are."""

    def __init__(
        self, host: Host, registry: Registry, clock: Clock, on_quarantine: Callable[[], None]
    ) -> None:
        """Quarantine devices of a host.

        Args:
            host: Where they are.
            registry: Stores it.
            clock: Now, in UTC.
            on_quarantine: Is called after each that has begun.
        """
        self._host = host
        self._registry = registry
        self._clock = clock
        self._on_quarantine = on_quarantine

    def quarantine(self, device: HostDeviceId, reason: str) -> None:
        """Put a device under quarantine, which begins now; it never fails, for it ends a failure.

        Args:
            device: Registered or not.
            reason: For people.
        """
        self._store(device, Quarantine(reason, self._clock()))
        _log.error("%s is quarantined: %s", device, reason, extra={"pci_address": str(device)})
        self._on_quarantine()

    def quarantine_silent(self, devices: Collection[HostDeviceId]) -> None:
        """Put devices under quarantine that do not answer."""
        for device in devices:
            self.quarantine(device, SILENT)

    def quarantine_after_use(
        self, devices: Collection[HostDeviceId], domain: Domain
    ) -> Sequence[HostDeviceId]:
        """Put those under quarantine that are registered so, once no domain has them any more.

        It is stored before the domain has them: whoever takes them from it, and whether a service
        runs then, changes nothing.

        Returns:
            Those that were under none.

        Raises:
            RegistryUnavailableError: It could not be stored, so the domain must not have them.
        """
        key = self._host.key()
        known = self._registry.list_quarantines(key)
        wanted = [
            each.device
            for each in self._registry.list_registrations(key, {})
            if each.require_clean and each.device in devices and each.device not in known
        ]
        reason = f"domain {domain.name} has used it"
        for device in wanted:
            self._registry.quarantine(
                key, device, Quarantine(reason, self._clock(), after_use=True)
            )
        return wanted

    def forget_use(self, devices: Collection[HostDeviceId]) -> None:
        """End what ``quarantine_after_use`` has begun: no domain was given them."""
        for device in devices:
            found = self.find(device)
            if found is not None and found.after_use:
                self._end(device)

    def note_uses(self, registrations: Collection[Registration]) -> None:
        """Store which devices are used that were given by others, such as virsh.

        Raises:
            DeviceError: Host or registry does not answer.
        """
        wanted = {each.device for each in registrations if each.require_clean}
        for device, held in self._host.read_assignments(wanted).items() if wanted else ():
            for each in held:
                if each.direct:
                    self.quarantine_after_use([device], each.domain)

    def find(self, device: HostDeviceId) -> Quarantine | None:
        """Return the quarantine of a device; None without one, and where it cannot be read."""
        try:
            return self._registry.list_quarantines(self._host.key()).get(device)
        except DeviceError:
            return None

    def _end(self, device: HostDeviceId) -> None:
        try:
            self._registry.end_quarantine(self._host.key(), device)
        except DeviceError:
            _log.exception(
                "%s is quarantined, and was not used", device, extra={"pci_address": str(device)}
            )

    def _store(self, device: HostDeviceId, quarantine: Quarantine) -> None:
        try:
            self._registry.quarantine(self._host.key(), device, quarantine)
        except DeviceError:
            _log.exception(
                "%s could not be quarantined", device, extra={"pci_address": str(device)}
            )
