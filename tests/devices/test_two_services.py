"""Two services on one host and one registry, as two workers or two processes are.

Nothing is shared between them but the host, the registry's file and the files of the locks;
tests/registry/test_locks.py shows that those exclude processes as they do threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.host.libvirt_host import open_host
from tests.fake_host import FakeHost
from tests.fake_xml import held
from tests.world import OPERATOR, World, world_on

GPU, AUDIO, L4 = "0000:41:00.0", "0000:41:00.1", "0000:a2:00.0"
ROUNDS: Final = 30
A_WHILE: Final = 30.0


@pytest.fixture
def services(fake_host: FakeHost, tmp_path: Path) -> Iterator[Sequence[World]]:
    """Two services that were started by themselves."""
    with ExitStack() as started:
        worlds = []
        for _ in range(2):
            host = started.enter_context(closing(open_host(fake_host.uri)))
            worlds.append(started.enter_context(world_on(host, tmp_path)))
        worlds[0].service.register(GPU, "gpu", {}, OPERATOR)
        worlds[0].service.register(L4, "l4", {}, OPERATOR)
        yield worlds


def race(*changes: Callable[[], object]) -> list[str]:
    """Begin all of them at once; return the code of each refusal, or nothing."""
    begin = threading.Barrier(len(changes))

    def run(change: Callable[[], object]) -> str:
        begin.wait(A_WHILE)
        try:
            change()
        except DeviceError as error:
            return error.code
        return ""

    with ThreadPoolExecutor(len(changes)) as threads:
        return list(threads.map(run, changes))


def definitions_with(fake_host: FakeHost, address: str) -> list[str]:
    return [each.name for each in fake_host.guests.values() if address in held(each.config)]


def test_one_group_goes_to_one_of_two_domains(
    fake_host: FakeHost, services: Sequence[World]
) -> None:
    fake_host.add_domain("other")
    one, two = (each.service for each in services)
    for _ in range(ROUNDS):
        answers = race(
            lambda: one.attach("gpu", "vm-off", "group", OPERATOR),
            lambda: two.attach("gpu", "other", "group", OPERATOR),
        )
        users = definitions_with(fake_host, GPU)
        assert len(users) == answers.count("") <= 1
        assert definitions_with(fake_host, AUDIO) == users
        assert set(answers) <= {"", "busy", "in_use"}
        if users:
            one.detach("gpu", OPERATOR)


def test_a_group_is_bound_or_unbound_and_never_split(
    fake_host: FakeHost, services: Sequence[World]
) -> None:
    one, two = (each.service for each in services)
    for number in range(ROUNDS):
        first, second = (one, two) if number % 2 else (two, one)
        answers = race(
            lambda service=first: service.bind("gpu", "group", OPERATOR),  # type: ignore[misc]
            lambda service=second: service.unbind("gpu", "group", OPERATOR),  # type: ignore[misc]
        )
        drivers = fake_host.driver(GPU), fake_host.driver(AUDIO)
        assert drivers in {("vfio-pci", "vfio-pci"), ("nvidia", "snd_hda_intel")}
        assert set(answers) <= {"", "busy"}


def test_a_device_that_is_given_away_stays_registered(
    fake_host: FakeHost, services: Sequence[World]
) -> None:
    one, two = (each.service for each in services)
    for _ in range(ROUNDS):
        answers = race(
            lambda: one.attach("l4", "vm-off", "device", OPERATOR),
            lambda: two.unregister("l4", OPERATOR),
        )
        registered = [each.registration.name for each in one.inventory.list_devices({})]
        given = definitions_with(fake_host, L4) == ["vm-off"]
        assert ("l4" in registered) or not given
        assert set(answers) <= {"", "busy", "in_use", "not_found"}
        if given:
            one.detach("l4", OPERATOR)
        if "l4" not in registered:
            one.register(L4, "l4", {}, OPERATOR)


def test_a_driver_that_another_service_noted_is_given_back(
    fake_host: FakeHost, services: Sequence[World]
) -> None:
    """The sibling is not registered: only who bound it has seen its driver."""
    one, two = (each.service for each in services)
    one.bind("gpu", "group", OPERATOR)
    fake_host.driver_refuses(AUDIO)
    with pytest.raises(DeviceError, match="snd_hda_intel"):
        two.unbind("gpu", "group", OPERATOR)
