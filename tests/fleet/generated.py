"""Agents whose hosts are made up: for numbers that no machine has room for."""

from __future__ import annotations

from typing import Any

import httpx

from hypeman_libvirt.hub.protocol import REPORT_PATH, Enrolment
from hypeman_libvirt.hub.tokens import new_key
from tests.fleet.world import Fleet


def device_body(host: str, number: int, **more: object) -> dict[str, Any]:
    """Make a GPU, as ``GET /devices`` answers it."""
    return {
        "id": f"{host}x{number:04d}".ljust(24, "x"),
        "bound_to_vfio": False,
        "created_at": "2025-01-15T10:00:00Z",
        "device_id": "2330",
        "iommu_group": number,
        "pci_address": f"0000:{number // 32 + 16:02x}:{number % 32:02x}.0",
        "type": "gpu",
        "vendor_id": "10de",
        "attached_to": None,
        "name": f"gpu{number}",
        "state": "present",
        "health": {"status": "ok"},
        **more,
    }


class GeneratedAgent:
    """Reports GPUs that there are not."""

    def __init__(self, fleet: Fleet, name: str, devices: int) -> None:
        """Enrol."""
        self._fleet = fleet
        self._name = name
        self._devices = devices
        self._sequence = 0
        self._key = new_key()
        fleet.hub.hosts.enrol(
            Enrolment(
                token=fleet.invite(name),
                host=name,
                url="http://127.0.0.1:9",
                agent_key=self._key,
                version="0.1.0",
            )
        )

    def report_all(self) -> int:
        """Send a full report; return the status of the answer."""
        bodies = [device_body(self._name, number) for number in range(self._devices)]
        return self._send(full=True, devices=[{"body": each, "numa_node": 0} for each in bodies])

    def _send(self, **fields: object) -> int:
        self._sequence += 1
        report = {
            "host": self._name,
            "epoch": self._name,
            "sequence": self._sequence,
            "sent_at": 0.0,
            "version": "0.1.0",
            "url": "http://127.0.0.1:9",
            **fields,
        }
        headers = {"Authorization": f"Bearer {self._key}"}
        answer = httpx.post(
            f"{self._fleet.url}{REPORT_PATH}", json=report, headers=headers, timeout=300
        )
        return answer.status_code
