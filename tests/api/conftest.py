from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypeman_libvirt.rest.auth import BearerAuth
from hypeman_libvirt.rest.routes import own_app
from tests.api.client import SECRET, Api
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
    return Api(own_app(world.service, BearerAuth(SECRET)))
