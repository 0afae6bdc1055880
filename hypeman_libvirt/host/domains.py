"""Giving devices to domains and taking them back, and our note in their metadata."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import libvirt

from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.domain import Domain, GuestInterface, MetadataEntry
from hypeman_libvirt.devices.errors import (
    DeviceError,
    InUseError,
    LibvirtUnavailableError,
    NoFreeSlotError,
    NotAttachedError,
    NotSupportedError,
)
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.errors import FAILED, Meanings
from hypeman_libvirt.host.xml.domain import (
    DEVICES_NAMESPACE,
    NAMESPACE_PREFIX,
    DomainHostdev,
    DomainXml,
    build_hostdev,
    build_mdev_hostdev,
    build_metadata,
    parse_metadata,
    without_alias,
)
from hypeman_libvirt.host.xml.guest_interface import build_interface
from hypeman_libvirt.host.xml.guest_slots import build_hostdevs, list_hot_slots

_log: Final = logging.getLogger(__name__)
_LIVE: Final = libvirt.VIR_DOMAIN_AFFECT_LIVE
_CONFIG: Final = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_WHOLE: Final = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
"""A definition with its passwords: without them, defining it again would lose them.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html, virDomainXMLFlags.
"""
_DOCUMENT_MEANINGS: Final[Meanings] = {
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: FAILED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: FAILED,
    libvirt.VIR_ERR_NO_NODE_DEVICE: FAILED,
    libvirt.VIR_ERR_DEVICE_MISSING: FAILED,
}
"""No device moves when a definition or metadata is written."""
_HOTPLUG_MEANINGS: Final[Meanings] = {
    (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_DOMAIN): (
        NoFreeSlotError,
        (
            "the running domain has no free PCI slot for the device; shut it off first, "
            "or add a controller of model pcie-root-port to its definition"
        ),
    ),
}


class Domains:
    """libvirt's domains over one connection."""

    def __init__(self, connection: Connection) -> None:
        """Ask over this connection."""
        self._connection = connection

    def attach(
        self,
        domain: Domain,
        devices: Sequence[HostDeviceId],
        unmanaged: Collection[HostDeviceId] = (),
        interface: GuestInterface | None = None,
    ) -> None:
        """Give devices to the domain where it does not have them yet, all or none.

        The definition goes first, since taking it back asks no guest. libvirt hot-plugs function
        0 only, so a running guest gets each device in a slot of its own.
        """
        with ExitStack() as undo:
            if domain.persistent:
                self._attach_to_definition(domain, devices, unmanaged, interface, undo)
            if domain.active:
                self._attach_to_guest(domain, devices, unmanaged, interface, undo)
            undo.pop_all()

    def detach(self, domain: Domain, devices: Sequence[HostDeviceId]) -> None:
        """Ask for devices back where the domain has them, the guest first: it may refuse."""
        with ExitStack() as undo:
            if domain.active:
                self._detach_from_guest(domain, devices, undo)
            if domain.persistent:
                self._detach_from_definition(domain, devices, undo)
            undo.pop_all()

    def move_devices(self, domain: Domain, moves: Mapping[PciAddress, PciAddress]) -> None:
        """Say in the definition that devices are at other addresses; a running domain keeps its."""
        self._redefine(domain, lambda definition: definition.with_moved(moves))

    def read_metadata(self, domain: Domain) -> Sequence[MetadataEntry]:
        """Return our entries; empty without."""
        xml = self._connection.read("metadata", lambda c: _read_metadata(_look_up(c, domain)))
        return () if xml is None else parse_metadata(xml)

    def write_metadata(self, domain: Domain, entries: Sequence[MetadataEntry]) -> None:
        """Replace our entries, for now and for the next start; others' metadata stays."""
        xml = build_metadata(entries) if entries else None
        self._connection.write(
            "setMetadata",
            lambda c: _look_up(c, domain).setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                xml,
                NAMESPACE_PREFIX,
                DEVICES_NAMESPACE,
                _affected(domain),
            ),
            _DOCUMENT_MEANINGS,
        )

    def _attach_to_definition(
        self,
        domain: Domain,
        devices: Sequence[HostDeviceId],
        unmanaged: Collection[HostDeviceId],
        interface: GuestInterface | None,
        undo: ExitStack,
    ) -> None:
        definition = self._read_xml(domain, live=False)
        missing = [each for each in devices if definition.find(each) is None]
        undo.callback(self._take_from_definition, domain, missing)
        hostdevs = (
            build_hostdevs(missing, definition, unmanaged)
            if interface is None
            else [_build(each, interface, managed=each not in unmanaged) for each in missing]
        )
        try:
            for xml in hostdevs:
                self._attach_device(domain, xml, _CONFIG)
        except NotSupportedError:
            self._redefine(domain, lambda each: each.with_hostdevs(hostdevs))

    def _attach_to_guest(
        self,
        domain: Domain,
        devices: Sequence[HostDeviceId],
        unmanaged: Collection[HostDeviceId],
        interface: GuestInterface | None,
        undo: ExitStack,
    ) -> None:
        live = self._read_xml(domain, live=True)
        slots = list_hot_slots(live)
        missing = [each for each in devices if live.find(each) is None]
        try:
            for device in missing:
                managed = device not in unmanaged
                bare = _build(device, interface, managed=managed)
                placed = _build(device, interface, next(slots, None), managed=managed)
                with _undone(undo, self._take_from_guest, domain, bare):
                    self._attach_device(domain, placed, _LIVE)
        except NotSupportedError:
            if not domain.persistent:
                raise

    def _detach_from_guest(
        self, domain: Domain, devices: Sequence[HostDeviceId], undo: ExitStack
    ) -> None:
        live = self._read_xml(domain, live=True)
        held = [each for device in devices if (each := live.find(device)) is not None]
        for each in held:
            again = without_alias(each.xml)
            with suppress(NotAttachedError), _undone(undo, self._give_again, domain, again, _LIVE):
                self._detach_surely(domain, each, live=True)

    def _detach_from_definition(
        self, domain: Domain, devices: Collection[HostDeviceId], undo: ExitStack
    ) -> None:
        definition = self._read_xml(domain, live=False)
        held = [each for device in devices if (each := definition.find(device)) is not None]
        try:
            for each in held:
                with _undone(undo, self._give_again, domain, each.xml, _CONFIG):
                    self._detach_surely(domain, each, live=False)
        except NotSupportedError:
            going = {each.device for each in held}
            self._redefine(domain, lambda each: each.without(going))

    def _take_from_definition(self, domain: Domain, devices: Collection[HostDeviceId]) -> None:
        """Undo an attach as far as libvirt lets us; what it refused is in the log."""
        with _logged("the definition", domain), ExitStack() as undo:
            self._detach_from_definition(domain, devices, undo)
            undo.pop_all()

    def _take_from_guest(self, domain: Domain, xml: str) -> None:
        with _logged("the running domain", domain), suppress(NotAttachedError):
            self._detach_device(domain, xml, _LIVE)

    def _give_again(self, domain: Domain, xml: str, flags: int) -> None:
        """Undo a detach with the very element; a guest that did not let go still has it."""
        what = "the running domain" if flags == _LIVE else "the definition"
        with _logged(what, domain), suppress(InUseError):
            self._attach_device(domain, xml, flags)

    def _attach_device(self, domain: Domain, xml: str, flags: int) -> None:
        self._connection.write(
            "attachDeviceFlags",
            lambda c: _look_up(c, domain).attachDeviceFlags(xml, flags),
            _HOTPLUG_MEANINGS if flags == _LIVE else None,
        )

    def _detach_device(self, domain: Domain, xml: str, flags: int) -> None:
        self._connection.write(
            "detachDeviceFlags", lambda c: _look_up(c, domain).detachDeviceFlags(xml, flags)
        )

    def _detach_surely(self, domain: Domain, held: DomainHostdev, *, live: bool) -> None:
        """Detach, and where the reply is lost let the domain say whether it was.

        To give back what is out already can fail: a managed device is on its host driver by then,
        and the kernel gives no guest a part of its group.
        """
        try:
            self._detach_device(domain, held.xml, _LIVE if live else _CONFIG)
        except LibvirtUnavailableError:
            if self._read_xml(domain, live=live).find(held.device) is not None:
                raise

    def _redefine(self, domain: Domain, change: Callable[[DomainXml], str]) -> None:
        xml = self._connection.read("XMLDesc", lambda c: _look_up(c, domain).XMLDesc(_WHOLE))
        changed = change(DomainXml(xml))
        self._connection.write("defineXML", lambda c: c.defineXML(changed), _DOCUMENT_MEANINGS)

    def _read_xml(self, domain: Domain, *, live: bool) -> DomainXml:
        flags = 0 if live else libvirt.VIR_DOMAIN_XML_INACTIVE
        xml = self._connection.read("XMLDesc", lambda c: _look_up(c, domain).XMLDesc(flags))
        return DomainXml(xml)


