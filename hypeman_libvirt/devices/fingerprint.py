"""What tells one card from another, as far as it can be read.

All fingerprints of a host are taken together: which serial numbers are shared, and where the
other cards of a model are, no card says alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.card import SHARED, UNKNOWN, Fingerprint, Markings, slot_of
from hypeman_libvirt.devices.node_device import NodeDevice

_SHORTEST_SERIAL: Final = 4
_PLACEHOLDERS: Final = frozenset(
    {
        "none", "null", "unknown", "unspecified", "notspecified", "notavailable", "notapplicable",
        "default", "defaultstring", "tobefilledbyoem", "serial", "serialnumber",
        "systemserialnumber", "invalid", "empty", "test", "deadbeef", "0123456789",
        "1234567890", "123456789", "12345678",
        "1234567", "123456", "12345", "1234", "0123456789abcdef",
    }
)  # fmt: skip


Seen: TypeAlias = Mapping[PciAddress, Fingerprint]
"""Fingerprints of all that the host has now."""


def fingerprint_all(nodes: Iterable[NodeDevice]) -> Seen:
    """Take the fingerprints of all node devices of a host, which only together say enough."""
    by_address = {node.address: node for node in nodes}
    physical = {
        address: node
        for address, node in by_address.items()
        if node.physical_function not in by_address
    }
    found = _fingerprint_physical(_share_serials(physical.values()))
    for address, node in physical.items():
        found |= _fingerprint_virtual(node, found[address], by_address)
    return found


def update(known: Fingerprint, seen: Fingerprint) -> Fingerprint:
    """Return what is known of a card after it was certainly seen again."""
    return replace(
        seen,
        markings=known.markings.updated(seen.markings),
        class_code=known.class_code if seen.class_code is None else seen.class_code,
        incarnation=seen.incarnation or known.incarnation,
        family={
            topology: known.family.get(topology, UNKNOWN).updated(markings)
            for topology, markings in seen.family.items()
        },
    )


def confirm(known: Fingerprint, seen: Fingerprint) -> Fingerprint:
    """Return what is known of a card after the operator said that this is it.

    Of what was known before only that serials are shared remains: the rest may be another card's.
    """
    shared = {name: SHARED for name in ("vpd", "pcie") if getattr(known.markings, name) == SHARED}
    return replace(seen, markings=replace(seen.markings, **shared))


def _share_serials(nodes: Collection[NodeDevice]) -> Sequence[NodeDevice]:
    """Give each function the serials of function 0 where it has none: they are of one card."""
    firsts = {slot_of(_topology(node)): node for node in nodes if node.address.function == 0}
    return [
        replace(
            node,
            serial=node.serial or first.serial,
            device_serial=node.device_serial or first.device_serial,
        )
        for node in nodes
        for first in [firsts.get(slot_of(_topology(node)), node)]
    ]


def _fingerprint_physical(nodes: Collection[NodeDevice]) -> dict[PciAddress, Fingerprint]:
    models: dict[str, list[NodeDevice]] = defaultdict(list)
    functions: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        models[_model(node)].append(node)
        topology = _topology(node)
        functions[slot_of(topology)].add(f"{topology[-1]} {_model(node)}")
    return {
        node.address: Fingerprint(
            vendor_id=node.vendor_id,
            device_id=node.device_id,
            class_code=node.class_code,
            markings=family[_topology(node)],
            topology=_topology(node),
            card=model,
            functions=frozenset(functions[slot_of(_topology(node))]),
            family=family,
            incarnation=node.incarnation,
        )
        for model, members in models.items()
        for family in [_family(members)]
        for node in members
    }


def _fingerprint_virtual(
    physical: NodeDevice, card: Fingerprint, nodes: Mapping[PciAddress, NodeDevice]
) -> Mapping[PciAddress, Fingerprint]:
    """Describe virtual functions as their physical function and a number.

    Their addresses grow with their number; PCI Express Base Specification, section 9.2.1.2.
    """
    return {
        address: replace(
            card,
            vendor_id=nodes[address].vendor_id,
            device_id=nodes[address].device_id,
            class_code=nodes[address].class_code,
            virtual_function=number,
        )
        for number, address in enumerate(sorted(physical.virtual_functions))
        if address in nodes
    }


def _family(members: Collection[NodeDevice]) -> Mapping[str, Markings]:
    """Return the markings of one model's functions, without serials that several cards carry."""
    vpd = _usable({_topology(node): node.serial for node in members})
    pcie = _usable({_topology(node): node.device_serial for node in members})
    subsystem = {_topology(node): node.subsystem for node in members}
    return {each: Markings(vpd[each], pcie[each], subsystem[each]) for each in vpd}


def _usable(serials: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """Leave out placeholders; where two cards carry one serial, none of the model's is of use."""
    real = {
        topology: None if serial is None or _is_placeholder(serial) else serial
        for topology, serial in serials.items()
    }
    carriers = defaultdict[str, set[str]](set)
    for topology, serial in real.items():
        if serial is not None:
            carriers[serial].add(slot_of(topology))
    if any(len(cards) > 1 for cards in carriers.values()):
        return dict.fromkeys(real, SHARED)
    return real


def _is_placeholder(serial: str) -> bool:
    plain = "".join(filter(str.isalnum, serial)).lower()
    return len(plain) < _SHORTEST_SERIAL or len(set(plain)) == 1 or plain in _PLACEHOLDERS


def _topology(node: NodeDevice) -> str:
    """Return the chain from the root; where the host does not say it, the bus stands for it."""
    address = node.address
    return node.topology or (
        f"pci{address.domain:04x}:{address.bus:02x}/{address.slot:02x}.{address.function:x}"
    )


def _model(node: NodeDevice) -> str:
    return f"{node.vendor_id}:{node.device_id}"


def _subclass(class_code: int | None) -> int | None:
    return None if class_code is None else class_code >> 8
