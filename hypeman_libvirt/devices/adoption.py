"""Registrations of the machine under a key that it had before: found again, or asked about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.devices.errors import ConflictError
from hypeman_libvirt.devices.fingerprint import Seen, fingerprint_all
from hypeman_libvirt.devices.host_identity import HostIdentity
from hypeman_libvirt.devices.identity import judge
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.ports import Host, Registry
from hypeman_libvirt.devices.whereabouts import known_of

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adopted:
    """Registrations that have another key now.

    Attributes:
        old: The key before.
        new: The key of this host.
        ids: Of the registrations.
    """

    old: str
    new: str
    ids: Sequence[str]


class Adoption:
    """Gives registrations the key that their host has now, where it is certain that it is theirs.

    It is, where the key is another name of this machine: libvirt's UUID of this moment, or what is
    made of the machine's id. It is also, where all cards with serial numbers are plugged in here.
    A cloned image has neither, nor has a machine whose cards say nothing of themselves: then an
    operator says so with ``registry adopt``.
    """

    def __init__(
        self, host: Host, registry: Registry, expect: Callable[[Collection[str]], None]
    ) -> None:
        """Adopt for this host.

        Args:
            host: Says which host it is, and what is plugged in.
            registry: Has the registrations.
            expect: Is called with the ids of registrations that are about to be adopted.
        """
        self._host = host
        self._registry = registry
        self._expect = expect
        self._last: HostIdentity | None = None
        self._doubted: set[str] = set()

    def adopt(self) -> Sequence[Adopted]:
        """Adopt what certainly belongs to this host; the rest goes to the log, once.

        Raises:
            DeviceError: Host or registry does not answer.
        """
        identity = self._host.identity()
        last, self._last = self._last, identity
        others = [each for each in self._registry.list_hosts() if each != identity.key]
        adopted = []
        for old in others:
            why = self._recognise(old, identity, last)
            ids = self._take(old, identity.key, why) if why else None
            if ids is not None:
                adopted.append(Adopted(old, identity.key, ids))
        return adopted

    def _recognise(self, old: str, identity: HostIdentity, last: HostIdentity | None) -> str | None:
        """Say by what a key is known to have been this host's; None where nothing proves it."""
        if old in identity.aliases:
            return "another name of this machine"
        if last is not None and last.key == old and last.is_made_up and identity.is_made_up:
            return "libvirt has made up another UUID"
        if not (identity.machine and self._registry.is_on_this_machine):
            return None
        registrations = self._registry.list_registrations(old, {})
        if is_plugged_in(registrations, fingerprint_all(self._host.read_node_devices())):
            return "its cards are plugged in here"
        self._doubt(old, identity.key, len(registrations))
        return None

    def _take(self, old: str, new: str, why: str) -> Sequence[str] | None:
        ids = [each.id for each in self._registry.list_registrations(old, {})]
        self._expect(ids)
        try:
            count = self._registry.adopt(old, new)
        except ConflictError as error:
            if old not in self._doubted:
                self._doubted.add(old)
                _log.warning("registrations of host %s stay there: %s", old, error.message)
            return None
        _log.warning("%s registration(s) of host %s belong to %s now: %s", count, old, new, why)
        return ids

    def _doubt(self, old: str, new: str, count: int) -> None:
        if count and old not in self._doubted:
            self._doubted.add(old)
            _log.warning(
                "%s registration(s) belong to host %s, and this is %s; if that was this machine: "
                "hypeman-libvirt registry adopt %s",
                count,
                old,
                new,
                old,
            )


def is_plugged_in(registrations: Collection[Registration], seen: Seen) -> bool:
    """Whether cards prove that these registrations are of this machine.

    One must be certain by its serial number or its incarnation, and each that has a serial number
    must be here: of a cloned image none is, and of cards that were carried over not all are.
    """
    known = [known_of(each) for each in registrations if each.mdev is None]
    verdicts = judge(known, seen)
    marked = [each for each in known if each.fingerprint.markings.has_serial]
    proven = [each for each in verdicts.values() if each.proof in {"serial", "incarnation"}]
    return bool(proven) and all(verdicts[each.id].address is not None for each in marked)
