"""Following cards to where they are now, and writing down what is known of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.adoption import Adoption
from hypeman_libvirt.devices.card import Verdict
from hypeman_libvirt.devices.definitions import (
    Definitions,
    Relocation,
    Rewrite,
    describe_expecting,
    log_rewritten,
    relocate,
)
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.fingerprint import Seen, fingerprint_all, update
from hypeman_libvirt.devices.identity import judge
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.ports import Host, Registry
from hypeman_libvirt.devices.quarantine import Quarantiner
from hypeman_libvirt.devices.transaction import Transaction, Transactions
from hypeman_libvirt.devices.whereabouts import known_of, list_cards

_log: Final = logging.getLogger(__name__)
_PAUSE: Final = 1.0
"""Seconds in which announcements are collected: a card has several functions."""
_RETRY: Final = 10.0
"""Seconds after which a host that did not answer is asked again."""


class Follower:
    """Updates the registry with where cards certainly are; what is not certain it leaves."""

    def __init__(
        self,
        host: Host,
        registry: Registry,
        adoption: Adoption,
        quarantiner: Quarantiner,
        definitions: Definitions,
        transactions: Transactions,
        subscribe: Callable[[Callable[[], None]], None],
        on_follow: Callable[[], None] = lambda: None,
        afterwards: Callable[[], object] = lambda: None,
    ) -> None:
        """Follow on this host.

        Args:
            host: Asked itself, for what it says decides.
            registry: Where cards are written down.
            adoption: Finds registrations that this machine has under a key of before.
            quarantiner: Learns which devices are used that must be cleared afterwards.
            definitions: Those of domains, which are to have cards where they are.
            transactions: Rewrites them with locks and an undo.
            subscribe: Has something called after each announcement of the host.
            on_follow: Called after registrations were given another address or this host's key.
            afterwards: Called on the thread each time that cards were followed.
        """
        self._host = host
        self._registry = registry
        self._adoption = adoption
        self._quarantiner = quarantiner
        self._definitions = definitions
        self._transactions = transactions
        self._subscribe = subscribe
        self._on_follow = on_follow
        self._afterwards = afterwards
        self._doubts: Mapping[str, Verdict] = {}
        self._wake: Final = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow on a thread: now, and after each announcement of the host."""
        self._subscribe(self._wake.set)
        self._wake.set()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Follow soon, also what libvirt does not announce."""
        self._wake.set()

    def close(self) -> None:
        """Follow no more; a host that hangs is not awaited."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_PAUSE)

    def follow(self) -> Sequence[Registration]:
        """Write down where cards certainly are now, and rewrite the definitions that note them.

        Registrations of 0.1 get their fingerprint here, the first time that they are certain.

        Returns:
            The registrations that have another address now.

        Raises:
            DeviceError: Host or registry does not answer; what was not written is written the next
                time.
        """
        if self._adoption.adopt():
            self._on_follow()
        registrations = list_cards(self._registry, self._host.key())
        if not registrations:
            return []
        seen = fingerprint_all(self._host.read_node_devices())
        verdicts = judge([known_of(each) for each in registrations], seen)
        pairs = [(each, _settled(each, verdicts[each.id], seen)) for each in registrations]
        changed = [(old, new) for old, new in pairs if new != old]
        if changed:
            self._registry.place(changed)
        followed = [(old, new) for old, new in changed if old.pci_address != new.pci_address]
        for old, new in followed:
            _log.warning(
                "the card of %s (id %s) was followed from %s to %s, by its %s",
                new.name,
                new.id,
                old.pci_address,
                new.pci_address,
                verdicts[new.id].proof,
                extra={"device_id": new.id, "pci_address": str(new.pci_address)},
            )
        self._log_doubts(registrations, verdicts)
        if followed:
            self._on_follow()
        certain = [new for _, new in pairs if verdicts[new.id].address is not None]
        relocations = [each for new in certain for each in self._relocation(new, seen)]
        self._rewrite_all(relocations, name_unnoted=bool(followed))
        self._quarantiner.note_uses([new for _, new in pairs if not new.displaced])
        return [new for _, new in followed]

    def _relocation(
        self, registration: Registration, present: Collection[PciAddress]
    ) -> Sequence[Relocation]:
        old, new = registration.moved_from, registration.pci_address
        if old is None or old == new:
            return []
        return [relocate(self._registry, registration, old, new, present)]

    def _rewrite_all(self, relocations: Sequence[Relocation], *, name_unnoted: bool) -> None:
        """Rewrite definitions whose note says whose card they mean; name the others in the log."""
        plan = self._definitions.plan(relocations)
        for rewrite in plan.rewrites:
            try:
                self._rewrite(rewrite, relocations)
            except DeviceError as error:
                _log.warning(
                    "the definition of %s still has a card where it was: %s; it is tried again",
                    rewrite.domain.name,
                    error.message,
                )
        for each in plan.unnoted if name_unnoted else ():
            _log.warning(
                "domain %s has %s in its definition, where another card may be now: "
                "take it out with virsh edit, or leave it if it is meant",
                each.domain.name,
                each.device,
            )

    def _rewrite(self, rewrite: Rewrite, relocations: Sequence[Relocation]) -> None:
        def apply(transaction: Transaction) -> Rewrite | None:
            plan = self._definitions.plan(relocations)  # again, now that it is locked
            for each in plan.rewrites:
                if each.domain.uuid == rewrite.domain.uuid:
                    if each.in_the_way is not None:
                        raise rules.in_use(each.in_the_way)
                    self._definitions.apply(transaction, each)
                    return each
            return None

        addresses = {each for pair in rewrite.moves.items() for each in pair}
        keys = {f"domain {rewrite.domain.uuid}", *(f"device {each}" for each in addresses)}
        done = self._transactions.run(keys, apply)
        if done is not None:
            log_rewritten(done)

    def _log_doubts(
        self, registrations: Sequence[Registration], verdicts: Mapping[str, Verdict]
    ) -> None:
        """Log once which cards are in doubt, and which domains would start with another's."""
        doubts = {
            each.id: verdicts[each.id]
            for each in registrations
            if verdicts[each.id].state in {"moved", "changed"}
        }
        new = [each for each in registrations if doubts.get(each.id) != self._doubts.get(each.id)]
        doubted = [each for each in new if each.id in doubts]
        expecting = self._definitions.expecting(doubted)
        self._doubts = doubts
        for each in doubted:
            _log.warning(
                "the card of %s (id %s) %s%s",
                each.name,
                each.id,
                _describe_doubt(each, doubts[each.id]),
                describe_expecting(expecting[each.id]),
                extra={"device_id": each.id, "pci_address": str(each.pci_address)},
            )

    def _run(self) -> None:
        pause: float | None = None
        while not self._closed:
            self._wake.wait(pause)
            self._wake.clear()
            if self._closed:
                return
            try:
                self.follow()
                self._afterwards()
                pause = None
            except DeviceError as error:
                _log.info("cards cannot be followed now: %s", error.message)
                pause = _RETRY
            except Exception:  # noqa: BLE001 - the thread must not end
                _log.exception("cards could not be followed")
                pause = _RETRY
            self._rest()

    def _rest(self) -> None:
        """Wait a little, so that announcements in a row are answered once."""
        if not self._closed:
            threading.Event().wait(_PAUSE)


def _settled(registration: Registration, verdict: Verdict, seen: Seen) -> Registration:
    """Return the registration with what is certain now; as it is where nothing is."""
    address = verdict.address
    if address is None:
        return registration
    moved = address != registration.pci_address
    return replace(
        registration,
        pci_address=address,
        moved_from=registration.pci_address if moved else registration.moved_from,
        fingerprint=update(known_of(registration).fingerprint, seen[address]),
        displaced=False,
    )


def _describe_doubt(registration: Registration, verdict: Verdict) -> str:
    if verdict.state == "moved":
        candidates = ", ".join(map(str, verdict.candidates))
        return f"may be at {candidates}, and nothing tells which: it is left alone"
    return f"is not at {registration.pci_address}, where another card is"
