"""A host driver that is slow to let go, and a service that does not wait for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypeman_lab import Lab

from tests.lab.guest import DRIVERLESS, GPU, Guest, until
from tests.lab.service import Service, serving

pytestmark = pytest.mark.lab


@pytest.fixture
def hasty(lab: Lab, guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("hasty")
    guest.nvidia("remove_ms", 8000)
    with serving(lab.uri, folder, operation_timeout=1) as service:
        yield service


def test_it_answers_504_then_busy_and_all_else_goes_on(guest: Guest, hasty: Service) -> None:
    hasty.register(GPU, "gpu")
    hasty.register(DRIVERLESS, "edu")
    code, told = hasty.refusal("POST", "/devices/gpu/bind", 504, scope="group")
    assert code == "timeout"
    assert "goes on" in told

    code, _ = hasty.refusal("POST", "/devices/gpu/bind", 409, scope="group")
    assert code == "busy"
    assert not hasty.get("edu")["bound_to_vfio"]
    assert hasty.available()

    until(lambda: hasty.get("gpu")["bound_to_vfio"])
    until(lambda: hasty.http.post("/devices/gpu/bind", json={"scope": "group"}).is_success)
    assert guest.lab.driver(GPU) == "vfio-pci"
