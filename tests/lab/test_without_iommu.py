"""A host without an IOMMU: nothing can be passed through, and the service says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypeman_lab import Lab

from tests.lab.guest import NIC
from tests.lab.service import PATIENCE, Service, serving

pytestmark = pytest.mark.lab


@pytest.fixture
def service(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("without-iommu")
    with (
        Lab(libvirt=image, iommu=False, boot_timeout=PATIENCE) as lab,
        serving(lab.uri, folder) as service,
    ):
        yield service


def test_nothing_is_available_and_registering_says_why(service: Service) -> None:
    assert service.available() == {}
    assert service.answer("GET", "/iommu-groups", 200) == []
    code, told = service.refusal("POST", "/devices", 409, pci_address=NIC)
    assert code == "iommu_unavailable"
    assert NIC in told
    ready, errors = service.preflight(f"/devices/preflight?pci_address={NIC}")
    assert not ready
    assert "iommu" in errors
