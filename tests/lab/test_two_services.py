"""Two services, each a process, on one host and one registry: as if there were one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier
from typing import TypeAlias

import pytest
from hypeman_lab import Lab

from tests.lab.guest import AUDIO, GPU, NIC, Guest
from tests.lab.service import PATIENCE, Service, serving

pytestmark = pytest.mark.lab

ROUNDS = 10

Pair: TypeAlias = tuple[Service, Service]


@pytest.fixture
def services(lab: Lab, guest: Guest, tmp_path: Path) -> Iterator[Pair]:
    del guest  # it tidies up
    with ExitStack() as started:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        one, two = (
            started.enter_context(
                serving(
                    lab.uri,
                    tmp_path / name,
                    tmp_path / "devices.db",
                    operation_timeout=PATIENCE,
                    release_timeout=PATIENCE,
                )
            )
            for name in ("one", "two")
        )
        one.register(GPU, "gpu")
        one.register(NIC, "nic")
        yield one, two


def ask(service: Service, method: str, path: str, **body: object) -> Callable[[], int]:
    return lambda: service.http.request(method, path, json=body or None).status_code


def race(*requests: Callable[[], int]) -> list[int]:
    """Send all of them at once and return the answers' status."""
    begin = Barrier(len(requests))

    def send(request: Callable[[], int]) -> int:
        begin.wait(PATIENCE)
        return request()

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(send, requests))


def users(guest: Guest, address: str) -> list[str]:
    """Return whose definitions have the device, as virsh says."""
    bus, function = address[5:7], address[-1]
    source = f"bus='0x{bus}' slot='0x00' function='0x{function}'/>"
    return [
        name
        for name in guest.virsh("list --all --name").split()
        if source in _sources(guest.virsh(f"dumpxml --inactive {name}"))
    ]


def _sources(xml: str) -> str:
    """Return the lines of an XML document that say where on the host something is."""
    lines = iter(xml.splitlines())
    return "\n".join(next(lines) for line in lines if line.strip() == "<source>")


def test_one_group_goes_to_one_of_two_domains(
    services: Pair, guest: Guest, record_testsuite_property: Callable[[str, object], None]
) -> None:
    uuids = [guest.define(name) for name in ("vm-a", "vm-b")]
    answers: Counter[tuple[int, ...]] = Counter()
    for _ in range(ROUNDS):
        said = race(
            *(
                ask(service, "POST", "/devices/gpu/attach", instance=uuid, scope="group")
                for service, uuid in zip(services, uuids, strict=True)
            )
        )
        answers[tuple(sorted(said))] += 1
        held = users(guest, GPU)
        assert len(held) == said.count(200) == 1
        assert users(guest, AUDIO) == held
        services[0].detach("gpu")
        assert users(guest, GPU) == users(guest, AUDIO) == []
    record_testsuite_property("two services attach one group", dict(answers))


def test_a_group_is_bound_or_unbound_and_never_split(
    services: Pair, guest: Guest, record_testsuite_property: Callable[[str, object], None]
) -> None:
    answers: Counter[tuple[int, ...]] = Counter()
    one, two = services
    for number in range(ROUNDS):
        binder, unbinder = (one, two) if number % 2 else (two, one)
        said = race(
            ask(binder, "POST", "/devices/gpu/bind", scope="group"),
            ask(unbinder, "POST", "/devices/gpu/unbind", scope="group"),
        )
        answers[tuple(sorted(said))] += 1
        drivers = guest.drivers()
        free = {drivers[GPU] == "vfio-pci", drivers[AUDIO] == "vfio-pci"}
        assert len(free) == 1, drivers
        assert set(said) <= {200, 409}
        assert None not in (drivers[GPU], drivers[AUDIO])
    record_testsuite_property("two services bind and unbind one group", dict(answers))


def test_a_device_that_is_given_away_stays_registered(
    services: Pair, guest: Guest, record_testsuite_property: Callable[[str, object], None]
) -> None:
    vm = guest.define("vm-a")
    answers: Counter[tuple[int, ...]] = Counter()
    one, two = services
    for _ in range(ROUNDS):
        said = race(
            ask(one, "POST", "/devices/nic/attach", instance=vm),
            ask(two, "DELETE", "/devices/nic"),
        )
        answers[tuple(sorted(said))] += 1
        registered = "nic" in {each.name for each in one.hypeman.devices.list()}
        held = users(guest, NIC)
        assert registered or not held
        if held:
            one.detach("nic")
        if not registered:
            two.register(NIC, "nic")
    record_testsuite_property("two services attach and unregister", dict(answers))
