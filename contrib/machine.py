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
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_OLDEST = (3, 11)


def say(text: str) -> None:
    """Print at once, so that it stands before what programs print."""
    print(text, flush=True)


def require_python() -> None:
    """End with a message on a Python that is too old."""
    if sys.version_info < _OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python 3.11 or newer is needed, this is {found}: run python3.x {sys.argv[0]}")


def require_build_tools(*also: str) -> None:
    """Install what building libvirt-python needs, or say what is missing and end.

    Args:
        also: Programs that are in Debian packages of the same name.
    """
    missing = [*_missing_packages(), *(each for each in also if shutil.which(each) is None)]
    if not missing:
        return
    apt = shutil.which("apt-get")
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if apt is None or (as_root and shutil.which("sudo") is None):
        sys.exit(
            "libvirt-python is built on this machine. Install what Debian calls "
            f"{', '.join(missing)} (Fedora: libvirt-devel, pkgconf, gcc, python3-devel), "
            f"then run {sys.argv[0]} again"
        )
    say(f"Installing {' '.join(missing)} with apt-get ...")
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    run([*as_root, *environment, apt, "-qq", "update"])
    run([*as_root, *environment, apt, "-qq", "-y", "--no-install-recommends", "install", *missing])


def run(command: Sequence[str | Path]) -> None:
    """Run a program in silence; if it fails, print what it said and end."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        sys.exit(f"{' '.join(map(str, command))} failed with status {done.returncode}")


def make_venv(folder: Path) -> Path:
    """Make a virtual environment from scratch and return its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", folder])
    return folder / "bin" / "python"


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
