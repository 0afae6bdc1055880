"""What was begun is finished before the service ends."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypeman_libvirt.devices.errors import OperationTimeoutError
from tests.fake_host import FakeHost
from tests.world import OPERATOR, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

GPU = "0000:a2:00.0"


def test_an_operation_that_has_answered_timeout_is_awaited(
    libvirt_host: LibvirtHost, fake_host: FakeHost, tmp_path: Path
) -> None:
    with world_on(libvirt_host, tmp_path, deadline=0.1) as world:
        world.service.register(GPU, "l4", {}, OPERATOR)
        hang = fake_host.hang("detachFlags")
        with pytest.raises(OperationTimeoutError):
            world.service.bind("l4", "device", OPERATOR)
        closing = threading.Thread(target=world.service.close)
        closing.start()
        assert fake_host.driver(GPU) == "nvidia"
        hang.release()
        closing.join()
        assert fake_host.driver(GPU) == "vfio-pci"
        assert [change.action for change in world.changes] == ["register", "bind"]
