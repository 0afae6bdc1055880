"""The index that may decide: right after every change, without any event, and seldom asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.host.cache.domain_files import DomainDirectories
from hypeman_libvirt.host.libvirt_host import LibvirtHost, open_host
from tests.fake_files import FilesOnDisk
from tests.fake_host import FakeHost

L4, NIC = PciAddress.parse("0000:a2:00.0"), PciAddress.parse("0000:3b:00.0")


@pytest.fixture
def files(fake_host: FakeHost, tmp_path: Path) -> FilesOnDisk:
    return fake_host.keep_files(tmp_path)


@pytest.fixture
def host(fake_host: FakeHost, files: FilesOnDisk) -> Iterator[LibvirtHost]:
    opened = open_host(
        fake_host.uri, directories=DomainDirectories(files.definitions, files.states)
    )
    yield opened
    opened.close()


def users(host: LibvirtHost, address: PciAddress = L4) -> list[tuple[str, bool, bool]]:
    """Say who has it, and whether now and for good."""
    found = host.read_assignments([address]).get(address, ())
    return [(each.domain.name, each.live, each.persistent) for each in found]


def calls(fake_host: FakeHost, ask: Callable[[], object]) -> int:
    before = sum(fake_host.calls.values())
    ask()
    return sum(fake_host.calls.values()) - before


def test_every_way_of_changing_a_domain_is_in_the_next_answer(
    fake_host: FakeHost, host: LibvirtHost
) -> None:
    assert users(host) == []
    fake_host.virsh_attach("vm-off", str(L4), live=False)
    assert users(host) == [("vm-off", False, True)]
    fake_host.virsh_start("vm-off")
    assert users(host) == [("vm-off", True, True)]
    fake_host.virsh_detach("vm-off", str(L4), live=False)
    assert users(host) == [("vm-off", True, False)]
    fake_host.virsh_undefine("vm-off")
    assert users(host) == [("vm-off", True, False)]
    fake_host.virsh_destroy("vm-off")
    assert users(host) == []
    fake_host.virsh_attach("vm-on", str(L4), config=False)
    assert users(host) == [("vm-on", True, False)]
    fake_host.virsh_detach("vm-on", str(L4), config=False)
    assert users(host) == []


def test_a_domain_that_was_just_defined_or_started_is_in_the_next_answer(
    fake_host: FakeHost, host: LibvirtHost
) -> None:
    assert users(host) == []
    fake_host.add_domain("new", hostdevs=[str(L4)])
    assert users(host) == [("new", False, True)]
    fake_host.add_domain("transient", hostdevs=[str(NIC)], running=True, persistent=False)
    assert users(host, NIC) == [("transient", True, False)]


def test_a_host_that_does_not_change_is_not_asked(fake_host: FakeHost, host: LibvirtHost) -> None:
    users(host)
    assert calls(fake_host, lambda: users(host)) == 0


def test_of_many_domains_only_the_changed_one_is_read(
    fake_host: FakeHost, host: LibvirtHost
) -> None:
    for number in range(50):
        fake_host.add_domain(f"vm-{number}")
    users(host)
    fake_host.virsh_attach("vm-7", str(L4), live=False)
    assert calls(fake_host, lambda: users(host)) <= 4
    assert users(host) == [("vm-7", False, True)]


def test_without_a_running_domain_libvirt_is_asked_whether_there_is_one(
    fake_host: FakeHost, host: LibvirtHost, files: FilesOnDisk
) -> None:
    """The state of running domains may be kept elsewhere, as it is seen from a container."""
    fake_host.virsh_destroy("vm-on")
    users(host)
    assert calls(fake_host, lambda: users(host)) == 1
    fake_host.virsh_attach("vm-off", str(L4), live=False)
    users(host)
    fake_host.virsh_start("vm-off")
    (files.states / "vm-off.xml").unlink()
    assert users(host) == [("vm-off", True, True)]


def test_directories_of_another_libvirt_decide_nothing(fake_host: FakeHost, tmp_path: Path) -> None:
    elsewhere = FilesOnDisk(tmp_path / "definitions", tmp_path / "states")
    host = open_host(
        fake_host.uri, directories=DomainDirectories(elsewhere.definitions, elsewhere.states)
    )
    assert users(host) == []
    fake_host.virsh_attach("vm-off", str(L4), live=False)
    assert users(host) == [("vm-off", False, True)]
    fake_host.add_domain("new", hostdevs=[str(NIC)])
    assert users(host, NIC) == [("new", False, True)]
    host.close()


def test_without_directories_one_sweep_reads_each_domain_once(
    fake_host: FakeHost, files: FilesOnDisk, host: LibvirtHost
) -> None:
    for number in range(20):
        fake_host.add_domain(f"vm-{number}")
    users(host)
    for directory in (files.definitions, files.states):
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
    shut_off, running = 21, 1
    before = fake_host.calls.copy()
    users(host)
    made = fake_host.calls - before
    assert made == {
        "listAllDomains": 1,
        "domainXMLDesc": shut_off + 2 * running,
        "isPersistent": running,
        "state": running,
    }


def test_a_failed_read_is_made_up_for(fake_host: FakeHost, host: LibvirtHost) -> None:
    users(host)
    fake_host.virsh_attach("vm-off", str(L4), live=False)
    fake_host.refuse("lookupByName", 38, times=1)
    with pytest.raises(LibvirtFailedError):
        users(host)
    assert users(host) == [("vm-off", False, True)]
