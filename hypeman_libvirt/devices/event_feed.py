"""What happened to devices, whoever caused it: the difference between two snapshots of the host."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.domain import Assignment
from hypeman_libvirt.devices.errors import TooManyListenersError
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import Event, EventType
from hypeman_libvirt.devices.node_device import list_slices
from hypeman_libvirt.devices.ports import Clock, HostView

_log: Final = logging.getLogger(__name__)
_REMEMBERED: Final = 1000
"""Events that a client may have missed and still gets with Last-Event-ID."""
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_BACKLOG: Final = 256
"""Events that a reader may be behind before it is dropped."""
_LAST_POLL: Final = 2.0
"""Seconds that a poll under way has to end when the service does."""
_LONGEST_STREAM: Final = 10_000
"""Events after which a stream ends, so that no server buffers without limit for a client."""


class Place(NamedTuple):
    """What a device is known by in a snapshot: its address, and which slice there it is.

    Attributes:
        address: Of a mediated device its parent's.
        mdev: UUID; empty for a PCI function, so that places have an order.
    """

    address: PciAddress
    mdev: str = ""


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """One device in a snapshot of the host.

    Attributes:
        device_id: Of the registration; None for a device that is not registered.
        name: Likewise.
        present: libvirt lists it.
        driver: Bound now.
        attached_to: Instance that holds it.
        is_vfio_provider: The driver, other than vfio-pci, gives it to guests itself.
        quarantined: It is offered to nobody.
        tags: Of the registration.
    """

    device_id: str | None
    name: str | None
    present: bool
    driver: str | None
    attached_to: str | None
    is_vfio_provider: bool = False
    quarantined: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


def take_snapshot(inventory: Inventory, host: HostView) -> Mapping[Place, DeviceSnapshot]:
    """Read every endpoint of the host with its slices, and every registered device."""
    begun = {device for device, each in inventory.quarantines().items() if not each.after_use}
    listed = host.list_node_devices()
    assignments = host.list_assignments()
    seen = {
        _place(node.address, node.device): DeviceSnapshot(
            device_id=None,
            name=None,
            present=True,
            driver=node.driver,
            attached_to=_instance(rules.first_assignment(assignments, node.device)),
            is_vfio_provider=rules.is_vfio_provider(node),
            quarantined=node.device in begun,
        )
        for node in [*listed, *list_slices(listed, host.list_mdevs())]
        if rules.is_endpoint(node)
    }
    for device in inventory.list_devices({}):
        registration, node = device.registration, device.node
        address = node.address if node and node.mdev else registration.pci_address
        seen[_place(address, registration.device)] = DeviceSnapshot(
            device_id=registration.id,
            name=registration.name,
            present=node is not None,
            driver=node.driver if node else None,
            attached_to=_instance(device.assignment),
            is_vfio_provider=node is not None and rules.is_vfio_provider(node),
            quarantined=device.quarantine is not None,
            tags=registration.tags,
        )
    return seen


def steps_between(
    before: DeviceSnapshot | None, after: DeviceSnapshot | None
) -> Sequence[tuple[DeviceSnapshot, DeviceSnapshot]]:
    """Split a difference in two where the address was registered anew in between."""
    then, now = before or _NOTHING, after or _NOTHING
    if then.device_id in {None, now.device_id} or now.device_id is None:
        return [(then, now)]
    held = then.attached_to if then.attached_to == now.attached_to else None
    between = replace(then, device_id=None, name=None, attached_to=held)
    return [(then, between), (between, now)]


def what_happened(before: DeviceSnapshot | None, after: DeviceSnapshot | None) -> list[EventType]:
    """Name the events between two snapshots of a device, in the order in which they happened."""
    then, now = before or _NOTHING, after or _NOTHING
    pairs: list[tuple[bool, EventType]] = [
        (now.present and not then.present, "appeared"),
        (_new(then.device_id, now.device_id), "registered"),
        (_is_relabeled(then, now), "relabeled"),
        (_new(now.attached_to, then.attached_to), "detached"),
        (_bound(then) and not _bound(now) and now.present, "unbound"),
        (now.quarantined and not then.quarantined, "quarantined"),
        (then.quarantined and not now.quarantined and now.present, "cleared"),
        (_bound(now) and not _bound(then), "bound"),
        (_new(then.attached_to, now.attached_to), "attached"),
        (_new(now.device_id, then.device_id), "unregistered"),
        (then.present and not now.present, "vanished"),
    ]
    return [event for happened, event in pairs if happened]


def _place(address: PciAddress, device: HostDeviceId) -> Place:
    return Place(address, device.text if isinstance(device, MdevUuid) else "")


_NOTHING: Final = DeviceSnapshot(None, None, False, None, None)


def _instance(assignment: Assignment | None) -> str | None:
    return assignment.domain.instance if assignment else None


def _is_relabeled(then: DeviceSnapshot, now: DeviceSnapshot) -> bool:
    same = then.device_id is not None and then.device_id == now.device_id
    return same and (then.name, then.tags) != (now.name, now.tags)


def _new(then: str | None, now: str | None) -> bool:
    return now is not None and now != then


def _bound(seen: DeviceSnapshot) -> bool:
    return rules.on_vfio(seen.driver) or seen.is_vfio_provider


class EventFeed:
    """Turns the differences between snapshots of the host into events, while clients listen.

    It polls the host after every change of the service's own, after what libvirt announces, and
    every few seconds, since libvirt does not announce changes of drivers. Without listeners it
    does not poll; the next poll finds what has changed meanwhile.
    """

    def __init__(
        self,
        inventory: Inventory,
        host: HostView,
        clock: Clock,
        *,
        poll_interval: float,
        heartbeat: float,
        most_listeners: int,
    ) -> None:
        """Watch a host for at most so many listeners.

        Args:
            inventory: What is registered.
            host: What is on the host.
            clock: Stamps events.
            poll_interval: Seconds between two polls.
            heartbeat: Seconds after which a listener that waits gets a sign of life.
            most_listeners: A further one is refused.
        """
        self._inventory = inventory
        self._host = host
        self._clock = clock
        self._poll_interval = poll_interval
        self._heartbeat = heartbeat
        self._most_listeners = most_listeners
        self._epoch = f"{int(clock().timestamp() * 1000):x}"
        self._lock = threading.Lock()
        self._polling = threading.Lock()
        self._wake = threading.Event()
        self._listeners: list[queue.Queue[Event | None]] = []
        self._past: deque[Event] = deque(maxlen=_REMEMBERED)
        self._seen: Mapping[Place, DeviceSnapshot] | None = None
        self._adopted: set[str] = set()
        self._count = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        host.subscribe(self._wake.set)

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def past(self) -> Sequence[Event]:
        """List the last events, the oldest first; there are none while nobody listened."""
        with self._lock:
            return list(self._past)

    @contextmanager
    def listen(
        self, last_event_id: str | None, until: int | None = None
    ) -> Iterator[Iterator[Event | None]]:
        """Yield events as they come, those after ``last_event_id`` first; None as sign of life.

        An id that is not remembered any more, or of another run of the service, starts with what
        comes next. The iterator ends when the reader is too slow, when the service closes, and at
        a time.

        Args:
            last_event_id: Of the last event that the listener has seen.
            until: Seconds since 1970 at which it ends; None for never.

        Raises:
            TooManyListenersError: As many as are allowed listen already.
            LibvirtUnavailableError: The host cannot be read.
        """
        events: queue.Queue[Event | None] = queue.Queue(_BACKLOG)
        self.poll()
        with self._lock:
            if len(self._listeners) >= self._most_listeners:
                raise TooManyListenersError(
                    f"{self._most_listeners} clients listen already", hint="try again later"
                )
            missed = self._missed(last_event_id)
            self._listeners.append(events)
        try:
            self._start()
            yield self._stream(missed, events, until)
        finally:
            self._leave(events)

    def expect_adopted(self, registration_ids: Collection[str]) -> None:
        """Publish these registrations as adopted, where they would seem to be new."""
        with self._polling:
            self._adopted |= {*registration_ids}

    def refresh(self) -> None:
        """Poll now if clients listen; a failure goes to the log."""
        if self._listeners:
            try:
                self.poll()
            except Exception:  # noqa: BLE001 - the thread that polls must not end
                _log.exception("could not read the host for events")

    def poll(self) -> None:
        """Read the host and publish what has happened since the last poll."""
        with self._polling:
            seen = take_snapshot(self._inventory, self._host)
            before, self._seen = self._seen, seen
            if before is not None:
                before = self._publish_moves(before, seen)
                for place in sorted(before.keys() | seen.keys()):
                    for step in steps_between(before.get(place), seen.get(place)):
                        self._publish(place, *step)

    def close(self) -> None:
        """End every stream and stop polling; a poll that hangs in libvirt is not awaited long."""
        self._closed = True
        self._wake.set()
        with self._lock:
            thread = self._thread
            for events in list(self._listeners):
                self._drop(events)
        if thread is not None:
            thread.join(_LAST_POLL)

    def _publish_moves(
        self, before: Mapping[Place, DeviceSnapshot], seen: Mapping[Place, DeviceSnapshot]
    ) -> Mapping[Place, DeviceSnapshot]:
        """Publish which registrations have moved; return the snapshot as if they had been there.

        Otherwise each would be unregistered at one address and registered at another.
        """
        places = {each.device_id: place for place, each in before.items() if each.device_id}
        moved = {
            place: (places[each.device_id], each)
            for place, each in seen.items()
            if each.device_id in places and places[each.device_id] != place
        }
        as_if = dict(before)
        for left, _ in moved.values():
            as_if[left] = replace(before[left], device_id=None, name=None)
        for place, (_, after) in moved.items():
            here = before.get(place, _NOTHING)
            as_if[place] = replace(here, device_id=after.device_id, name=after.name)
            self._publish_one("moved", place, after, after)
        return as_if

    def _publish(self, place: Place, before: DeviceSnapshot, after: DeviceSnapshot) -> None:
        named = after if after.device_id else before
        for event_type in what_happened(before, after):
            self._publish_one(self._how(event_type, named), place, named, after)

    def _how(self, event_type: EventType, named: DeviceSnapshot) -> EventType:
        """Tell a registration that was adopted from a new one."""
        if event_type == "registered" and named.device_id in self._adopted:
            self._adopted.discard(named.device_id)
            return "adopted"
        return event_type

    def _publish_one(
        self,
        event_type: EventType,
        place: Place,
        named: DeviceSnapshot,
        after: DeviceSnapshot,
    ) -> None:
        self._count += 1
        event = Event(
            id=f"{self._epoch}-{self._count}",
            type=event_type,
            at=self._clock(),
            pci_address=place.address,
            device_id=named.device_id,
            name=named.name,
            driver=after.driver,
            attached_to=after.attached_to,
            mdev=MdevUuid(place.mdev) if place.mdev else None,
        )
        self._hand_out(event)

    def _hand_out(self, event: Event) -> None:
        with self._lock:
            self._past.append(event)
            for events in list(self._listeners):
                try:
                    events.put_nowait(event)
                except queue.Full:
                    self._drop(events)

    def _drop(self, events: queue.Queue[Event | None]) -> None:
        """Remove a listener; what it has not read yet is dropped so that it sees the end."""
        self._listeners.remove(events)
        with events.mutex:
            events.queue.clear()
        events.put_nowait(None)

    def _stream(
        self, missed: list[Event], events: queue.Queue[Event | None], until: int | None
    ) -> Iterator[Event | None]:
        yield from missed
        for _ in range(_LONGEST_STREAM):
            remaining = self._remaining(until)
            if remaining <= 0:
                return
            try:
                event = events.get(timeout=remaining)
            except queue.Empty:
                yield None
                continue
            if event is None:
                return
            yield event

    def _remaining(self, until: int | None) -> float:
        """Return how many seconds a listener waits for an event before it gets a sign of life."""
        now = self._clock().timestamp()
        if until is None or until > now + self._heartbeat:
            return self._heartbeat
        return until - now

    def _missed(self, last_event_id: str | None) -> list[Event]:
        epoch, _, number = (last_event_id or "").rpartition("-")
        if epoch != self._epoch or not _NUMBER.fullmatch(number):
            return []
        return [each for each in self._past if _number(each) > int(number)]

    def _leave(self, events: queue.Queue[Event | None]) -> None:
        with self._lock:
            if events in self._listeners:
                self._listeners.remove(events)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        while self._go_on():
            self._wake.wait(self._poll_interval)
            self._wake.clear()
            self.refresh()

    def _go_on(self) -> bool:
        with self._lock:
            if self._listeners and not self._closed:
                return True
            self._thread = None
            return False


def _number(event: Event) -> int:
    return int(event.id.rpartition("-")[2])
