"""Commands into the guest and files with them, over one shared directory: no network, no agent."""

import itertools
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from hypeman_lab.errors import LabError

_PERIOD = 0.05  # seconds after which the directory is read again


class Channel:
    """The outer end of the directory that lab-init serves."""

    def __init__(self, share: Path, alive: Callable[[], bool]) -> None:
        """Take the directory that the guest sees as /share, and a way to ask whether it lives."""
        self._share = share
        self._queue = share / "queue"
        self._queue.mkdir()
        self._alive = alive
        self._numbers = itertools.count()

    def wait_ready(self, timeout: float) -> None:
        """Wait until libvirtd answers inside; timeout in seconds."""
        if not self._appears(self._share / "ready", timeout):
            raise LabError(f"the guest was not ready after {timeout:.0f} s")

    def run(self, command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a bash command in the guest; see Lab.exec."""
        job = self._queue / f"{next(self._numbers)}.cmd"
        draft = job.with_suffix(".draft")
        draft.write_text(command + "\n")
        draft.rename(job)
        done = self._appears(job.with_suffix(".rc"), timeout)
        out, err = (_text(job.with_suffix(suffix)) for suffix in (".out", ".err"))
        if not done:
            raise subprocess.TimeoutExpired(command, timeout, out, err)
        status = int(_text(job.with_suffix(".rc")))
        for path in self._queue.glob(f"{job.stem}.*"):
            path.unlink()
        return subprocess.CompletedProcess(command, status, out, err)

    def pack(self, source: Path, name: str) -> str:
        """Lay a file or directory into the share as an archive of `name`; return its path inside.

        One large file crosses 9p many times faster than a thousand small ones.
        """
        archive = self._share / f"{next(self._numbers)}.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(source, arcname=name)
        return f"/share/{archive.name}"

    def _appears(self, path: Path, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not path.exists():
            if not self._alive():
                raise LabError("the guest is gone")
            if time.monotonic() > deadline:
                return False
            time.sleep(_PERIOD)
        return True


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
