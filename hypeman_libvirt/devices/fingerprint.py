"""What tells one card from another, as far as it can be read.

All fingerprints of a host are taken together: which serial numbers are shared, and where the
other cards of a model are, no card says alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.model import NodeDevice

SHARED: Final = ""
"""In place of the serial numbers of a model of which several cards carry the same one."""

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


@dataclass(frozen=True, slots=True)
class Markings:
    """What is written into a card; None where it could not be read.

    Attributes:
        vpd: Serial number from the vital product data.
        pcie: PCIe Device Serial Number, which every function of a card shares.
        subsystem: ``vendor:device`` of the board, the same on all boards of a kind.
    """

    vpd: str | None = None
    pcie: str | None = None
    subsystem: str | None = None

    @property
    def has_serial(self) -> bool:
        """Whether there is a serial number that tells cards apart."""
        return bool(self.vpd or self.pcie)

    def match(self, other: Markings) -> bool:
        """Whether a serial number was read on both sides, and nothing differs."""
        return any(self._compare_serials(other)) and not self.contradict(other)

    def contradict(self, other: Markings) -> bool:
        """Whether something was read on both sides and differs."""
        return not (all(self._compare_serials(other)) and agree(self.subsystem, other.subsystem))

    def updated(self, newer: Markings) -> Markings:
        """Return what is known after reading again; what several cards carry stays useless."""
        return Markings(
            _newer(self.vpd, newer.vpd),
            _newer(self.pcie, newer.pcie),
            newer.subsystem or self.subsystem,
        )

    def _compare_serials(self, other: Markings) -> Sequence[bool]:
        pairs = ((self.vpd, other.vpd), (self.pcie, other.pcie))
        return [ours == theirs for ours, theirs in pairs if ours and theirs]


UNKNOWN: Final = Markings()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is known of a card, at registration and each time that it was certain.

    Attributes:
        vendor_id: Of this function; four hex digits, as is the next.
        device_id: Likewise.
        class_code: 24 bit; None where it was not said.
        markings: Of the card.
        topology: Of the physical function, such as ``pci0000:00/08.0/00.0``; None for a
            registration of 0.1.
        card: ``vendor:device`` of the physical function, which is the model.
        virtual_function: Number among those of the physical function; None for a physical one.
        functions: The card's physical functions, such as ``0 10de:2204``.
        family: Topology and markings of every physical function of this model, its own included.
        incarnation: Differs after each boot and each time the kernel finds the card anew; None
            where the service is not on the host.
    """

    vendor_id: str
    device_id: str
    class_code: int | None = None
    markings: Markings = UNKNOWN
    topology: str | None = None
    card: str = ""
    virtual_function: int | None = None
    functions: frozenset[str] = frozenset()
    family: Mapping[str, Markings] = field(default_factory=dict)
    incarnation: str | None = None

    @property
    def is_only_one(self) -> bool:
        """Whether all functions of this model are on one card."""
        return len({slot_of(topology) for topology in self.family}) == 1


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


def slot_of(topology: str | None) -> str:
    """Return the topology without the function: the place of the whole card."""
    return (topology or "").rpartition(".")[0]


def agree(one: str | int | None, other: str | int | None) -> bool:
    """Whether both are the same, or one is unknown."""
    return one is None or other is None or one == other


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


def _newer(old: str | None, new: str | None) -> str | None:
    if SHARED in {old, new}:
        return SHARED
    return new if new is not None else old
