"""Which card on the host a registration means, also after cards, slots or bus numbers moved.

A PCI address is a bus number of this boot. What is registered is a card, and this module finds it
again or says that it cannot. It judges all registrations of a host together with all of its node
devices, since what happened to one card is often seen at another one only.

Why no registration is given another's card:

1. **The same incarnation is the same card.** The kernel numbers a device when it finds it, anew
   after each removal and each boot. While the number stands, nobody has touched the card.
2. **A serial number is one card's.** A card is followed by its serial number if it was read on
   both sides, nothing else about the card differs, no second card carries it or was seen to, and
   the serials of all cards that it could be were read. Placeholders such as zeros are no serial
   numbers. A serial that cannot be read now says nothing, for or against.
3. **Where neither speaks, the slot does, and only while nothing speaks against it.** The slot is
   the topology: slot and function of each bridge from the root, which bus numbers do not enter.
   The card in the slot must have the same ids and functions, *and the places of all cards of its
   model must be those of before*: one more, one less, one elsewhere or one with other markings
   proves that hands were in the machine, and then any card of that model may be in any of their
   slots. Where there are several, each serial that was known must be read again and be the same.
4. **A card belongs to one registration.** If two have the same claim, neither gets it.
5. **Everything else is asked.** ``moved`` names every card that it could be, and nothing is done
   with the device until someone says which (``POST /devices/{id}/move``).

What this cannot see: cards of one model without serial numbers that changed places so that each
slot is filled as before, or one that was replaced by another of its model in the same slot. Such a
host is the same as an untouched one in everything that can be read, and the registration then
means the slot. Second, a vendor who gives one serial number to many cards of which the host never
showed two. Third, registrations of 0.1 have no topology: without a serial they are taken to be at
their address if it holds the only card of that model and no registration speaks of a second one.

A virtual function is its physical function and a number, so that it goes where its card goes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.model import NodeDevice

Proof: TypeAlias = Literal["incarnation", "serial", "slot"]

SHARED: Final = ""
"""A serial number that several cards carry: known, and of no use."""

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
        return not (all(self._compare_serials(other)) and _agree(self.subsystem, other.subsystem))

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
        return len({_slot(topology) for topology in self.family}) == 1


Seen: TypeAlias = Mapping[PciAddress, Fingerprint]
"""Fingerprints of all that the host has now."""


@dataclass(frozen=True, slots=True)
class Known:
    """A registration, as far as its identity goes.

    Attributes:
        id: Of the registration.
        address: Where it was the last time that it was certain.
        fingerprint: What was known of it then.
    """

    id: str
    address: PciAddress
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a registration's card is.

    Attributes:
        state: ``follow``: it is certainly at another address now. ``moved``: it may be any of the
            candidates, and none may be taken for it unasked. ``changed``: something else is in
            its place. ``missing``: nothing is.
        address: Where it certainly is; None unless ``present`` or ``follow``.
        proof: By what; likewise.
        candidates: Where it may be, when ``moved``.
    """

    state: Literal["present", "follow", "moved", "changed", "missing"]
    address: PciAddress | None = None
    proof: Proof | None = None
    candidates: Sequence[PciAddress] = ()


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


def judge(registrations: Collection[Known], seen: Seen) -> Mapping[str, Verdict]:
    """Say for each registration, by id, where its card is; see above for the rules."""
    certain = _settle(registrations, seen)
    taken = {address for address, _ in certain.values()}
    return {
        known.id: _certain(known, *certain[known.id])
        if known.id in certain
        else _uncertain(known, {a: found for a, found in seen.items() if a not in taken})
        for known in registrations
    }


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


def could_be(known: Known, seen: Fingerprint) -> bool:
    """Whether nothing that was read on both sides says that this is another card."""
    old = known.fingerprint
    return (
        (old.vendor_id, old.device_id) == (seen.vendor_id, seen.device_id)
        and (old.topology is None or old.card == seen.card)
        and _same_function(known, seen)
        and _agree(_subclass(old.class_code), _subclass(seen.class_code))
        and not old.markings.contradict(seen.markings)
    )


def _settle(registrations: Collection[Known], seen: Seen) -> Mapping[str, tuple[PciAddress, Proof]]:
    """Give each registration the card that is certainly its own, by the strongest proof."""
    certain: dict[str, tuple[PciAddress, Proof]] = {}
    contested: set[str] = set()
    for proof, find in _PROOFS:
        taken = {address for address, _ in certain.values()}
        claims = {
            known.id: address
            for known in registrations
            if known.id not in certain and known.id not in contested
            for address in [find(known, registrations, seen)]
            if address is not None
        }
        count = Counter(claims.values())
        for claimant, address in claims.items():
            if address in taken or count[address] > 1:
                contested.add(claimant)
            else:
                certain[claimant] = (address, proof)
    return certain


def _by_incarnation(known: Known, _: Collection[Known], seen: Seen) -> PciAddress | None:
    incarnation = known.fingerprint.incarnation
    return (
        None
        if incarnation is None
        else _only(
            address
            for address, found in seen.items()
            if found.incarnation == incarnation and could_be(known, found)
        )
    )


def _by_serial(known: Known, _: Collection[Known], seen: Seen) -> PciAddress | None:
    """Find the one card with the serial number.

    Away from its slot it must be the only card left that it could be: where the serial of another
    one cannot be read, nothing shows that this one's is unique.
    """
    old = known.fingerprint
    possible = {address: found for address, found in seen.items() if could_be(known, found)}
    address = _only(a for a, found in possible.items() if old.markings.match(found.markings))
    if address is None:
        return None
    if old.topology is None:
        settled = len(possible) == 1 and possible[address].virtual_function is None
    else:
        settled = len(possible) == 1 or possible[address].topology == old.topology
    return address if settled else None


