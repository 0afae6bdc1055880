"""Domains by what a client calls them, and who has which device: live, for decisions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from hypeman_libvirt.devices.domain import Assignment, Domain
from hypeman_libvirt.host.assignments import (
    DomainReader,
    DomainRecord,
    DomainsSnapshot,
    NewTrace,
    Records,
    list_assignments,
)

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class DomainLookup:
    """Asks for one domain where one will do, and for all of them once where it takes all."""

    def __init__(
        self, reader: DomainReader, read_all: Callable[[], Records], new_trace: NewTrace
    ) -> None:
        """Take who reads.

        Args:
            reader: Of single domains.
            read_all: Of all domains; no answer is older than the call.
            new_trace: Begins to trace what domains use down to PCI functions.
        """
        self._reader = reader
        self._read_all = read_all
        self._new_trace = new_trace
        self._uuids: dict[str, str] = {}

    def list_domains(self) -> Sequence[Domain]:
        """List all domains, active or not."""
        return [each.domain for each in self._read_all().values()]

    def find(self, instance: str) -> Domain | None:
        """Look up by UUID, name or instance id, in this order."""
        if not instance.isprintable():
            return None
        record = self._by_uuid(instance) or self._reader.read_named(instance)
        return record.domain if record else self._by_instance_id(instance)

    def read_snapshot(self) -> DomainsSnapshot:
        """Read all domains, for who has which device."""
        return DomainsSnapshot(self._read_all(), self._new_trace())

    def read_domain_assignments(self, domain: Domain) -> Sequence[Assignment]:
        """Say what this one domain has; nothing when it is gone."""
        record = self._reader.read_by_uuid(domain.uuid)
        return list_assignments(record, self._new_trace()) if record else ()

    def read_xml(self, domain: Domain) -> str | None:
        """Return the definition for its next start, of a transient domain the live one."""
        return self._reader.read_xml(domain)

    def _by_uuid(self, text: str) -> DomainRecord | None:
        return self._reader.read_by_uuid(text) if _UUID.fullmatch(text) else None

    def _by_instance_id(self, instance: str) -> Domain | None:
        """Try the domain of the last time first; that there is none, only all domains show."""
        known = self._uuids.get(instance)
        record = self._reader.read_by_uuid(known) if known else None
        if record is None or record.domain.instance_id != instance:
            domains = self.list_domains()
            self._uuids = {each.instance_id: each.uuid for each in domains if each.instance_id}
            return next((each for each in domains if each.instance_id == instance), None)
        return record.domain
