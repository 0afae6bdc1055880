"""In a thread that must not wait, what is cached is read, and nothing is waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.nonblocking import NonBlocking, WouldBlockError
from hypeman_libvirt.host.assignments import DomainReader
from hypeman_libvirt.host.cache.domains import DomainCache
from hypeman_libvirt.host.cache.node_devices import NodeDeviceCache
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.node_devices import NodeDevices
from tests.fake_host import FakeHost
from tests.host.test_cached_host import L4, Files, Kernel


class Cached:
    """Caches on the fake, which know the threads that must not wait."""

    def __init__(self, host: FakeHost) -> None:
        self.nonblocking = NonBlocking()
        before_waiting = self.nonblocking.before_waiting
        self.connection = Connection(host.uri, before_waiting=before_waiting)
        kernel = Kernel(host)
        node_devices = NodeDevices(self.connection, kernel.complete)
        self.nodes = NodeDeviceCache(self.connection, node_devices, kernel)
        reader = DomainReader(self.connection)
        self.domains = DomainCache(self.connection, reader, lambda: lambda _: None, Files().read)

    def read(self, address: PciAddress = L4) -> object:
        return self.nodes.find(address), self.domains.list_assignments()


@pytest.fixture
def cached(fake_host: FakeHost) -> Iterator[Cached]:
    cached = Cached(fake_host)
    with closing(cached.connection):
        yield cached


def test_what_was_never_read_would_block(cached: Cached) -> None:
    with pytest.raises(WouldBlockError), cached.nonblocking:
        cached.read()
    assert cached.read()


def test_what_is_cached_is_read(cached: Cached) -> None:
    cached.read()  # which opens the connection, and that invalidates what was read meanwhile
    answer = cached.read()
    with cached.nonblocking:
        assert cached.read() == answer


def test_what_was_invalidated_would_block_even_while_another_thread_reads_it(
    cached: Cached, fake_host: FakeHost
) -> None:
    cached.read()
    hang = fake_host.hang("lookupByName")
    cached.domains.invalidate("vm-on")
    waiting = threading.Thread(target=cached.domains.list_assignments)
    waiting.start()
    with pytest.raises(WouldBlockError), cached.nonblocking:
        cached.domains.list_assignments()
    hang.release()
    waiting.join()
    with cached.nonblocking:
        cached.domains.list_assignments()


def test_other_threads_wait_as_ever(cached: Cached) -> None:
    cached.read()
    with cached.nonblocking:
        other = threading.Thread(target=cached.read)
        other.start()
        other.join()
        cached.read()
