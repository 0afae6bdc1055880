"""The files in which libvirt keeps the definitions of domains, where they can be seen.

libvirt announces when a domain is defined, but says nothing when ``virsh attach-device --config``
or ``detach-device --config`` changes a definition (measured on 9.0.0). It does write the file
anew before it answers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

Stamps: TypeAlias = Mapping[str, tuple[int, int]]
"""By domain, when its file was written and its inode: every change makes a new file."""

_SETTLED: Final = 2_500_000_000
"""Nanoseconds after which a directory's mtime is final; some file systems count seconds."""


class DomainConfigFiles:
    """One directory of definitions."""

    def __init__(self, directory: Path, now: Callable[[], int] = time.time_ns) -> None:
        """Take the directory; nothing is read yet.

        Args:
            directory: Holds ``NAME.xml`` for each persistent domain.
            now: Nanoseconds since 1970.
        """
        self._directory = directory
        self._now = now
        self._changed_at = -1
        self._stamps: Stamps | None = None

    def look(self) -> Stamps | None:
        """Return a stamp for each definition; None if the directory cannot be read.

        The very same object as before if nothing has changed.
        """
        try:
            changed_at = self._directory.stat().st_mtime_ns
            if changed_at == self._changed_at:
                return self._stamps
            stamps = dict(self._scan())
        except OSError:
            self._changed_at, self._stamps = -1, None
            return None
        if self._now() - changed_at > _SETTLED:
            self._changed_at = changed_at
        self._stamps = stamps
        return stamps

    def _scan(self) -> Mapping[str, tuple[int, int]]:
        with os.scandir(self._directory) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
        return {
            name.removesuffix(".xml"): (stat.st_mtime_ns, stat.st_ino)
            for name, stat in files
            if name.endswith(".xml")
        }


def domain_config_directory(uri: str, environment: Mapping[str, str]) -> Path | None:
    """Return where the local libvirt of a URI keeps definitions; None where we do not know.

    Source: libvirt's src/qemu/qemu_conf.c, configDir; QEMU is the driver that was measured.
    """
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] != "qemu":
        return None
    if parts.path == "/system":
        return Path("/etc/libvirt/qemu")
    if parts.path != "/session":
        return None
    home = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '')}/.config"
    return Path(home) / "libvirt/qemu"
