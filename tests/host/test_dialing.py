from __future__ import annotations

import time

import libvirt
import pytest

from hypeman_libvirt.host.dialing import Dialer
from tests.fake_host import FakeHost

A_WHILE = 300.0


@pytest.fixture
def dialer(fake_host: FakeHost) -> Dialer[libvirt.virConnect]:
    return Dialer(lambda: libvirt.open(fake_host.uri))


def test_a_libvirtd_that_hangs_is_not_waited_for_and_not_dialled_twice(
    dialer: Dialer[libvirt.virConnect], fake_host: FakeHost
) -> None:
    hang = fake_host.hang("open")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            dialer.open(0.01)
    hang.released.set()
    connection = dialer.open(A_WHILE)
    assert connection.isAlive()
    assert fake_host.calls["open"] == 1
    connection.close()


def test_a_libvirtd_that_is_down_says_so_at_once_and_is_dialled_again(
    dialer: Dialer[libvirt.virConnect], fake_host: FakeHost
) -> None:
    fake_host.down()
    with pytest.raises(libvirt.libvirtError):
        dialer.open(A_WHILE)
    fake_host.up()
    dialer.open(A_WHILE).close()


def test_a_connection_that_comes_too_late_is_closed(fake_host: FakeHost) -> None:
    dialled: list[libvirt.virConnect] = []

    def dial() -> libvirt.virConnect:
        dialled.append(libvirt.open(fake_host.uri))
        return dialled[0]

    hang, dialer = fake_host.hang("open"), Dialer(dial)
    with pytest.raises(TimeoutError):
        dialer.open(0.01)
    dialer.abandon()
    hang.released.set()
    give_up = time.monotonic() + A_WHILE
    while not dialled or fake_host.open_connections:
        assert time.monotonic() < give_up, "it was never closed"
        time.sleep(0.01)
