"""What a client may call a registered device by."""

from __future__ import annotations

import logging
import re
from typing import Final, Protocol

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.errors import InvalidPciAddressError, NotFoundError
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import Registry

_log: Final = logging.getLogger(__name__)
_NODE_NAME: Final = re.compile(r"pci_([0-9a-f]{4,8})_([0-9a-f]{2})_([0-9a-f]{2})_([0-7])")
_MDEV_NAME: Final = re.compile(
    r"(?:mdev_)?([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:_.*)?"
)
"""A mediated device's UUID, or libvirt's name of one, which ends with its parent."""


class NamedHost(Protocol):
    """The part of a host that references are resolved with; Host and HostView both have it."""

    def key(self) -> str:
        """Return what registrations are keyed by."""

    def node_device_named(self, node_name: str) -> NodeDevice | None:
        """Look up a PCI function by libvirt's name; None when there is none."""


class References:
    """Looks up registrations by what a client calls them."""

    def __init__(self, host: NamedHost, registry: Registry) -> None:
        """Look up in this registry the devices of this host."""
        self._host = host
        self._registry = registry

    def key(self) -> str:
        """Return what registrations of the host are keyed by."""
        return self._host.key()

    def find(self, reference: str) -> Registration:
        """Look up by id, name, PCI address, UUID or libvirt's node device name, in this order.

        A name from before such names were refused may be the node device name of another device:
        the name wins, and the log says so.

        Raises:
            NotFoundError: No registration is known by it.
        """
        key = self._host.key()
        registration = self._registry.find(key, reference)
        if registration is None and (device := self._device_of(reference)):
            registration = self._registry.find_by_device(key, device)
        if registration is None:
            raise NotFoundError(
                f"no device {reference[: rules.MAX_NAME]!r} is registered",
                hint="GET /devices lists those that are",
            )
        if registration.name == reference and rules.is_misleading(registration):
            _log.warning(
                "%r is the name of the device at %s, which is taken, and not libvirt's node device",
                reference,
                registration.pci_address,
                extra={
                    "device_id": registration.id,
                    "pci_address": str(registration.pci_address),
                },
            )
        return registration

    def find_function(self, reference: str) -> Registration | PciAddress:
        """Look up a registration, else a PCI function of the host by address or libvirt's name.

        Raises:
            NotFoundError: Neither is known by it.
        """
        try:
            return self.find(reference)
        except NotFoundError:
            address = self._device_of(reference)
            if not isinstance(address, PciAddress):
                raise
            if self._host.node_device_named(address.node_device_name) is None:
                raise
            return address

    def _device_of(self, reference: str) -> HostDeviceId | None:
        parts = _NODE_NAME.fullmatch(reference)
        if parts:
            return PciAddress(*(int(part, 16) for part in parts.groups()))
        uuid = _MDEV_NAME.fullmatch(reference.lower())
        if uuid:
            return MdevUuid(uuid[1].replace("_", "-"))
        try:
            return PciAddress.parse(reference)
        except InvalidPciAddressError:
            node = self._host.node_device_named(reference)
            return node.address if node else None
