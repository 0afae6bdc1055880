"""The files in which libvirt's QEMU driver stores its domains, where they can be read.

libvirt replaces a domain's file in one directory at every change of its definition, and one in
another at every change of the running domain, before its call returns and before ``XMLDesc`` says
anything new. So a file that is the same proves that the domain is. Measured on 9.0.0 and 11.3.0;
contrib/docs/decisions/0015-libvirts-files-prove-the-index.md has each way of changing a domain.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from hypeman_libvirt.host.cache.directory_watch import DirectoryWatch, ReadChanges

Stamp: TypeAlias = object
"""Equal only if the file is the same one, unchanged."""

Stamps: TypeAlias = Mapping[str, Stamp]
"""By domain."""

_Identity: TypeAlias = tuple[int, int, int, int]

_SUFFIX: Final = ".xml"
_NEW: Final = ".xml.new"
"""libvirt writes this file first, and then renames it."""
_SUFFIXES: Final = (_SUFFIX, _NEW)
_A_SECOND: Final = 1_000_000_000
_TICKS: Final = 50_000_000
"""Nanoseconds after which a time of change is final: two changes within one tick of the kernel's
clock, of 10 ms at most, leave the same time."""
_SECONDS: Final = 2_500_000_000
"""The same where the file system may count seconds: the time has no fraction."""
_SPARE: Final = 1024 * 1024
"""Bytes that must be free, or libvirt may have failed to write what it did."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """A directory as it was read.

    Attributes:
        directory: What every change within it changes.
        final: A later change will change that once more.
        files: By file, what every change of a domain changes.
        stamps: By domain; what is like nothing else if a change may not be seen.
        doubtful: Domains of which a change may not be seen.
        reported: The kernel has reported the change that made the directory what it is.
    """

    directory: _Identity
    final: bool
    files: Mapping[str, _Identity]
    stamps: Stamps
    doubtful: Collection[str]
    reported: bool


class DomainFiles:
    """One directory with ``NAME.xml`` for each domain. Safe between threads.

    The time of the directory says whether anything has changed. The kernel reports what that was;
    where it does not, all files are read.
    """

    def __init__(
        self,
        directory: Path,
        now: Callable[[], int] = time.time_ns,
        read_changes: ReadChanges | None = None,
    ) -> None:
        """Take the directory; nothing is read yet.

        Args:
            directory: Of definitions, or of the state of running domains.
            now: Nanoseconds since 1970.
            read_changes: Says which files were changed; by default the kernel does.
        """
        self._directory = directory
        self._now = now
        self._known: _Scan | None = None
        self._read_changes = read_changes or DirectoryWatch(directory).read
        self._lock = threading.Lock()

    def read(self) -> Stamps | None:
        """Return a stamp for each domain; None if the directory cannot be read, or is full.

        The very same object as before if nothing has changed.
        """
        try:
            known = self._known
            if known is not None and self._is_same(known) and self._has_space():
                return known.stamps
            with self._lock:
                known, self._known = self._known, None
                if known is None or not self._is_same(known):
                    known = self._read_again(known)
                if self._has_space():
                    self._known = known
                    return known.stamps
        except OSError:
            pass
        return None

    def _is_same(self, known: _Scan) -> bool:
        return known.final and known.directory == _identity(self._directory.stat())

    def _read_again(self, known: _Scan | None) -> _Scan:
        """Read what was changed, or everything.

        The kernel is asked before any file is read, so that it reports the next time what is
        changed meanwhile. Its report is not taken to be complete where it leaves a change
        of the directory unexplained, as of a directory of another machine.
        """
        directory = _identity(self._directory.stat())
        changed = self._read_changes(directory[:2])
        same = known is not None and known.directory == directory
        if known is None or changed is None or not (changed or (same and known.reported)):
            return self._scan_all(directory, known)
        names = [each for each in changed if each.endswith(_SUFFIXES)]
        if not (names or same):
            return self._scan_all(directory, known)
        files = dict(known.files)
        for name in names:
            files.pop(name, None)
            files |= _list_files([self._directory / name])
        domains = {*map(_domain_of, names), *known.doubtful}
        scan = self._stamp(directory, files, domains, known.stamps, reported=True)
        return _doubt_unwritten(scan, known, map(_domain_of, names))

    def _scan_all(self, directory: _Identity, known: _Scan | None) -> _Scan:
        """Read every file; if the directory has changed and none has, doubt them all."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # relative to the directory, the name of a file is resolved in half the time
            with os.scandir(descriptor) as entries:
                files = dict(_list_files(entries))
        finally:
            os.close(descriptor)
        domains = {*map(_domain_of, files)}
        scan = self._stamp(directory, files, domains, {}, reported=False)
        if known is None or known.directory == directory or known.files != files:
            return scan
        return _doubt_unwritten(scan, known, domains)

    def _stamp(
        self,
        directory: _Identity,
        files: Mapping[str, _Identity],
        domains: Collection[str],
        others: Stamps,
        *,
        reported: bool,
    ) -> _Scan:
        """Stamp domains anew; the stamps of others are what they were."""
        now, stamps = self._now(), dict(others)
        doubtful = set()
        for domain in domains:
            file = files.get(f"{domain}{_SUFFIX}")
            if f"{domain}{_NEW}" in files or (file is not None and not _is_final(file, now)):
                doubtful.add(domain)
                stamps[domain] = object()
            elif file is not None:
                stamps[domain] = file
            else:
                stamps.pop(domain, None)
        return _Scan(directory, _is_final(directory, now), files, stamps, doubtful, reported)

    def _has_space(self) -> bool:
        """Whether libvirt can write its files."""
        free = os.statvfs(self._directory)
        return free.f_bavail * free.f_frsize >= _SPARE and (free.f_favail > 0 or not free.f_files)


