"""hypeman's own client from PyPI, and curl, against the service on waitress and real libvirt."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypeman
import pytest
from hypeman import Hypeman
from hypeman.types import AvailableDevice, Capabilities, Device, Resources
from pydantic import BaseModel

from tests.api.client import token
from tests.api.demo_service import demo_service

pytestmark = pytest.mark.testdriver

SEED = json.loads(
    """{
      "id": "tz4a98xxat96iws9zmbrgj3a",
      "bound_to_vfio": false,
      "created_at": "2025-01-15T10:00:00Z",
      "device_id": "27b8",
      "iommu_group": 82,
      "pci_address": "0000:a2:00.0",
      "type": "gpu",
      "vendor_id": "10de",
      "attached_to": null,
      "name": "l4-gpu"
    }"""
)
CURL = """
curl http://localhost:8080/devices \\
    -H 'Content-Type: application/json' \\
    -H "Authorization: Bearer $HYPEMAN_API_KEY" \\
    -d '{
          "pci_address": "0000:a2:00.0",
          "name": "l4-gpu"
        }'
"""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A service on the demo host."""
    with demo_service(tmp_path) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Hypeman]:
    with Hypeman(base_url=url, api_key=token()) as client:
        yield client


def test_register_find_list_and_unregister(client: Hypeman) -> None:
    tags = {"team": "ml", "env": "prod"}
    device = client.devices.create(pci_address="0000:a2:00.0", name="l4-gpu", tags=tags)
    assert isinstance(device, Device)
    assert (device.type, device.vendor_id, device.device_id) == ("gpu", "10de", "27b8")
    assert (device.iommu_group, device.bound_to_vfio, device.attached_to) == (82, False, None)
    assert device.created_at.utcoffset() is not None
    assert client.devices.retrieve(device.id) == device
    assert client.devices.retrieve("l4-gpu") == device
    assert client.devices.list() == [device]
    assert client.devices.list(tags={"team": "ml", "env": "prod"}) == [device]
    assert client.devices.list(tags={"team": "web"}) == []
    client.devices.delete("l4-gpu")
    assert client.devices.list() == []


@pytest.mark.parametrize(
    ("profile", "parent"), [("GRID T4-4Q", "0000:65:00.0"), ("NVIDIA L40S-8Q", "0000:b1:00.0")]
)
def test_slices_are_listed_read_and_deleted(client: Hypeman, profile: str, parent: str) -> None:
    made = client.post("/devices", body={"profile": profile, "name": "slice"}, cast_to=Device)
    assert (made.type, made.bound_to_vfio, made.attached_to) == ("gpu", True, None)
    assert made.model_extra is not None
    assert (made.model_extra["profile"], made.model_extra["parent"]) == (profile, parent)
    assert client.devices.list() == [made]
    assert client.devices.retrieve("slice") == made
    assert client.devices.retrieve(made.id) == made
    client.devices.delete("slice")
    assert client.devices.list() == []


def test_available_devices_have_their_names(client: Hypeman) -> None:
    available = {each.pci_address: each for each in client.devices.list_available()}
    gpu = available["0000:a2:00.0"]
    assert isinstance(gpu, AvailableDevice)
    assert (gpu.vendor_name, gpu.device_name) == ("NVIDIA Corporation", "AD104GL [L4]")
    assert (gpu.current_driver, gpu.iommu_group) == ("nvidia", 82)


def test_a_name_follows_from_the_address(client: Hypeman) -> None:
    assert client.devices.create(pci_address="0000:a2:00.0").name == "pci-0000-a2-00-0"


def test_health(client: Hypeman) -> None:
    assert client.health.check().status == "ok"


def unknown_fields(answer: BaseModel) -> list[str]:
    """Name the fields that the client's types do not have, however deep."""
    unknown = list(answer.model_extra or ())
    for _, value in answer:
        for each in value if isinstance(value, list) else [value]:
            unknown += unknown_fields(each) if isinstance(each, BaseModel) else []
    return unknown


def test_resources_are_of_the_clients_type(client: Hypeman) -> None:
    raw = client.resources.with_raw_response.get()
    resources = Resources.model_validate_json(raw.text(), strict=True)
    ours = ["instances", "quarantined_slots", "allocatable_slots"]  # every SDK tolerates them
    assert unknown_fields(resources) == ours
    assert client.resources.get() == resources
    assert (resources.cpu.capacity, resources.cpu.allocated) == (64, 16)
    assert (resources.disk.capacity, resources.network.capacity) == (100 * 1024**3, 12_500_000_000)
    assert resources.gpu is not None
    assert (resources.gpu.mode, resources.gpu.total_slots) == ("passthrough", 6)
    assert [each.instance_name for each in resources.allocations] == ["builder", "inference"]


def test_capabilities_are_of_the_clients_type(client: Hypeman) -> None:
    raw = client.capabilities.with_raw_response.get()
    capabilities = Capabilities.model_validate_json(raw.text(), strict=True)
    assert unknown_fields(capabilities) == []
    assert client.capabilities.get() == capabilities
    assert capabilities.features == ["devices"]
    assert "gpu-passthrough" in capabilities.runtimes[0].features


def test_errors_are_the_clients_own_and_permanent_ones_are_not_tried_again(url: str) -> None:
    seen: list[str] = []
    with Hypeman(base_url=url, api_key=token()) as client:
        client._client.event_hooks = {"request": [lambda request: seen.append(request.method)]}  # noqa: SLF001
        client.devices.create(pci_address="0000:a2:00.0")
        with pytest.raises(hypeman.ConflictError) as caught:
            client.devices.create(pci_address="0000:a2:00.0")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "conflict"
    assert seen == ["POST", "POST"]


@pytest.mark.parametrize(
    ("reference", "error"),
    [("nobody", hypeman.NotFoundError), ("../health", hypeman.NotFoundError)],
)
def test_what_is_not_there_is_not_found(
    client: Hypeman, reference: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.devices.delete(reference)


def test_without_a_valid_token_it_may_nothing(url: str) -> None:
    stranger = Hypeman(base_url=url, api_key="wrong")
    with stranger, pytest.raises(hypeman.AuthenticationError):
        stranger.devices.list()


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_command_of_hypemans_document_prints_what_it_shows(url: str) -> None:
    command = CURL.replace("http://localhost:8080", url).replace("curl", "curl --silent", 1)
    done = subprocess.run(  # noqa: S603  # the document's
        ["/bin/sh", "-c", command],
        env={"HYPEMAN_API_KEY": token(), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        timeout=300,
    )
    printed: dict[str, Any] = json.loads(done.stdout)
    assert list(printed)[: len(SEED)] == list(SEED)
    for key, value in SEED.items():
        assert type(printed[key]) is type(value)
        assert printed[key] == value or key in {"id", "created_at"}
