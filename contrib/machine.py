"""What quickstart and check need of a machine, and how they get it.

Needs nothing but Python's standard library, for it runs before anything is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_OLDEST = (3, 11)
_HEARTBEAT = 15.0
"""Seconds after which is said that a program still runs."""
_APT_LOCK = 120
"""Seconds to wait for another apt-get, such as that of unattended upgrades."""


def say(text: str) -> None:
    """Print at once, so that it stands before what programs print."""
    print(text, flush=True)


def require_python() -> None:
    """End with a message on a Python that is too old."""
    if sys.version_info < _OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python 3.11 or newer is needed, this is {found}: run python3.x {sys.argv[0]}")


def require_build_tools() -> None:
    """Install what building libvirt-python needs, or say what is missing and end."""
    missing = _missing_packages()
    try:
        install_packages(missing)
    except OSError as error:
        sys.exit(
            "libvirt-python is built on this machine. Install what Debian calls "
            f"{', '.join(missing)} (Fedora: libvirt-devel, pkgconf, gcc, python3-devel), "
            f"then run {sys.argv[0]} again. It was not installed for you: {error}"
        )


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages, as root or with sudo.

    Raises:
        OSError: There is no apt-get or no way to be root, or it fails.
    """
    if packages:
        say(f"Installing {' '.join(packages)} with apt-get ...")
        _apt("update")
        _apt("-y", "--no-install-recommends", "install", *packages)


def update_package_lists() -> None:
    """Have apt-get read which Debian packages there are, as root or with sudo.

    Raises:
        OSError: There is no apt-get or no way to be root, or it fails.
    """
    _apt("update")


def _apt(*arguments: str) -> None:
    apt = shutil.which("apt-get")
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if apt is None:
        raise OSError("there is no apt-get")
    if as_root and shutil.which("sudo") is None:
        raise OSError("you are not root, and there is no sudo")
    command = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", apt, "-qq"]
    command += ["-o", f"DPkg::Lock::Timeout={_APT_LOCK}"]
    status, printed = run_and_say([*command, *arguments])
    if status != 0:
        verb = next(each for each in arguments if not each.startswith("-"))
        raise OSError(f"apt-get {verb} failed: {printed.strip()[-500:]}")


def run(command: Sequence[str | Path]) -> None:
    """Run a program in silence; if it fails, print what it said and end."""
    status, printed = run_and_say(command)
    if status != 0:
        print(printed, file=sys.stderr)
        sys.exit(f"{' '.join(map(str, command))} failed with status {status}")


def run_and_say(command: Sequence[str | Path], directory: Path = ROOT) -> tuple[int, str]:
    """Run a program and return its status and what it printed; say that it goes on."""
    began = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=directory
    ) as process:
        while True:
            try:
                printed, _ = process.communicate(timeout=_HEARTBEAT)
            except subprocess.TimeoutExpired:
                say(f"... it takes {time.monotonic() - began:.0f} s so far")
            else:
                return process.returncode, printed


def make_venv(directory: Path) -> Path:
    """Make a virtual environment from scratch and return its Python."""
    clear_place(directory)
    run([sys.executable, "-m", "venv", directory])
    return directory / "bin" / "python"


def clear_place(directory: Path) -> None:
    """Remove what stands where a virtual environment is to be, or end and say whose it is."""
    try:
        if directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory)
        else:  # a link, or a file that points elsewhere: PEP 832
            directory.unlink(missing_ok=True)
    except PermissionError as error:
        owner = Path(error.filename).stat().st_uid
        sys.exit(f"{error.filename} belongs to user {owner}: remove {directory}, then try again")


def _missing_packages() -> list[str]:
    """Return the Debian packages whose content is not here."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    has_libvirt = shutil.which("pkg-config") and not subprocess.call(
        ["pkg-config", "--atleast-version=6.0", "libvirt"]  # noqa: S607  # from the PATH, as the build does
    )
    present = {
        "gcc": shutil.which("gcc"),
        "libc6-dev": Path("/usr/include/stdio.h").exists(),
        "libvirt-dev": has_libvirt,
        "pkg-config": shutil.which("pkg-config"),
        "python3-dev": header.exists(),
        "python3-venv": importlib.util.find_spec("ensurepip"),
    }
    return [package for package, found in present.items() if not found]
