"""The service is killed in the middle of a bind, on real drivers; the next one carries on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypeman_lab import Lab

from tests.lab.guest import AUDIO, GPU, NIC, Guest, until
from tests.lab.service import SECRET, Service, serving

pytestmark = pytest.mark.lab

KILLS = 8
APART = 0.2
"""Seconds; together they cover what a bind of the group takes."""


def test_a_service_that_is_killed_loses_nothing_and_what_is_half_done_is_told(
    lab: Lab, guest: Guest, tmp_path: Path
) -> None:
    guest.nvidia("remove_ms", 400)
    with serving(lab.uri, tmp_path) as service:
        service.register(GPU, "gpu")
        service.register(NIC, "nic")
    for number in range(KILLS):
        with serving(lab.uri, tmp_path) as service:
            kill_during_bind(service, number * APART)
        with serving(lab.uri, tmp_path) as service:
            names = {each.name for each in service.hypeman.devices.list()}
            assert names == {"gpu", "nic"}
            until(lambda: is_whole(guest) or is_told(lab, tmp_path))
            until(lambda: gives_back(service))
        until(lambda: guest.drivers() == guest.at_boot)


def kill_during_bind(service: Service, seconds: float) -> None:
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(service.http.post, "/devices/gpu/bind", json={"scope": "group"})
        time.sleep(seconds)
        service.kill()
        with suppress(httpx.TransportError):
            asked.result()


def is_whole(guest: Guest) -> bool:
    return len({guest.lab.driver(each) == "vfio-pci" for each in (GPU, AUDIO)}) == 1


def is_told(lab: Lab, directory: Path) -> bool:
    """Whether the doctor names the half that is on vfio-pci."""
    command = [
        sys.executable,
        "-m",
        "hypeman_libvirt.cli.main",
        "doctor",
        "--json",
        "--uri",
        lab.uri,
    ]
    settings = {"JWT_SECRET": SECRET, "HYPEMAN_LIBVIRT_REGISTRY": str(directory / "devices.db")}
    done = subprocess.run(  # noqa: S603
        command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=False
    )
    severities = {each["id"]: str(each["severity"]) for each in json.loads(done.stdout)}
    return severities["interrupted"] == "warning"


def gives_back(service: Service) -> bool:
    """Ask until libvirt has finished what the killed service began."""
    return service.http.post("/devices/gpu/unbind", json={"scope": "group"}).is_success
