from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.api.client import Api
from tests.api.whole_app import whole_app
from tests.world import World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost


@pytest.fixture
def world(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[World]:
    """A service on ``fake_host``."""
    with world_on(libvirt_host, tmp_path) as world:
        yield world


@pytest.fixture
def api(world: World) -> Api:
    """The app on that service, with a token that allows everything."""
    return Api(whole_app(world))
