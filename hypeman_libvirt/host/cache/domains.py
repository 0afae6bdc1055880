"""Who holds which PCI function, without asking for every domain's XML each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypeman_libvirt.devices.ports import AssignmentsByDevice
from hypeman_libvirt.host.cache.domain_config_files import Stamps
from hypeman_libvirt.host.cache.event_cache import EventCache
from hypeman_libvirt.host.connection import Announcement, Connection
from hypeman_libvirt.host.domains import DomainAssignments, Domains, by_address


class DomainCache:
    """Holders by address, read once and kept true.

    libvirt announces what happens to running domains and which are defined and undefined; changes
    within a definition show in its file. Where either is not to be had, libvirt is asked.
    """

    def __init__(
        self, connection: Connection, domains: Domains, look: Callable[[], Stamps | None] | None
    ) -> None:
        """Listen on the connection, and read nothing yet.

        Args:
            connection: Announces changes of domains.
            domains: Asks libvirt over it.
            look: The definitions' files, None if they cannot be seen now. No ``look`` at all
                where nobody but this process can change a definition.
        """
        self._connection = connection
        self._domains = domains
        self._look = look
        self._cache = EventCache(domains.read_all_assignments, domains.read_assignments)
        self._seen: Stamps = {}
        self._answer: tuple[Mapping[str, DomainAssignments], AssignmentsByDevice] = ({}, {})
        connection.subscribe(self._hear)

    def invalidate(self, name: str | None = None) -> None:
        """Have one domain, or with None all of them, read again."""
        self._cache.invalidate(name)

    def list_assignments(self) -> AssignmentsByDevice:
        """Say which domains hold which address, active ones first."""
        kept = self._values() if self._may_keep() else None
        if kept is None or not self._connection.announces("domain"):  # known once connected
            return self._domains.list_assignments()
        read, answer = self._answer
        if read is not kept:
            answer = by_address(kept.values())
            self._answer = kept, answer
        return answer

    def _hear(self, announcement: Announcement) -> None:
        if announcement.kind != "node device":
            self._cache.invalidate(announcement.name)

    def _may_keep(self) -> bool:
        if self._look is None:
            return True
        stamps = self._look()
        if stamps is None:
            return False
        if stamps is not self._seen:
            for name, _ in stamps.items() ^ self._seen.items():
                self._cache.invalidate(name)
            self._seen = stamps
        return True

    def _values(self) -> Mapping[str, DomainAssignments] | None:
        """Return all domains; None if these are not their files."""
        values = self._cache.values()
        if self._look is None or values is self._answer[0]:
            return values
        persistent = {name for name, each in values.items() if each.persistent}
        return values if persistent <= self._seen.keys() else None
