"""One lab and one service for the whole run; every test finds the host as it was at boot.

Only ``-m lab`` or ``-m smoke`` selects these tests: they boot a virtual machine. They import
nothing of ours, they see what a client sees and what the host's kernel and virsh say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypeman_lab import Lab, LabError, build, missing

from tests.lab.guest import IDS, Guest
from tests.lab.inside import PORT, serving_inside
from tests.lab.service import PATIENCE, Service, serving


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lab-libvirt", choices=["stable", "backports"], default="stable")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if {"lab", "smoke"}.isdisjoint(re.findall(r"\w+", config.option.markexpr)):
        ours = [item for item in items if item.get_closest_marker("lab")]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in set(ours)]


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> str:
    """Skip, and say why, where the lab can not run; else return whose libvirt is in it."""
    libvirt: str = request.config.getoption("--lab-libvirt")
    if reasons := missing(libvirt):
        pytest.skip("no lab on this machine: " + "; ".join(reasons))
    try:
        build(libvirt)
    except LabError as error:
        pytest.skip(f"no lab on this machine: its image can not be built: {error}")
    return libvirt


@pytest.fixture(scope="session")
def lab(image: str) -> Iterator[Lab]:
    with Lab(
        libvirt=image, ids=IDS, kvm_inside=True, forwards=[PORT], boot_timeout=PATIENCE
    ) as lab:
        yield lab


@pytest.fixture(scope="session")
def running_guest(lab: Lab) -> Guest:
    return Guest(lab)


@pytest.fixture(scope="session")
def running_service(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("service")
    with serving(
        lab.uri, directory, operation_timeout=PATIENCE, release_timeout=PATIENCE
    ) as service:
        yield service


@pytest.fixture
def guest(running_guest: Guest, running_service: Service) -> Iterator[Guest]:
    yield running_guest
    running_guest.restore()
    running_service.forget_all()


@pytest.fixture
def service(guest: Guest, running_service: Service) -> Service:
    del guest  # it tidies up
    return running_service


@pytest.fixture(scope="module")
def running_inside(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving_inside(lab, tmp_path_factory.mktemp("inside") / "service") as service:
        yield service


@pytest.fixture
def local_service(guest: Guest, running_inside: Service) -> Iterator[Service]:
    """The service on the host itself, where it sees what the host's disks and NICs are for."""
    yield running_inside
    guest.restore()
    running_inside.forget_all()
