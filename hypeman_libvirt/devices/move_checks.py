"""The checks before a registration is said to be the card at another address."""

from __future__ import annotations

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.errors import (
    ConflictError,
    DeviceNotFoundError,
    IdentityChangedError,
)
from hypeman_libvirt.devices.identity import could_be
from hypeman_libvirt.devices.model import Check
from hypeman_libvirt.devices.snapshot import Snapshot
from hypeman_libvirt.devices.whereabouts import known_of


def check_destination(snapshot: Snapshot) -> Check:
    """Something must be where the card is said to be."""
    if snapshot.node is None:
        raise DeviceNotFoundError(
            f"no PCI device {snapshot.address} on this host",
            hint="GET /devices/available lists them",
        )
    return Check("destination", "ok", f"a card is at {snapshot.address}")


def check_same_card(snapshot: Snapshot) -> Check:
    """Nothing that was read may say that the card there is another one."""
    registration, node = snapshot.registration, snapshot.node
    seen = snapshot.destination.seen
    if registration is None or node is None:
        return Check("identity", "ok", "nothing is known of it")
    known = known_of(registration)
    if not could_be(known, seen[node.address]):
        what = rules.differences(registration, node)
        raise IdentityChangedError(
            f"the card at {snapshot.address} cannot be the one of {registration.name}: "
            f"{', '.join(what) or 'its serial number, board or function differs'}",
            hint=f"GET /devices/{registration.name} has the candidates",
        )
    markings = known.fingerprint.markings
    for address, found in seen.items():
        elsewhere = address != snapshot.address and could_be(known, found)
        if elsewhere and markings.match(found.markings):
            raise IdentityChangedError(
                f"the card of {registration.name} is at {address}, by its serial number",
                hint="move it there, or unregister it",
            )
    return Check("identity", "ok", "nothing says that it is another card")


def check_unclaimed(snapshot: Snapshot) -> Check:
    """A card belongs to one registration."""
    owner = snapshot.destination.owner
    if owner is not None:
        raise ConflictError(
            f"{snapshot.address} is registered already as {owner.name!r} (id {owner.id})",
            hint="move that device first, or unregister it",
        )
    return Check("unclaimed", "ok", f"no other registration's card is at {snapshot.address}")


def check_definitions(snapshot: Snapshot) -> Check:
    """A domain can have an address in its definition once."""
    for rewrite in snapshot.destination.plan.rewrites:
        if rewrite.in_the_way is not None:
            raise rules.in_use(rewrite.in_the_way)
    return Check("definitions", "ok", "each definition can be rewritten")
