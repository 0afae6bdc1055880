"""Cleaning devices after a use with the operator's program, which the root helper runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.errors import BusyError, DeviceError, NotSupportedError
from hypeman_libvirt.devices.ports import RootHelper
from hypeman_libvirt.devices.quarantine import SILENT

_log: Final = logging.getLogger(__name__)
_PATIENCE: Final = 1.0
"""Seconds that a hook under way has to end when the service does."""


class Cleaner:
    """Runs the release hook for devices that are quarantined after a use, and ends that.

    Without a hook they wait for the operator's ``clear``, as they do where it fails.
    """

    def __init__(
        self, context: ChangeContext, helper: RootHelper, on_clean: Callable[[], None]
    ) -> None:
        """Clean in this context.

        Args:
            context: The host, and what is stored about its devices.
            helper: Runs the hook as root.
            on_clean: Is called after a quarantine has ended.
        """
        self._host = context.host
        self._registry = context.registry
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._quarantiner = context.quarantiner
        self._helper = helper
        self._on_clean = on_clean
        self._again: Final = threading.Event()
        self._running: Final = threading.Lock()
        self._closed = False

    def wake(self) -> None:
        """Clean on a thread: a hook may take minutes. One that runs looks once more."""
        self._again.set()
        if not (self._closed or self._running.locked()):
            threading.Thread(target=self._run, name="cleaner", daemon=True).start()

    def close(self) -> None:
        """Clean no more; a hook that runs is not awaited long."""
        self._closed = True
        self._again.clear()
        if self._running.acquire(timeout=_PATIENCE):
            self._running.release()

    def clean(self) -> Sequence[PciAddress]:
        """Run the hook for each device whose use has ended.

        Returns:
            Those that are offered again.

        Raises:
            DeviceError: Host or registry does not answer.
        """
        quarantines = self._registry.list_quarantines(self._host.key())
        used = [each for each, quarantine in quarantines.items() if quarantine.after_use]
        cards = [each for each in used if isinstance(each, PciAddress)]
        return [each for each in cards if self._clean(each)]

    def _run(self) -> None:
        while self._again.is_set() and self._running.acquire(blocking=False):
            try:
                self._again.clear()
                self.clean()
            except DeviceError as error:
                _log.info("devices cannot be cleaned now: %s", error.message)
            finally:
                self._running.release()

    def _clean(self, device: PciAddress) -> bool:
        """Run the hook with locks on the device and its group, so that nobody is given it."""
        marked = {"pci_address": str(device)}
        try:
            with self._transactions.hold(self._snapshots.lock_keys(device)):
                if self._is_used(device):
                    return False
                failure = self._run_hook(device)
                if failure is not None:
                    self._quarantiner.quarantine(device, failure)
                    return False
                self._registry.end_quarantine(self._host.key(), device)
        except (BusyError, NotSupportedError) as error:
            _log.debug("%s is not cleaned: %s", device, error.message, extra=marked)
            return False
        _log.info("%s was cleaned by on_release, and is offered again", device, extra=marked)
        self._on_clean()
        return True

    def _run_hook(self, device: PciAddress) -> str | None:
        """Run the hook; return why the device is still not to be offered.

        Raises:
            NotSupportedError: There is no hook, or no helper.
        """
        try:
            self._helper.run_release_hook(device)
        except NotSupportedError:
            raise
        except DeviceError as error:
            return f"on_release failed: {error.finding}"
        return None if self._answers(device) else SILENT

    def _is_used(self, device: PciAddress) -> bool:
        assignments = self._host.read_assignments([device])
        return rules.first_assignment(assignments, device) is not None

    def _answers(self, device: PciAddress) -> bool:
        node = self._host.node_device(device)
        return node is not None and self._host.answers(node) is not False
