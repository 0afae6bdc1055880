"""In a thread that must not wait, a registry is read as far as it is known not to have changed."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from hypeman_libvirt.devices.nonblocking import NonBlocking, WouldBlockError
from hypeman_libvirt.registry import SqlRegistry
from tests.registry.registrations import L4

LONG_AGO = 1_000_000_000


def test_what_has_not_changed_is_read_and_all_else_would_block(tmp_path: Path) -> None:
    nonblocking, path = NonBlocking(), tmp_path / "registry.db"
    with closing(SqlRegistry(path, before_waiting=nonblocking.before_waiting)) as registry:
        registry.add(L4)
        with pytest.raises(WouldBlockError), nonblocking:
            registry.find(L4.host, L4.id)
        os.utime(f"{path}-wal", (LONG_AGO, LONG_AGO))  # as if the last commit were settled
        for _ in range(2):
            assert registry.find(L4.host, L4.id) == L4
        with nonblocking:
            assert registry.find(L4.host, L4.id) == L4
            with pytest.raises(WouldBlockError):
                registry.find(L4.host, "another")
            with pytest.raises(WouldBlockError):
                registry.ping()
