from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fake_helper import FakeRootHelper
from tests.fake_host import FakeHost
from tests.world import World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost


@pytest.fixture
def root_helper(fake_host: FakeHost) -> FakeRootHelper:
    return FakeRootHelper(fake_host)


@pytest.fixture
def world(
    libvirt_host: LibvirtHost, root_helper: FakeRootHelper, tmp_path: Path
) -> Iterator[World]:
    """A service on ``fake_host``, with a root helper."""
    with world_on(libvirt_host, tmp_path, helper=root_helper) as world:
        yield world