def _by_slot(known: Known, registrations: Collection[Known], seen: Seen) -> PciAddress | None:
    old = known.fingerprint
    if old.topology is None:
        return _by_address(known, registrations, seen)
    return _only(
        address
        for address, found in seen.items()
        if found.topology == old.topology
        and could_be(known, found)
        and found.functions == old.functions
        and _family_stayed(old, found)
    )


_PROOFS: Final[
    Sequence[tuple[Proof, Callable[[Known, Collection[Known], Seen], PciAddress | None]]]
] = (("incarnation", _by_incarnation), ("serial", _by_serial), ("slot", _by_slot))


def _by_address(known: Known, registrations: Collection[Known], seen: Seen) -> PciAddress | None:
    """Take a registration of 0.1 to be at its address, if no second card of the model is known."""
    found = seen.get(known.address)
    if found is None or not could_be(known, found) or not found.is_only_one:
        return None
    return (
        known.address
        if all(
            _last_slot(other, seen) == _slot(found.topology)
            for other in _alike(known, registrations)
        )
        else None
    )


def _family_stayed(old: Fingerprint, found: Fingerprint) -> bool:
    """Whether every card of the model is where one was, as far as can be read."""
    if old.family.keys() != found.family.keys():
        return False
    pairs = [(before, found.family[topology]) for topology, before in old.family.items()]
    if any(before.contradict(after) for before, after in pairs):
        return False
    return old.is_only_one or all(
        before.match(after) for before, after in pairs if before.has_serial
    )


def _certain(known: Known, address: PciAddress, proof: Proof) -> Verdict:
    return Verdict("present" if address == known.address else "follow", address, proof)


def _uncertain(known: Known, free: Seen) -> Verdict:
    """Judge by the cards that are nobody else's."""
    candidates = sorted(address for address, found in free.items() if could_be(known, found))
    if candidates:
        return Verdict("moved", candidates=candidates)
    place = (known.fingerprint.topology, known.fingerprint.virtual_function)
    in_its_place = known.address in free or any(
        (found.topology, found.virtual_function) == place for found in free.values()
    )
    return Verdict("changed" if in_its_place else "missing")


def _share_serials(nodes: Collection[NodeDevice]) -> Sequence[NodeDevice]:
    """Give each function the serials of function 0 where it has none: they are of one card."""
    firsts = {_slot(_topology(node)): node for node in nodes if node.address.function == 0}
    return [
        replace(
            node,
            serial=node.serial or first.serial,
            device_serial=node.device_serial or first.device_serial,
        )
        for node in nodes
        for first in [firsts.get(_slot(_topology(node)), node)]
    ]


def _fingerprint_physical(nodes: Collection[NodeDevice]) -> dict[PciAddress, Fingerprint]:
    models: dict[str, list[NodeDevice]] = defaultdict(list)
    functions: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        models[_model(node)].append(node)
        topology = _topology(node)
        functions[_slot(topology)].add(f"{topology[-1]} {_model(node)}")
    return {
        node.address: Fingerprint(
            vendor_id=node.vendor_id,
            device_id=node.device_id,
            class_code=node.class_code,
            markings=family[_topology(node)],
            topology=_topology(node),
            card=model,
            functions=frozenset(functions[_slot(_topology(node))]),
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
    carriers: dict[str | None, set[str]] = defaultdict(set)
    for topology, serial in serials.items():
        carriers[serial].add(_slot(topology))
    return {
        topology: SHARED
        if serial is not None and (len(carriers[serial]) > 1 or _is_placeholder(serial))
        else serial
        for topology, serial in serials.items()
    }


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


def _slot(topology: str | None) -> str:
    """Return the topology without the function: the place of the whole card."""
    return (topology or "").rpartition(".")[0]


def _same_function(known: Known, seen: Fingerprint) -> bool:
    old = known.fingerprint
    if old.topology is None:
        physical = seen.virtual_function is None
        return not physical or f"{known.address.function:x}" == str(seen.topology)[-1]
    same_number = old.virtual_function == seen.virtual_function
    return same_number and old.topology[-1] == str(seen.topology)[-1]


def _alike(known: Known, registrations: Collection[Known]) -> Iterable[Known]:
    """Return the other registrations of the same vendor and device id."""
    ours = known.fingerprint
    for other in registrations:
        theirs = other.fingerprint
        same = (theirs.vendor_id, theirs.device_id) == (ours.vendor_id, ours.device_id)
        if other.id != known.id and same:
            yield other


def _last_slot(known: Known, seen: Seen) -> str:
    topology = known.fingerprint.topology
    found = seen.get(known.address)
    return _slot(topology or (found.topology if found else None))


def _subclass(class_code: int | None) -> int | None:
    return None if class_code is None else class_code >> 8


def _agree(one: str | int | None, other: str | int | None) -> bool:
    return one is None or other is None or one == other


def _newer(old: str | None, new: str | None) -> str | None:
    if SHARED in {old, new}:
        return SHARED
    return new if new is not None else old


def _only(addresses: Iterable[PciAddress]) -> PciAddress | None:
    """Return the address if there is exactly one."""
    found = list(addresses)
    return found[0] if len(found) == 1 else None
