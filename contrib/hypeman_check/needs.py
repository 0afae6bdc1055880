"""What tests need beyond Python: Debian brings it, or it is said what is left out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypeman_fleet.postgres import find_programs
from machine import run_and_say, say

_OLDEST_NODE: Final = 18


@dataclass(frozen=True)
class Need:
    """Something that tests use.

    Attributes:
        what: Its name, for people.
        packages: The Debian packages that bring it.
        whose: The tests that are left out without it.
        here: Whether it is there.
        unpacked: Whether the packages are unpacked for the tests alone, because installing them
            would start a server on this machine.
    """

    what: str
    packages: Sequence[str]
    whose: str
    here: Callable[[], bool]
    unpacked: bool = False


def list_needs(tools: Path) -> list[Need]:
    """Return what tests use.

    Args:
        tools: Where packages are unpacked.
    """
    policy = "usr/share/polkit-1/actions/org.libvirt.api.policy"
    return [
        Need("curl", ["curl"], "the README's session", _program("curl")),
        Need("openssl", ["openssl"], "the README's session", _program("openssl")),
        Need(
            f"Node {_OLDEST_NODE} and npm",
            ["nodejs", "npm"],
            "hypeman's npm client, the page's types and the polkit rule",
            lambda: shutil.which("npm") is not None and node_version() >= _OLDEST_NODE,
        ),
        Need("chromium", ["chromium"], "the page in a browser", _program("chromium")),
        Need(
            "systemd-analyze",
            ["systemd"],
            "the confinement of the unit",
            _program("systemd-analyze"),
        ),
        Need(
            "promtool",
            ["prometheus"],
            "the alert rules",
            lambda: bool(shutil.which("promtool") or (tools / "usr/bin/promtool").exists()),
            unpacked=True,
        ),
        Need(
            "PostgreSQL",
            [_postgresql()],
            "the tests of a fleet, and of the registry on PostgreSQL",
            lambda: find_programs(tools / "usr/lib/postgresql") is not None,
            unpacked=True,
        ),
        Need(
            "libvirt's polkit actions",
            ["libvirt-daemon-system"],
            "the names in the polkit rule",
            lambda: Path("/", policy).exists() or (tools / policy).exists(),
            unpacked=True,
        ),
    ]


def _postgresql() -> str:
    """Return the package of Debian's PostgreSQL; ``postgresql`` itself only depends on it."""
    apt = shutil.which("apt-cache")
    if apt is not None:
        command = [apt, "depends", "--important", "postgresql"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if found := re.search(r"postgresql-\d+", said):
            return found[0]
    return "postgresql"


def node_version() -> int:
    """Return Node's major version; 0 without Node."""
    node = shutil.which("node")
    if node is None:
        return 0
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)", said)
    return int(found[1]) if found else 0


def bring(
    needs: Iterable[Need],
    tools: Path,
    install: Callable[[Sequence[str]], None],
    update: Callable[[], None],
) -> dict[str, str]:
    """Bring what is not there.

    Args:
        needs: What tests use.
        tools: Where packages are unpacked.
        install: Installs Debian packages, or raises ``OSError`` with the reason why not.
        update: Has apt read which packages there are; likewise.

    Returns:
        What could not be brought, by its name, with the reason.
    """
    absent = [each for each in needs if not each.here()]
    to_install = [name for each in absent if not each.unpacked for name in each.packages]
    to_unpack = [name for each in absent if each.unpacked for name in each.packages]
    reason = "it was installed and is still not there"
    try:
        if to_install:
            install(to_install)
        if to_unpack:
            unpack(to_unpack, tools, update)
    except OSError as error:
        reason = str(error)
    return {each.what: reason for each in absent if not each.here()}


def say_left_out(needs: Iterable[Need], reasons: dict[str, str]) -> list[str]:
    """Say for people what is left out, why, and the line that brings it."""
    return [
        f"{each.whose}: no {each.what} ({reasons[each.what]}); "
        f"apt-get install {' '.join(each.packages)} brings it"
        for each in needs
        if each.what in reasons
    ]


def unpack(packages: Sequence[str], tools: Path, update: Callable[[], None]) -> None:
    """Download Debian packages and unpack them, which needs no right on this machine.

    Where apt knows no such package, or an old one, its lists are updated first.

    Raises:
        OSError: A package cannot be had.
    """
    say(f"Unpacking {' '.join(packages)} for the tests alone ...")
    tools.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "-qq", "download", *packages]
    try:
        _run(download, tools)
    except OSError:
        update()
        _run(download, tools)
    for package in packages:
        for archive in tools.glob(f"{package}_*.deb"):
            _run(["dpkg-deb", "--extract", archive.name, "."], tools)
            archive.unlink()


def paths(tools: Path) -> dict[str, str]:
    """Return the environment in which programs and data that were unpacked are found.

    Source: XDG Base Directory Specification, ``XDG_DATA_DIRS``.
    """
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return {
        "PATH": f"{os.environ['PATH']}{os.pathsep}{tools / 'usr/bin'}",
        "XDG_DATA_DIRS": f"{data}{os.pathsep}{tools / 'usr/share'}",
    }


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _run(command: Sequence[str], directory: Path) -> None:
    status, printed = run_and_say(command, directory)
    if status != 0:
        raise OSError(f"{' '.join(command)}: {printed.strip()[-300:]}")
