"""The files that libvirt replaces at each change of a domain."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_AN_HOUR: Final = 3_600_000_000_000
_A_SECOND: Final = 1_000_000_000


class FilesOnDisk:
    """Two directories with a file for each domain, as libvirt 9.0 and 11.3 were seen to keep them.

    Each change is a second after the one before, and all of them are so long ago that no clock's
    tick can hide another one; unless they are to have the time that they were made at.
    """

    def __init__(self, definitions: Path, states: Path, *, long_ago: bool = True) -> None:
        self.definitions, self.states = definitions, states
        self._long_ago = long_ago
        self._time = time.time_ns() - _AN_HOUR
        for directory in (definitions, states):
            directory.mkdir(parents=True, exist_ok=True)
            self._set_time(directory)

    def save(self, name: str, *, defined: bool, running: bool) -> None:
        """Write a domain's files anew, or remove them."""
        for directory, there in ((self.definitions, defined), (self.states, running)):
            file = directory / f"{name}.xml"
            if there:
                new = directory / f"{name}.xml.new"
                new.write_text("")
                self._set_time(new)
                new.rename(file)
            elif file.exists():
                file.unlink()
            else:
                continue
            self._set_time(directory)

    def _set_time(self, path: Path) -> None:
        if not self._long_ago:
            return
        self._time += _A_SECOND
        os.utime(path, ns=(self._time, self._time))
