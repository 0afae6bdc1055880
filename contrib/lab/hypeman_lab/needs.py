"""What a machine must have before the lab can run on it."""

import os
import platform
from pathlib import Path

from hypeman_lab import image, sources
from hypeman_lab.errors import LabError
from hypeman_lab.process import find, run

_TO_RUN = {"qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux"}
_TO_BUILD = {
    "apt-get": "apt",
    "mmdebstrap": "mmdebstrap",
    "cpio": "cpio",
    "modprobe": "kmod",
    "mkfs.ext4": "e2fsprogs",
    sources.KEYRING: "debian-archive-keyring",
}


def missing(libvirt: str = "stable", *, user: int | None = None) -> list[str]:
    """Say for people why the lab can not run here; an empty list means that it can.

    Args:
        libvirt: Whose image.
        user: Numeric id of the user who would run it. Default: who runs this.
    """
    reasons = [
        f"{tool} is not here: apt-get install {package}" for tool, package in _lacking(libvirt)
    ]
    if platform.machine() != "x86_64":
        reasons.insert(0, f"the lab is an x86_64 machine and can not run on {platform.machine()}")
    if (os.geteuid() if user is None else user) != 0:
        reasons.insert(
            0,
            "the lab needs root, to make its image and to share a directory with it: "
            "sudo contrib/check -e smoke brings what it lacks and runs it",
        )
    return reasons


def install_missing(libvirt: str = "stable") -> list[str]:
    """Install the Debian packages that are missing and return their names.

    Raises:
        LabError: something is missing that apt-get can not bring.
    """
    packages = sorted({package for _, package in _lacking(libvirt)})
    if packages and os.geteuid() == 0 and find("apt-get"):
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)
    if reasons := missing(libvirt):
        raise LabError("\n".join(reasons))
    return packages


def _lacking(libvirt: str) -> list[tuple[str, str]]:
    tools = _TO_RUN if image.directory(libvirt).exists() else _TO_RUN | _TO_BUILD
    return [(tool, package) for tool, package in tools.items() if not _here(tool)]


def _here(tool: str) -> bool:
    return find(tool) is not None or Path(tool).is_file()
