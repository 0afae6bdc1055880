"""Where the cards of registrations are: the rules of identity, asked of one host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.card import Fingerprint, Markings, Verdict
from hypeman_libvirt.devices.fingerprint import Seen, fingerprint_all
from hypeman_libvirt.devices.identity import Known, is_same_incarnation, judge
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import Registry

_MOST_FUNCTIONS: Final = 8
"""In one slot. Source: PCI Express Base Specification, section 2.2.6.2."""


class Whereabouts:
    """Says where cards are, as current as the host that it asks."""

    def __init__(
        self,
        key: Callable[[], str],
        list_node_devices: Callable[[], Sequence[NodeDevice]],
        registry: Registry,
    ) -> None:
        """Judge the registrations of one host.

        Args:
            key: Returns what they are keyed by.
            list_node_devices: Lists every PCI function of the host.
            registry: Has the registrations.
        """
        self._key = key
        self._list_node_devices = list_node_devices
        self._registry = registry
        self._last: tuple[Sequence[Registration], Sequence[NodeDevice], Mapping[str, Verdict]] = (
            (),
            (),
            {},
        )

    def of(self, registration: Registration, node: NodeDevice | None) -> Verdict:
        """Say where one card is; without asking for more where its incarnation proves it.

        Args:
            registration: Also one that is not in the registry yet.
            node: What is at its address.
        """
        if node is not None and is_proven(registration, node):
            return Verdict("present", node.address, "incarnation")
        nodes = self._list_node_devices()
        verdict = self.judge(nodes).get(registration.id)
        return verdict or judge([known_of(registration)], fingerprint_all(nodes))[registration.id]

    def of_all(
        self, registrations: Sequence[Registration], nodes: Sequence[NodeDevice]
    ) -> Mapping[str, Verdict]:
        """Say where these are, of a host with these node devices."""
        by_address = {node.address: node for node in nodes}
        registrations = [each for each in registrations if each.mdev is None]
        proven = {
            each.id: Verdict("present", each.pci_address, "incarnation")
            for each in registrations
            if (node := by_address.get(each.pci_address)) is not None and is_proven(each, node)
        }
        return proven if len(proven) == len(registrations) else self.judge(nodes)

    def judge(self, nodes: Sequence[NodeDevice]) -> Mapping[str, Verdict]:
        """Judge all registrations of the host at once, anew only where something has changed."""
        listed = self._registry.list_registrations(self._key(), {})
        last_listed, last_nodes, verdicts = self._last
        if not (_is_equal(listed, last_listed) and _is_equal(nodes, last_nodes)):
            known = [known_of(each) for each in listed if each.mdev is None]
            verdicts = judge(known, fingerprint_all(nodes))
            self._last = listed, nodes, verdicts
        return verdicts


def _is_equal(one: Sequence[object], other: Sequence[object]) -> bool:
    """Compare lists; those that did not change are mostly the very same object."""
    return one is other or one == other


def list_cards(registry: Registry, host: str) -> Sequence[Registration]:
    """List the registrations that mean a card: a mediated device is known by its UUID alone."""
    return [each for each in registry.list_registrations(host, {}) if each.mdev is None]


def known_of(registration: Registration) -> Known:
    """Return what is known of a registration's card; of one from 0.1 that is little."""
    fingerprint = registration.fingerprint or Fingerprint(
        vendor_id=registration.vendor_id,
        device_id=registration.device_id,
        class_code=registration.class_code,
        markings=Markings(vpd=registration.serial),
    )
    return Known(registration.id, registration.pci_address, fingerprint)


def functions_of_card(
    registration: Registration, old: PciAddress, new: PciAddress
) -> Mapping[PciAddress, PciAddress]:
    """Say where the functions of a card that has moved are now, by where they were.

    A virtual function is alone: its card has other addresses as well.
    """
    fingerprint = registration.fingerprint
    if fingerprint is not None and fingerprint.virtual_function is not None:
        return {old: new}
    return {
        replace(old, function=each): replace(new, function=each) for each in range(_MOST_FUNCTIONS)
    }


def moved_functions(
    placed: Sequence[tuple[Registration, Registration]],
) -> Mapping[PciAddress, PciAddress]:
    """Say where all functions are, by where they were, of the registrations that moved."""
    moved = [(old, new) for old, new in placed if old.pci_address != new.pci_address]
    functions = [functions_of_card(old, old.pci_address, new.pci_address) for old, new in moved]
    with_card = {one: other for each in functions for one, other in each.items()}
    return with_card | {old.pci_address: new.pci_address for old, new in moved}


def is_proven(registration: Registration, node: NodeDevice) -> bool:
    """Whether the kernel has not lost the card since it was known to be this registration's."""
    fingerprint = registration.fingerprint
    if fingerprint is None or registration.displaced or node.incarnation is None:
        return False
    if fingerprint.incarnation != node.incarnation or node.physical_function is not None:
        return False
    seen: Seen = fingerprint_all([node])
    return is_same_incarnation(known_of(registration), seen[node.address])
