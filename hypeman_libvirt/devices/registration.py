"""Registering and unregistering devices, and the root of everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.checks import in_use
from hypeman_libvirt.devices.errors import NotFoundError
from hypeman_libvirt.devices.event_feed import EventFeed
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import (
    Caller,
    Change,
    Device,
    NodeDevice,
    Registration,
    Scope,
)
from hypeman_libvirt.devices.passthrough import Passthrough, Work
from hypeman_libvirt.devices.ports import Clock, Host, NewId, OnChange, Registry
from hypeman_libvirt.devices.preflight import Preflighter

_LOST_REPLY: Final = timedelta(minutes=1)
"""How long a client that repeats a request is believed to have missed the answer."""


class DeviceService:
    """hypeman's device API on one libvirt host.

    Attributes:
        inventory: Reads.
        passthrough: Moves devices.
        preflight: Says beforehand what would happen.
        event_feed: Tells what happened.
    """

    def __init__(
        self,
        host: Host,
        registry: Registry,
        inventory: Inventory,
        passthrough: Passthrough,
        preflight: Preflighter,
        event_feed: EventFeed,
        *,
        clock: Clock,
        new_id: NewId,
        on_change: OnChange,
        on_close: Callable[[], None],
    ) -> None:
        """Build it on its world."""
        self.inventory = inventory
        self.passthrough = passthrough
        self.preflight = preflight
        self.event_feed = event_feed
        self._host = host
        self._registry = registry
        self._clock = clock
        self._new_id = new_id
        self._on_change = on_change
        self._on_close = on_close

    def close(self) -> None:
        """End every stream of events and close what the service was built on."""
        self._on_close()

    def ping(self) -> None:
        """Raise if libvirt or the registry does not answer.

        Raises:
            LibvirtUnavailableError: libvirt does not.
            RegistryUnavailableError: The registry does not.
        """
        self._host.ping()
        self._registry.ping()

    def register(
        self,
        pci_address: str,
        name: str | None,
        tags: Mapping[str, str],
        caller: Caller,
        bind: Scope | None = None,
    ) -> Device:
        """Give a PCI device of the host an id and a name; with ``bind``, to vfio-pci as well.

        The checks come in hypeman's order, so that the same bad request gets the same code.

        Args:
            pci_address: Any accepted form; see PciAddress.parse.
            name: None for the default name.
            tags: Free words.
            caller: On whose behalf.
            bind: Bind it in the same step, or do neither.

        Raises:
            InvalidNameError: The name breaks the rules.
            InvalidTagsError: A tag breaks the rules.
            InvalidPciAddressError: It is no PCI address.
            DeviceNotFoundError: The host has nothing there.
            NotAssignableError: It is a bridge.
            IommuUnavailableError: It is in no IOMMU group.
            ConflictError: Name or address is taken.
        """
        if name is not None:
            rules.check_name(name)
        rules.check_tags(tags)
        address = PciAddress.parse(pci_address)
        node = self.inventory.node_device(address)
        rules.check_assignable(node)
        new = self._registration(node, name or address.default_name, tags, caller)
        earlier = self._answered_before(new) if caller.is_retry else None
        if earlier is None:
            return self._add(new, caller, bind)
        return (
            self.passthrough.bind(earlier.id, bind, caller) if bind else self.inventory.of(earlier)
        )

    def unregister(self, reference: str, caller: Caller, unbind: Scope | None = None) -> None:
        """Forget a device; with ``unbind``, give it back to its host driver as well.

        Raises:
            NotFoundError: No registration is known by the reference.
            InUseError: A domain holds it.
        """
        found = self.inventory.get(reference)
        registration = found.registration

        def remove(device: Device) -> None:
            if device.assignment is not None:
                raise in_use(device.assignment)
            if not self._registry.remove(registration.host, registration.id):
                raise NotFoundError(f"device {registration.id} was unregistered meanwhile")
            self._on_change(Change("unregister", caller, found, None))

        if unbind is None:
            with self.passthrough.alone(registration):
                remove(self.inventory.of(registration))
            return

        def give_back_and_remove(work: Work) -> Device:
            device = self.passthrough.unbind_now(registration, unbind, caller, work)
            remove(device)
            return device

        self.passthrough.run(registration, give_back_and_remove)

    def _add(self, new: Registration, caller: Caller, bind: Scope | None) -> Device:
        device = self._add_and_bind(new, caller, bind) if bind else self._add_and_look(new)
        self._on_change(Change("register", caller, None, device))
        return device

    def _add_and_look(self, new: Registration) -> Device:
        """Keep the registration only if it can be answered for: an error means it is not there."""
        with ExitStack() as undo:
            self._registry.add(new)
            undo.callback(self._registry.remove, new.host, new.id)
            device = self.inventory.of(new)
            undo.pop_all()
            return device

    def _add_and_bind(self, new: Registration, caller: Caller, scope: Scope) -> Device:
        def add_and_bind(work: Work) -> Device:
            self._registry.add(new)
            work.undo.callback(self._registry.remove, new.host, new.id)
            return self.passthrough.bind_now(new, scope, caller, work)

        return self.passthrough.run(new, add_and_bind)

    def _registration(
        self, node: NodeDevice, name: str, tags: Mapping[str, str], caller: Caller
    ) -> Registration:
        return Registration(
            id=self._new_id(),
            host=self._host.key(),
            pci_address=node.address,
            name=name,
            created_at=self._clock(),
            created_by=caller.subject,
            vendor_id=node.vendor_id,
            device_id=node.device_id,
            class_code=node.class_code,
            serial=node.serial,
            iommu_group=node.iommu_group,
            host_driver=node.driver if rules.on_host_driver(node) else None,
            tags=dict(tags),
        )

    def _answered_before(self, new: Registration) -> Registration | None:
        """The registration that a first, unseen answer of this very request has made."""
        found = self._registry.find_by_address(new.host, new.pci_address)
        if found is None or found.name != new.name or found.created_by != new.created_by:
            return None
        apart = abs(new.created_at - found.created_at)  # the clock may have been set back
        return found if apart <= _LOST_REPLY else None
