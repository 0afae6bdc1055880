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
   with the device until someone says which.

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
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.card import Fingerprint, Proof, Verdict, agree, slot_of
from hypeman_libvirt.devices.fingerprint import Seen


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


def judge(registrations: Collection[Known], seen: Seen) -> Mapping[str, Verdict]:
    """Say for each registration, by id, where its card is; see above for the rules."""
    certain = _settle(registrations, seen)
    taken = {address for address, _ in certain.values()}
    free = {address: found for address, found in seen.items() if address not in taken}
    alike = _by_ids(free)
    places = {(found.topology, found.virtual_function) for found in free.values()}
    verdicts = {}
    for known in registrations:
        if known.id in certain:
            verdicts[known.id] = _certain(known, *certain[known.id])
            continue
        old = known.fingerprint
        in_its_place = known.address in free or (old.topology, old.virtual_function) in places
        candidates = [a for a, found in alike[_ids(old)].items() if could_be(known, found)]
        verdicts[known.id] = _uncertain(candidates, in_its_place=in_its_place)
    return verdicts


def is_same_incarnation(known: Known, seen: Fingerprint) -> bool:
    """Whether the kernel has not lost the card since, and nothing says that it is another."""
    incarnation = known.fingerprint.incarnation
    return incarnation is not None and incarnation == seen.incarnation and could_be(known, seen)


def could_be(known: Known, seen: Fingerprint) -> bool:
    """Whether nothing that was read on both sides says that this is another card."""
    old = known.fingerprint
    return (
        _ids(old) == _ids(seen)
        and (old.topology is None or old.card == seen.card)
        and _same_function(known, seen)
        and agree(_subclass(old.class_code), _subclass(seen.class_code))
        and not old.markings.contradict(seen.markings)
    )


def _settle(registrations: Collection[Known], seen: Seen) -> Mapping[str, tuple[PciAddress, Proof]]:
    """Give each registration the card that is certainly its own, by the strongest proof."""
    certain: dict[str, tuple[PciAddress, Proof]] = {}
    contested: set[str] = set()
    alike = _by_ids(seen)
    namesakes: dict[tuple[str, str], list[Known]] = defaultdict(list)
    for known in registrations:
        namesakes[_ids(known.fingerprint)].append(known)
    for proof, find in _PROOFS:
        taken = {address for address, _ in certain.values()}
        claims = {
            known.id: address
            for ids, group in namesakes.items()
            for known in group
            if known.id not in certain and known.id not in contested
            for address in [find(known, group, alike[ids])]
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
    return _only(a for a, found in seen.items() if is_same_incarnation(known, found))


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
        if all(_last_slot(other, seen) == slot_of(found.topology) for other in registrations)
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


def _uncertain(candidates: Sequence[PciAddress], *, in_its_place: bool) -> Verdict:
    """Judge by the cards that are nobody else's."""
    if candidates:
        return Verdict("moved", candidates=sorted(candidates))
    return Verdict("changed" if in_its_place else "missing")


def _by_ids(seen: Seen) -> Mapping[tuple[str, str], dict[PciAddress, Fingerprint]]:
    """Sort fingerprints by vendor and device id; no card is looked for among others."""
    sorted_by_ids: dict[tuple[str, str], dict[PciAddress, Fingerprint]] = defaultdict(dict)
    for address, found in seen.items():
        sorted_by_ids[_ids(found)][address] = found
    return sorted_by_ids


def _ids(fingerprint: Fingerprint) -> tuple[str, str]:
    return fingerprint.vendor_id, fingerprint.device_id


def _same_function(known: Known, seen: Fingerprint) -> bool:
    old = known.fingerprint
    if old.topology is None:
        physical = seen.virtual_function is None
        return not physical or f"{known.address.function:x}" == str(seen.topology)[-1]
    same_number = old.virtual_function == seen.virtual_function
    return same_number and old.topology[-1] == str(seen.topology)[-1]


def _last_slot(known: Known, seen: Seen) -> str:
    topology = known.fingerprint.topology
    found = seen.get(known.address)
    return slot_of(topology or (found.topology if found else None))


def _subclass(class_code: int | None) -> int | None:
    return None if class_code is None else class_code >> 8


def _only(addresses: Iterable[PciAddress]) -> PciAddress | None:
    """Return the address if there is exactly one."""
    found = list(addresses)
    return found[0] if len(found) == 1 else None