def _doubt_unwritten(scan: _Scan, known: _Scan, domains: Iterable[str]) -> _Scan:
    """Doubt those whose file is what it was: libvirt may have failed to write what it did."""
    files = {each: f"{each}{_SUFFIX}" for each in domains}
    unwritten = {
        each: object()
        for each, file in files.items()
        if file in scan.files and scan.files[file] == known.files.get(file)
    }
    return replace(scan, stamps={**scan.stamps, **unwritten}) if unwritten else scan


def _domain_of(file: str) -> str:
    return file.removesuffix(_NEW).removesuffix(_SUFFIX)


def _list_files(entries: Iterable[os.DirEntry[str] | Path]) -> Iterator[tuple[str, _Identity]]:
    """Read which file each domain has, or is about to have."""
    for entry in entries:
        if entry.name.endswith(_SUFFIXES) and entry.is_file():
            try:
                stat = entry.stat()
            except FileNotFoundError:  # it was renamed, which the next read will see
                continue
            yield entry.name, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _is_final(identity: _Identity, now: int) -> bool:
    """Whether the next change will be seen: an inode may be used again within one tick."""
    *_, changed_at = identity
    return now - changed_at > (_TICKS if changed_at % _A_SECOND else _SECONDS)


def _identity(stat: os.stat_result) -> _Identity:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class DomainDirectories:
    """Where a libvirt stores its domains.

    Attributes:
        definitions: Of persistent domains.
        states: Of running domains.
    """

    definitions: Path
    states: Path


def domain_directories(uri: str, environment: Mapping[str, str]) -> DomainDirectories | None:
    """Return where the local libvirt of a URI stores domains; None where that is not known.

    Source: libvirt's src/qemu/qemu_conf.c, configDir and stateDir; QEMU is the driver that was
    measured.
    """
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] != "qemu":
        return None
    if parts.path == "/system":
        return DomainDirectories(Path("/etc/libvirt/qemu"), Path("/run/libvirt/qemu"))
    if parts.path != "/session":
        return None
    home = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '')}/.config"
    runtime = environment.get("XDG_RUNTIME_DIR")
    cache = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME', '')}/.cache"
    state = f"{runtime or cache}/libvirt/qemu/run"
    return DomainDirectories(Path(home) / "libvirt/qemu", Path(state))
