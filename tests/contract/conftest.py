"""One host for both levels: contrib/demo/host.xml, on the fake or on libvirt's test driver.

pytest may read this file before the level is chosen, so libvirt is imported in the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import fake_libvirt
from tests.fake_host import FakeHost

if TYPE_CHECKING:
    import libvirt

    from hypeman_libvirt.host.libvirt_host import LibvirtHost

HOST_XML = Path(__file__).parents[2] / "contrib" / "demo" / "host.xml"


@pytest.fixture
def host_xml() -> Path:
    return HOST_XML


@pytest.fixture
def uri(request: pytest.FixtureRequest, host_xml: Path) -> Iterator[str]:
    if request.config.getoption("--level") == "testdriver":
        yield f"test://{host_xml}"
        return
    host = FakeHost()
    host.load(host_xml)
    fake_libvirt.serve(host)
    yield host.uri
    fake_libvirt.forget(host)


@pytest.fixture
def connection(uri: str) -> Iterator[libvirt.virConnect]:
    """Open the host with the binding itself, so that nothing of ours stands in between."""
    import libvirt  # noqa: PLC0415

    from hypeman_libvirt.host.event_loop import EVENT_LOOP  # noqa: PLC0415

    EVENT_LOOP.start()
    connection = libvirt.open(uri)
    yield connection
    connection.close()


@pytest.fixture(params=["asked", "view"])
def host(uri: str, request: pytest.FixtureRequest) -> Iterator[LibvirtHost]:
    """Open the host that decides over changes, and its view: they must agree."""
    from hypeman_libvirt.host.libvirt_host import LibvirtHost, open_host  # noqa: PLC0415

    host = open_host(uri)
    view = host.view
    assert isinstance(view, LibvirtHost)
    yield host if request.param == "asked" else view
    host.close()
