"""The service and all that it imports, as one directory that runs inside the lab."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, distribution
from pathlib import Path

import httpx
from hypeman_lab import Lab

from tests.lab.guest import until
from tests.lab.service import PATIENCE, SECRET, Service

CHECKOUT = Path(__file__).parent.parent.parent
PORT = 8080
"""Where the service listens inside; the lab says where that is outside."""
_NAME = re.compile(r"[\w.-]+")


def gather(directory: Path) -> None:
    """Copy the package of the checkout and its installed dependencies into a directory.

    Byte code goes along, with the times that it is valid for: compiling it inside takes minutes.
    """
    shutil.copytree(CHECKOUT / "hypeman_libvirt", directory / "hypeman_libvirt")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    for each in _closure(project["dependencies"], set()):
        for file in each.files or ():
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.exists():
                target = directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


@contextmanager
def serving_inside(lab: Lab, directory: Path) -> Iterator[Service]:
    """Start the service on the host inside the lab, and stop it in the end."""
    gather(directory)
    lab.copy(directory, "/opt/service")
    flags = f"--listen 0.0.0.0:{PORT} --uri qemu:///system --registry /run/inside.db"
    patience = " ".join(
        f"HYPEMAN_LIBVIRT_{each}_TIMEOUT={PATIENCE:g}" for each in ("OPERATION", "RELEASE")
    )
    lab.output(
        f"JWT_SECRET='{SECRET}' {patience} PYTHONPATH=/opt/service "
        f"nohup python3 -m hypeman_libvirt.cli.main "
        f"serve {flags} > /run/inside.log 2>&1 & echo $! > /run/inside.pid"
    )
    service = Service(f"http://127.0.0.1:{lab.ports[PORT]}")
    until(lambda: is_ready(service) or _has_ended(lab))
    yield service
    service.close()
    lab.output(
        "pid=$(cat /run/inside.pid); kill $pid; while [ -e /proc/$pid ]; do sleep 0.1; done; "
        "rm -rf /opt/service /run/inside.*"
    )


def is_ready(service: Service) -> bool:
    try:
        return service.http.get("/ready").is_success
    except httpx.TransportError:
        return False


def _has_ended(lab: Lab) -> bool:
    """Raise with its log if the service inside has ended; a wait would be in vain."""
    running = lab.exec("kill -0 $(cat /run/inside.pid)").returncode == 0
    assert running, lab.output("cat /run/inside.log")
    return False


def _closure(requirements: list[str], seen: set[str]) -> Iterator[Distribution]:
    """Iterate over what the requirements need; an extra's are left out."""
    for requirement in requirements:
        match = _NAME.match(requirement)
        if match is None or "extra ==" in requirement or match[0].lower() in seen:
            continue
        seen.add(match[0].lower())
        try:
            found = distribution(match[0])
        except ModuleNotFoundError:  # for another platform or Python
            continue
        yield found
        yield from _closure(found.requires or [], seen)
