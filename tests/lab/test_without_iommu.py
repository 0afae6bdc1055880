"""A host without an IOMMU: nothing can be passed through, and the service says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypeman_lab import Lab

from tests.lab.doctor import examine
from tests.lab.guest import NIC
from tests.lab.inside import gather
from tests.lab.service import PATIENCE, Service, serving

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def bare_lab(image: str) -> Iterator[Lab]:
    with Lab(libvirt=image, iommu=False, boot_timeout=PATIENCE) as lab:
        yield lab


@pytest.fixture
def service(bare_lab: Lab, tmp_path: Path) -> Iterator[Service]:
    with serving(bare_lab.uri, tmp_path) as service:
        yield service


def test_nothing_is_available_and_registering_says_why(service: Service) -> None:
    assert service.available() == {}
    assert service.answer("GET", "/iommu-groups", 200) == []
    code, message = service.refusal("POST", "/devices", 409, pci_address=NIC)
    assert code == "iommu_unavailable"
    assert NIC in message
    ready, errors = service.preflight(f"/devices/preflight?pci_address={NIC}")
    assert not ready
    assert "iommu" in errors


def test_the_doctor_says_that_the_firmware_has_none(bare_lab: Lab, tmp_path: Path) -> None:
    gather(tmp_path / "service")
    bare_lab.copy(tmp_path / "service", "/opt/service")
    findings = examine(bare_lab)
    severity, cure = findings["iommu"]
    assert severity == "error"
    assert "firmware setup" in cure
    assert findings["libvirt"][0] == "ok"
