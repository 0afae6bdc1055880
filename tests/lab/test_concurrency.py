"""Many clients on real drivers: as if they had come one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.guest import NVME, REFUSED_GPU, SHARE, Guest, until
from tests.lab.service import Service
from tests.trust.clients import drive

pytestmark = pytest.mark.lab

CLIENTS, DEVICES, FUNCTIONS = 64, 20, 15
SECONDS = 60.0


@pytest.fixture
def addresses(service: Service, guest: Guest) -> Iterator[list[str]]:
    """Every device that can be passed through by itself, virtual functions among them."""
    alone = [
        each
        for each in service.available()
        if each not in {REFUSED_GPU, NVME, SHARE}
        and service.preflight(f"/devices/preflight?pci_address={each}")[0]
    ]
    virtual = f"/sys/bus/pci/devices/{NVME}/sriov_numvfs"
    before = set(service.available())
    guest.lab.write(virtual, FUNCTIONS)
    try:
        until(lambda: len(set(service.available()) - before) == FUNCTIONS)
        yield [*alone, *sorted(set(service.available()) - before)]
    finally:
        guest.lab.write(virtual, 0)


def test_many_clients_on_a_few_devices(
    service: Service,
    guest: Guest,
    addresses: list[str],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    domains = {guest.define(name, ports=24): name for name in ("vm-a", "vm-b")}

    def ask(method: str, path: str, body: object) -> tuple[int, Any]:
        answer = service.http.request(method, path, json=body)
        return answer.status_code, answer.json() if answer.content else None

    answers = drive([ask] * CLIENTS, addresses, domains, SECONDS)
    record_testsuite_property("answers to many clients", dict(answers))
    assert len(addresses) >= DEVICES
    assert answers[200] > DEVICES
    one, other = (held_by(guest, name, addresses) for name in domains.values())
    assert not one & other
    drivers = guest.drivers()
    moved = {each for each in addresses if drivers[each] != guest.at_boot.get(each)}
    assert {drivers[each] for each in moved} <= {"vfio-pci"}
    for device in service.hypeman.devices.list():
        assert device.bound_to_vfio is (drivers[device.pci_address] == "vfio-pci")
        holds = {"vm-a": one, "vm-b": other}.get(domains.get(device.attached_to or "", ""), set())
        assert (device.attached_to is not None) is (device.pci_address in one | other)
        assert device.attached_to is None or device.pci_address in holds


def held_by(guest: Guest, name: str, addresses: list[str]) -> set[str]:
    """Return which of the functions stand in the domain's definition, as virsh says."""
    xml = guest.virsh(f"dumpxml --inactive {name}")
    sources = {
        f"<address domain='0x{each[:4]}' bus='0x{each[5:7]}' slot='0x{each[8:10]}' "
        f"function='0x{each[11]}'/>": each
        for each in addresses
    }
    return {address for text, address in sources.items() if text in xml}
