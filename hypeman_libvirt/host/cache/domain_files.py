"""The files in which libvirt's QEMU driver stores its domains, where they can be read.

libvirt replaces a domain's file in one directory at every change of its definition, and one in
another at every change of the running domain, before its call returns and before ``XMLDesc`` says
anything new. So a file that is the same proves that the domain is. Measured on 9.0.0 and 11.3.0;
contrib/docs/decisions/0015-libvirts-files-prove-the-index.md has each way of changing a domain.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

Stamp: TypeAlias = object
"""Equal only if the file is the same one, unchanged."""

Stamps: TypeAlias = Mapping[str, Stamp]
"""By domain."""

_Identity: TypeAlias = tuple[int, int, int, int]

_SUFFIX: Final = ".xml"
_NEW: Final = ".xml.new"
"""libvirt writes this file first, and then renames it."""
_SUFFIXES: Final = (_SUFFIX, _NEW)
_SUFFIX_LENGTH: Final = -len(_SUFFIX)
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
    """

    directory: _Identity
    final: bool
    files: Mapping[str, _Identity]
    stamps: Stamps


class DomainFiles:
    """One directory with ``NAME.xml`` for each domain."""

    def __init__(self, directory: Path, now: Callable[[], int] = time.time_ns) -> None:
        """Take the directory; nothing is read yet.

        Args:
            directory: Of definitions, or of the state of running domains.
            now: Nanoseconds since 1970.
        """
        self._directory = directory
        self._now = now
        self._known: _Scan | None = None

    def read(self) -> Stamps | None:
        """Return a stamp for each domain; None if the directory cannot be read, or is full.

        The very same object as before if nothing has changed.
        """
        known, self._known = self._known, None
        try:
            directory = _identity(self._directory.stat())
            if known is None or not known.final or known.directory != directory:
                known = self._scan(directory, known)
            if not self._has_room():
                return None
        except OSError:
            return None
        self._known = known
        return known.stamps

    def _scan(self, directory: _Identity, known: _Scan | None) -> _Scan:
        """Read the directory.

        If it has changed and no file has, then libvirt could not write what it did.
        """
        with os.scandir(self._directory) as entries:
            files = dict(_list_files(entries))
        unwritten = known is not None and known.directory != directory and known.files == files
        now = self._now()
        stamps: dict[str, Stamp] = {
            name[:_SUFFIX_LENGTH]: each if not unwritten and _is_final(each, now) else object()
            for name, each in files.items()
            if name.endswith(_SUFFIX)
        }
        stamps |= {name.removesuffix(_NEW): object() for name in files if name.endswith(_NEW)}
        return _Scan(directory, _is_final(directory, now), files, stamps)

    def _has_room(self) -> bool:
        """Whether libvirt can write its files."""
        free = os.statvfs(self._directory)
        return free.f_bavail * free.f_frsize >= _SPARE and (free.f_favail > 0 or not free.f_files)


def _list_files(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, _Identity]]:
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
