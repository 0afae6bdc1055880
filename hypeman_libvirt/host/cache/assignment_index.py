"""What all domains have of the host, as libvirt's own files prove it at the moment of asking."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import libvirt

from hypeman_libvirt.host.assignments import DomainReader, Records
from hypeman_libvirt.host.cache.domain_files import DomainFiles, Stamps

_FEW: Final = 8
"""Domains that are read one by one even if they are most of all."""


@dataclass(frozen=True, slots=True)
class _ProvenRecords:
    """Records of domains, and the files that prove them.

    Attributes:
        defined: Of persistent domains.
        running: Of running domains.
        records: Every domain by name.
        doubts: What these files do not prove of these domains; None if that was not asked yet.
    """

    defined: Stamps
    running: Stamps
    records: Records
    doubts: _Doubts | None = None


@dataclass(frozen=True, slots=True)
class _Doubts:
    """What files do not prove.

    Attributes:
        unproven: Domains that lack a file which they should have: a change would go unnoticed.
        unlisted: ``VIR_CONNECT_LIST_DOMAINS_…``, of which no domain has its file.
    """

    unproven: Collection[str]
    unlisted: Sequence[int]


class AssignmentIndex:
    """Every domain, read again only when its file says that it may have changed.

    This may decide over a change. The files are read for each answer: libvirt replaces them
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
        self._answer: _ProvenRecords | None = None

    def read(self) -> Records:
        """Return every domain by name; all of them are read where the files cannot be seen.

        Raises: what the reader raises.
        """
        with self._lock:
            defined, running = self._definitions.read(), self._states.read()
            if defined is None or running is None:
                self._answer = None
                return self._reader.read_all()
            if self._answer is None:
                self._answer = _ProvenRecords(defined, running, self._reader.read_all())
            else:
                self._answer = self._refresh(self._answer, defined, running)
            return self._answer.records

    def _refresh(self, before: _ProvenRecords, defined: Stamps, running: Stamps) -> _ProvenRecords:
        """Read what may have changed since the last answer.

        Which domains are not proved is computed anew only when a file has changed.
        """
        same = defined is before.defined and running is before.running
        doubts = (before.doubts if same else None) or _doubt(before.records, defined, running)
        names = {
            *_changed(defined, before.defined),
            *_changed(running, before.running),
            *doubts.unproven,
            *self._list_new(before.records, doubts.unlisted),
        }
        if not names:
            return _ProvenRecords(defined, running, before.records, doubts)
        return _ProvenRecords(defined, running, self._read_again(before.records, names))

    def _read_again(self, records: Records, names: Collection[str]) -> Records:
        if len(names) > max(_FEW, len(records) // 2):
            return self._reader.read_all()
        read = {name: self._reader.read_named(name) for name in names}
        there = {name: each for name, each in read.items() if each is not None}
        now = {**records, **there}
        for name in read.keys() - there.keys():
            now.pop(name, None)
        return now

    def _list_new(self, records: Records, unlisted: Iterable[int]) -> Iterator[str]:
        """List domains that are new and have no file."""
        for flags in unlisted:
            yield from (name for name in self._reader.list_names(flags) if name not in records)


def _changed(now: Stamps, before: Stamps) -> Collection[str]:
    if now is before:
        return ()
    suspects = [name for name, stamp in now.items() if before.get(name) is not stamp]
    changed = [name for name in suspects if before.get(name) != now[name]]
    return [*changed, *(before.keys() - now.keys())]


def _doubt(records: Records, defined: Stamps, running: Stamps) -> _Doubts:
    """Say what the files do not prove.

    In a container the directories may be there and be another libvirt's. One domain with its file
    is proof; without any such domain libvirt is to be asked whether it has some.
    """
    domains = [each.domain for each in records.values()]
    persistent = {each.name for each in domains if each.persistent}
    active = {each.name for each in domains if each.active}
    unlisted = []
    if persistent.isdisjoint(defined):
        unlisted.append(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT)
    if active.isdisjoint(running):
        unlisted.append(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    unproven = (persistent - defined.keys()) | (active - running.keys())
    return _Doubts(unproven, unlisted)
