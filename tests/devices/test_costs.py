"""What a change asks of libvirt: the domain it touches, and once who has the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.host.cache.domain_files import DomainDirectories
from hypeman_libvirt.host.libvirt_host import open_host
from tests import fake_libvirt
from tests.conftest import seed_host
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World, world_on

pytestmark = pytest.mark.usefixtures("fake_host")

L4: Final = "0000:a2:00.0"
MOST: Final = 60
"""Calls to libvirt of one change; with 100 domains an attach made 864 once."""


@contextmanager
def world_of(domains: int, directory: Path, *, files: bool) -> Iterator[tuple[FakeHost, World]]:
    """Run a service on a host with so many more domains, whose files can be seen or not."""
    directory.mkdir()
    fake_host = seed_host()
    for number in range(domains):
        fake_host.add_domain(f"vm-{number}", running=number % 2 == 0)
    directories = None
    if files:
        kept = fake_host.keep_files(directory / "libvirt")
        directories = DomainDirectories(kept.definitions, kept.states)
    fake_libvirt.serve(fake_host)
    host = open_host(fake_host.uri, directories=directories)
    with closing(host), world_on(host, directory) as world:
        yield fake_host, world
    fake_libvirt.forget(fake_host)


def operations(world: World) -> Mapping[str, Callable[[], object]]:
    moves = world.service
    return {
        "register": lambda: world.service.register(L4, "l4", {}, OPERATOR),
        "bind": lambda: moves.bind("l4", "device", OPERATOR),
        "unbind": lambda: moves.unbind("l4", "device", OPERATOR),
        "attach": lambda: moves.attach("l4", "vm-on", "device", OPERATOR),
        "detach": lambda: moves.detach("l4", OPERATOR),
        "attach shut off": lambda: moves.attach("l4", "vm-off", "device", OPERATOR),
        "detach shut off": lambda: moves.detach("l4", OPERATOR),
        "unregister": lambda: world.service.unregister("l4", OPERATOR),
    }


def costs(domains: int, directory: Path, *, files: bool) -> Mapping[str, Counter[str]]:
    """Count the calls to libvirt that each operation makes, on a service that runs for a while."""
    with world_of(domains, directory, files=files) as (fake_host, world):
        world.host.read_assignments([PciAddress.parse(L4)])
        made = {}
        for name, operate in operations(world).items():
            before = fake_host.calls.copy()
            operate()
            made[name] = fake_host.calls - before
        return made


def test_no_change_costs_more_calls_on_a_host_with_more_domains(tmp_path: Path) -> None:
    few, more, many = (
        costs(domains, tmp_path / str(domains), files=True) for domains in (10, 100, 1000)
    )
    assert few == more == many
    assert all(each["listAllDomains"] == 0 for each in many.values())
    assert max(each.total() for each in many.values()) < MOST


def test_where_files_are_not_seen_a_change_reads_each_domain_once(tmp_path: Path) -> None:
    domains = 40
    with_files = costs(domains, tmp_path / "seen", files=True)
    without = costs(domains, tmp_path / "unseen", files=False)
    running, shut_off = domains // 2 + 1, domains // 2 + 1
    for name, made in without.items():
        assert made["listAllDomains"] == 1, name
        sweep = made["domainXMLDesc"] - with_files[name]["domainXMLDesc"]
        assert sweep <= 2 * running + shut_off, name
