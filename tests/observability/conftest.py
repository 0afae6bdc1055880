from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.observability.scraping import Scraped
from tests.world import world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost


@pytest.fixture
def scraped(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[Scraped]:
    with world_on(libvirt_host, tmp_path) as world:
        yield Scraped(world)
