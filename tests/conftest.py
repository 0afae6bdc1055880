"""What the directories of tests share.

``--level mock`` (the default) runs on ``tests.fake_libvirt`` and needs no libvirt;
``--level testdriver`` runs on the real binding and libvirt's own test driver. Tests marked
``testdriver`` need the latter; tests that use ``fake_host`` need the former; the rest run in both,
but for those in `WITHOUT_LIBVIRT`.
What a level cannot run it deselects. A ``conftest.py`` imports nothing of ``hypeman_libvirt.host``
at its top: pytest may read it before the level is chosen.

Fixtures and builders for other directories:

``fake_host``
    A `FakeHost` with the seed's GPU (0000:a2:00.0, 10de:27b8, group 82, driver nvidia, alone) and:
    0000:a1:01.0 its root port (bridge); 0000:41:00.0 a second GPU and 0000:41:00.1 its audio
    function, both of group 25; 0000:3b:00.0 an idle NIC of group 30 (driver mlx5_core, with
    ``net_ens1`` below it, link up); 0000:00:1f.4 without IOMMU group or driver; a shut-off domain
    ``vm-off`` and a running one ``vm-on``, both q35 with four root ports and no device.
``libvirt_host``
    The `LibvirtHost` opened on ``fake_host``.
``seed_host()``
    Builds such a `FakeHost` anywhere; `tests.fake_libvirt.serve` makes its URI reachable,
    `tests.fake_libvirt.forget` ends it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from tests import fake_libvirt
from tests.fake_host import FakeHost

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

HERE = Path(__file__).parent
ONLY_ON_THE_FAKE = {"fake_host"}
WITHOUT_LIBVIRT = {"bench", "check", "helper", "lab", "packaging", "registry"}
"""Directories whose tests use no libvirt of any kind: the mock level runs them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--level", choices=["mock", "testdriver"], default="mock")


def pytest_configure(config: pytest.Config) -> None:
    """Choose what ``import libvirt`` means, before anything of ours is imported."""
    if config.getoption("--level") == "mock":
        if sys.modules.get("libvirt", fake_libvirt) is not fake_libvirt:
            raise pytest.UsageError("a conftest.py imported libvirt before the level was chosen")
        sys.modules["libvirt"] = fake_libvirt
    elif importlib.util.find_spec("libvirt") is None:
        raise pytest.UsageError("--level testdriver needs libvirt-python")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mock = config.getoption("--level") == "mock"
    if (sys.modules.get("libvirt") is fake_libvirt) is not mock:
        raise pytest.UsageError("a test module replaced libvirt for the whole run")
    unfit = [item for item in items if _needs_other_level(item, mock=mock)]
    if unfit:
        config.hook.pytest_deselected(items=unfit)
        items[:] = [item for item in items if item not in set(unfit)]


def _needs_other_level(item: pytest.Item, *, mock: bool) -> bool:
    if mock:
        return item.get_closest_marker("testdriver") is not None
    directory = item.path.relative_to(HERE).parts[0]
    uses_libvirt = item.get_closest_marker("testdriver") or directory not in WITHOUT_LIBVIRT
    fixtures = set(getattr(item, "fixturenames", ()))
    return not uses_libvirt or bool(ONLY_ON_THE_FAKE & fixtures)


@pytest.fixture(autouse=True)
def log_is_put_back() -> Iterator[None]:
    """Blame the test that leaves the log on a stream of its own, not those that come after it."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        pytest.fail("this test configured the log and left it so; log_lines puts it back")


def seed_host() -> FakeHost:
    """Build the host that the docstring above describes."""
    host = FakeHost()
    port = host.add_pci(
        "0000:a1:01.0",
        vendor="8086",
        product="352a",
        class_code="060400",
        driver="pcieport",
        group=81,
        bridge=True,
    )
    host.add_pci(
        "0000:a2:00.0",
        vendor_name="NVIDIA Corporation",
        product_name="AD104GL [L4]",
        driver="nvidia",
        group=82,
        numa=1,
        link=("16", "16"),
        parent=port.name,
    )
    host.add_pci("0000:41:00.0", product="2330", driver="nvidia", group=25)
    host.add_pci(
        "0000:41:00.1", product="22a3", class_code="040300", driver="snd_hda_intel", group=25
    )
    host.add_pci(
        "0000:3b:00.0",
        vendor="15b3",
        product="101d",
        class_code="020000",
        driver="mlx5_core",
        group=30,
        serial="MT2042X00001",
    )
    host.add_child("0000:3b:00.0", "net", "ens1")
    host.add_pci("0000:00:1f.4", vendor="1234", product="fff0", class_code="0c0500")
    host.add_domain("vm-off")
    host.add_domain("vm-on", running=True)
    return host


@pytest.fixture
def fake_host() -> Iterator[FakeHost]:
    host = seed_host()
    fake_libvirt.serve(host)
    yield host
    fake_libvirt.forget(host)


@pytest.fixture
def libvirt_host(fake_host: FakeHost) -> Iterator[LibvirtHost]:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    host = open_host(fake_host.uri)
    yield host
    host.close()