@contextmanager
def _logged(what: str, domain: Domain) -> Iterator[None]:
    """Let an undo end where libvirt lets it; the error that made it necessary is reported."""
    try:
        yield
    except DeviceError:
        _log.exception(
            "%s of %s is not as it was before a failed change",
            what,
            domain.name,
            extra={"domain": domain.name},
        )


@contextmanager
def _undone(undo: ExitStack, way_back: Callable[..., object], *args: object) -> Iterator[None]:
    """Register the way back before a call, and forget it only if libvirt says that it failed.

    A lost reply says nothing: libvirt may have done it, or may be about to.
    """
    with ExitStack() as step:
        step.callback(way_back, *args)
        try:
            yield
        except LibvirtUnavailableError:
            raise
        except DeviceError:
            step.pop_all()
            raise
        undo.callback(step.pop_all().close)


def _build(
    device: HostDeviceId,
    interface: GuestInterface | None,
    guest: PciAddress | None = None,
    *,
    managed: bool,
) -> str:
    """Write the element of one device, for a slot of the guest."""
    if not isinstance(device, PciAddress):
        return build_mdev_hostdev(device, guest)
    if interface is not None:
        return build_interface(device, interface, guest, managed=managed)
    return build_hostdev(device, guest, managed=managed)


def _affected(domain: Domain) -> int:
    return (_LIVE if domain.active else 0) | (_CONFIG if domain.persistent else 0)


def _look_up(connection: libvirt.virConnect, domain: Domain) -> libvirt.virDomain:
    return connection.lookupByUUIDString(domain.uuid)


def _read_metadata(domain: libvirt.virDomain) -> str | None:
    try:
        return domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, DEVICES_NAMESPACE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise
