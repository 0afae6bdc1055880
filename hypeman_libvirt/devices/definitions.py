"""Definitions of domains after a card has moved: rewritten to where it is now.

libvirt starts a domain with whatever is at the address in its definition. A domain whose metadata
notes the registration means that card. Of one without a note only the operator can say so.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.domain import Assignment, Domain, MetadataEntry
from hypeman_libvirt.devices.errors import DeviceError, LibvirtFailedError
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.ports import AssignmentsByDevice, Host, Registry
from hypeman_libvirt.devices.transaction import Transaction
from hypeman_libvirt.devices.whereabouts import functions_of_card

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Relocation:
    """A card that is elsewhere now.

    Attributes:
        id: Of the registration.
        moves: Where each of its functions is, by where domains may still expect it: the registered
            one first, then those of the card that nobody has registered.
        means_unnoted: Domains without a note of who is at the address mean this card, too.
    """

    id: str
    moves: Mapping[PciAddress, PciAddress]
    means_unnoted: bool = False

    @property
    def old(self) -> PciAddress:
        """Where domains may still expect the registered function."""
        return next(iter(self.moves))


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What changes of one domain.

    Attributes:
        domain: Which.
        moves: New addresses of devices in its definition, by the old ones; may be empty.
        before: Its note as it is.
        after: Its note as it is to be.
        in_the_way: What it has at one of the new addresses already.
    """

    domain: Domain
    moves: Mapping[PciAddress, PciAddress]
    before: Sequence[MetadataEntry]
    after: Sequence[MetadataEntry]
    in_the_way: Assignment | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of definitions.

    Attributes:
        rewrites: Those that change.
        unnoted: What domains have at an old address without saying whose card they mean; it stays.
    """

    rewrites: Sequence[Rewrite] = ()
    unnoted: Sequence[Assignment] = ()


NO_PLAN: Final = Plan()
"""Nothing is to be rewritten."""


class Definitions:
    """Finds the definitions that name an old address, and rewrites them."""

    def __init__(self, host: Host) -> None:
        """Read from this host."""
        self._host = host

    def plan(self, relocations: Sequence[Relocation]) -> Plan:
        """Say which definitions change, and how, as of now."""
        if not relocations:
            return NO_PLAN
        addresses = {each for one in relocations for pair in one.moves.items() for each in pair}
        assignments = self._host.read_assignments(addresses)
        rewrites: list[Rewrite] = []
        unnoted: list[Assignment] = []
        for domain, defined in _by_domain(assignments):
            entries = self._host.read_metadata(domain)
            rewrite = _rewrite(domain, defined, entries, relocations)
            if rewrite.moves or rewrite.after != rewrite.before:
                rewrites.append(rewrite)
            noted = {entry.device for entry in entries}
            left = [each.old for each in relocations if each.old not in noted]
            unnoted += [defined[old] for old in left if old in defined and old not in rewrite.moves]
        return Plan(rewrites, unnoted)

    def expecting(
        self, registrations: Collection[Registration]
    ) -> Mapping[str, Sequence[Assignment]]:
        """Say, by id, in whose definitions registrations' cards are expected where they were.

        A domain without a note means whoever has the address.
        """
        if not registrations:
            return {}
        assignments = self._host.read_assignments({each.pci_address for each in registrations})
        noted = {
            domain.uuid: self._host.read_metadata(domain) for domain, _ in _by_domain(assignments)
        }
        return {
            each.id: [
                assignment
                for assignment in filter(is_rewritable, assignments.get(each.pci_address, ()))
                if _is_meant(each, noted[assignment.domain.uuid])
            ]
            for each in registrations
        }

    def apply(self, transaction: Transaction, rewrite: Rewrite) -> None:
        """Rewrite a definition and the domain's note, or undo it with the transaction.

        Raises:
            LibvirtFailedError: libvirt reported success, and the definition is as it was.
        """
        domain = rewrite.domain
        if rewrite.moves:
            transaction.undo.callback(self._move_back, transaction, rewrite)
            transaction.changes.move_devices(domain, rewrite.moves)
            self._read_back(rewrite)
        if rewrite.after != rewrite.before:
            transaction.undo.callback(self._restore_note, transaction, rewrite)
            transaction.changes.write_metadata(domain, rewrite.after)

    def _read_back(self, rewrite: Rewrite) -> None:
        held = self._host.read_domain_assignments(rewrite.domain)
        defined = {each.device for each in held if each.persistent}
        for address in rewrite.moves.values():
            if address not in defined:
                name = rewrite.domain.name
                raise LibvirtFailedError(
                    f"libvirt reported success, but {name} does not have {address}",
                    hint="the change was undone; libvirt's log on the host says why",
                )

    def _move_back(self, transaction: Transaction, rewrite: Rewrite) -> None:
        back = {new: old for old, new in rewrite.moves.items()}
        try:
            transaction.changes.move_devices(rewrite.domain, back)
        except DeviceError:
            _log.exception("the definition of %s could not be put back", rewrite.domain.name)

    def _restore_note(self, transaction: Transaction, rewrite: Rewrite) -> None:
        try:
            transaction.changes.write_metadata(rewrite.domain, rewrite.before)
        except DeviceError:
            _log.exception("the metadata of %s could not be put back", rewrite.domain.name)


def relocate(
    registry: Registry,
    registration: Registration,
    old: PciAddress,
    new: PciAddress,
    present: Collection[PciAddress],
    *,
    means_unnoted: bool = False,
) -> Relocation:
    """Say where a card's functions are: the registered one, and with it those that nobody has.

    Args:
        registry: Has the registrations.
        registration: Whose card it is.
        old: Where the registered function was.
        new: Where it is.
        present: Addresses of what the host has.
        means_unnoted: Domains without a note at the old address mean this card, too.
    """
    key, moves = registration.host, {old: new}
    for one, other in functions_of_card(registration, old, new).items():
        registered = any(registry.find_by_device(key, each) for each in (one, other))
        if one != old and other in present and not registered:
            moves[one] = other
    return Relocation(registration.id, moves, means_unnoted)


def describe_expecting(expecting: Sequence[Assignment]) -> str:
    """Name the domains that would start with whatever is there; nothing where none does."""
    named = ", ".join(map(rules.describe_assignment, expecting))
    return f"; it is in the definition of {named}" if named else ""


def log_rewritten(rewrite: Rewrite) -> None:
    """Say of a domain what it has from its next start on."""
    running = "; the running domain keeps what it has" if rewrite.domain.active else ""
    for old, new in rewrite.moves.items():
        _log.warning(
            "domain %s has %s instead of %s from its next start on%s",
            rewrite.domain.name,
            new,
            old,
            running,
        )


def is_rewritable(assignment: Assignment) -> bool:
    """Whether the device is in the definition as a hostdev or an interface."""
    return assignment.persistent and assignment.kind in {"hostdev", "interface"}


def _by_domain(
    assignments: AssignmentsByDevice,
) -> Iterator[tuple[Domain, Mapping[HostDeviceId, Assignment]]]:
    """Sort what definitions have by domain, and there by device."""
    sorted_by_uuid: dict[str, dict[HostDeviceId, Assignment]] = {}
    for device, held in assignments.items():
        for each in filter(is_rewritable, held):
            sorted_by_uuid.setdefault(each.domain.uuid, {})[device] = each
    for defined in sorted_by_uuid.values():
        yield next(iter(defined.values())).domain, defined


def _is_meant(registration: Registration, entries: Sequence[MetadataEntry]) -> bool:
    """Whether a domain that has the registration's address means its card."""
    ids = {entry.id for entry in entries if entry.device == registration.pci_address}
    return registration.id in ids or not (ids or registration.displaced)


def _rewrite(
    domain: Domain,
    defined: Mapping[HostDeviceId, Assignment],
    entries: Sequence[MetadataEntry],
    relocations: Sequence[Relocation],
) -> Rewrite:
    moves: dict[PciAddress, PciAddress] = {}
    arrived: dict[tuple[str, HostDeviceId], PciAddress] = {}
    for relocation in relocations:
        noted = {entry.device for entry in entries if entry.id == relocation.id}
        of_others = {entry.device for entry in entries} - noted
        old, new = relocation.old, relocation.moves[relocation.old]
        is_meant = old in noted or (relocation.means_unnoted and old not in of_others)
        if is_meant and old in defined:
            moves |= {
                address: moved_to
                for address, moved_to in relocation.moves.items()
                if address in defined and address not in of_others
            }
        if old in moves or new in defined:
            arrived[relocation.id, old] = new
    after = [
        replace(
            entry,
            device=arrived.get((entry.id, entry.device), entry.device),
            bound=tuple(moves.get(each, each) for each in entry.bound),
        )
        for entry in entries
    ]
    in_the_way = next(
        (defined[new] for new in moves.values() if new in defined and new not in moves), None
    )
    return Rewrite(domain, moves, entries, after, in_the_way)
