"""What all domains have of the host, as libvirt's own files prove it at the moment of asking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import libvirt

from hypeman_libvirt.host.assignments import DomainReader, Records
from hypeman_libvirt.host.cache.domain_files import DomainFiles, Stamps

_FEW: Final = 8
"""Domains that are read one by one even if they are most of all."""


class AssignmentIndex:
    """Every domain, read again only when its file says that it may have changed.

    This may decide over a change. The files are looked at in each answer: libvirt replaces them
    before its call returns, so whatever was done before the question is in the answer. An event
    proves nothing, since it may still be on its way. Safe between threads.
    """

    def __init__(self, reader: DomainReader, definitions: DomainFiles, states: DomainFiles) -> None:
        """Read nothing yet.

        Args:
            reader: Asks libvirt.
            definitions: Of persistent domains.
            states: Of running domains.
        """
        self._reader = reader
        self._definitions = definitions
        self._states = states
        self._lock = threading.Lock()
        self._defined: Stamps | None = None
        self._running: Stamps | None = None
        self._records: Records = {}

    def read(self) -> Records:
        """Return every domain by name; all of them are read where the files cannot be seen.

        Raises: what the reader raises.
        """
        with self._lock:
            defined, running = self._definitions.read(), self._states.read()
            if defined is None or running is None:
                self._defined = self._running = None
                return self._reader.read_all()
            records = self._refresh(defined, running)
            self._defined, self._running, self._records = defined, running, records
            return records

    def _refresh(self, defined: Stamps, running: Stamps) -> Records:
        """Read what changed since the last answer; of a first one, everything."""
        if self._defined is None or self._running is None:
            return self._reader.read_all()
        names = {
            *_changed(defined, self._defined),
            *_changed(running, self._running),
            *_unproven(self._records, defined, running),
            *self._unknown(defined, running),
        }
        if len(names) > max(_FEW, len(self._records) // 2):
            return self._reader.read_all()
        if not names:
            return self._records
        read = {name: self._reader.read_named(name) for name in names}
        others = {name: each for name, each in self._records.items() if name not in read}
        return others | {name: each for name, each in read.items() if each is not None}

    def _unknown(self, defined: Stamps, running: Stamps) -> Iterator[str]:
        """List domains that no file told of, where no file has proved to be this libvirt's.

        In a container the directories may be there and be another libvirt's. One domain with its
        file is proof; without any such domain libvirt is asked whether it has some.
        """
        records = self._records
        if not any(each.domain.persistent and name in defined for name, each in records.items()):
            yield from self._list_new(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT)
        if not any(each.domain.active and name in running for name, each in records.items()):
            yield from self._list_new(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)

    def _list_new(self, flags: int) -> Iterator[str]:
        return (name for name in self._reader.list_names(flags) if name not in self._records)


def _changed(now: Stamps, before: Stamps) -> Iterator[str]:
    if now is not before:
        yield from (name for name, stamp in now.items() if before.get(name) != stamp)
        yield from (name for name in before if name not in now)


def _unproven(records: Records, defined: Stamps, running: Stamps) -> Iterator[str]:
    """List domains that lack a file which they should have: nothing would tell of a change."""
    for name, record in records.items():
        domain = record.domain
        if (domain.persistent and name not in defined) or (domain.active and name not in running):
            yield name
