"""A cache of which domains have which device, for reads that decide over no change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.ports import AssignmentsByDevice
from hypeman_libvirt.host.assignments import (
    DomainReader,
    DomainRecord,
    DomainsSnapshot,
    NewTrace,
    Records,
)
from hypeman_libvirt.host.cache.domain_files import Stamps
from hypeman_libvirt.host.cache.event_cache import EventCache
from hypeman_libvirt.host.connection import Announcement, Connection


class DomainCache:
    """A cache of assignments by device, which libvirt's events and files invalidate.

    Nothing here decides over a change, since an event may still be on its way. libvirt announces
    what happens to running domains and which are defined and undefined; changes within a
    definition show in its file. Where either is not to be had, libvirt is asked.
    """

    def __init__(
        self,
        connection: Connection,
        reader: DomainReader,
        new_trace: NewTrace,
        read_stamps: Callable[[], Stamps | None] | None,
    ) -> None:
        """Listen on the connection, and read nothing yet.

        Args:
            connection: Announces changes of domains.
            reader: Asks libvirt over it.
            new_trace: Begins to trace what domains use down to PCI functions.
            read_stamps: Reads the stamps of the definitions' files, None if they cannot be read
                now. No function at all where only this process can change a definition.
        """
        self._connection = connection
        self._reader = reader
        self._new_trace = new_trace
        self._read_stamps = read_stamps
        self._cache: EventCache[DomainRecord] = EventCache(
            reader.read_all, reader.read_named, before_waiting=connection.before_waiting
        )
        self._seen: Stamps = {}
        self._answer: tuple[Records, AssignmentsByDevice] = ({}, {})
        connection.subscribe(self._hear)

    def invalidate(self, name: str | None = None) -> None:
        """Have one domain, or with None all of them, read again."""
        self._cache.invalidate(name)

    def list_assignments(self) -> AssignmentsByDevice:
        """Say which domains have which device, active ones first."""
        records = self._current()
        if records is None:
            return self._assignments_of(self._reader.read_all())
        read, answer = self._answer
        if read is not records:
            answer = self._assignments_of(records)
            self._answer = records, answer
        return answer

    def list_domains(self) -> Sequence[Domain]:
        """List all domains, active or not."""
        records = self._current()
        if records is None:
            records = self._reader.read_all()
        return [each.domain for each in records.values()]

    def _current(self) -> Records | None:
        """Return all domains; None where libvirt must be asked."""
        records = self._values() if self._is_current() else None
        announced = self._connection.announces("domain")  # known once connected
        return records if announced else None

    def _assignments_of(self, records: Records) -> AssignmentsByDevice:
        return DomainsSnapshot(records, self._new_trace()).list_assignments()

    def _hear(self, announcement: Announcement) -> None:
        if announcement.kind != "node device":
            self._cache.invalidate(announcement.name)

    def _is_current(self) -> bool:
        """Whether the cache may answer, after what the files say was invalidated."""
        if self._read_stamps is None:
            return True
        stamps = self._read_stamps()
        if stamps is None:
            return False
        if stamps is not self._seen:
            for name, _ in stamps.items() ^ self._seen.items():
                self._cache.invalidate(name)
            self._seen = stamps
        return True

    def _values(self) -> Records | None:
        """Return all domains; None if these are not their files."""
        values = self._cache.values()
        if self._read_stamps is None or values is self._answer[0]:
            return values
        persistent = {name for name, each in values.items() if each.domain.persistent}
        return values if persistent <= self._seen.keys() else None
