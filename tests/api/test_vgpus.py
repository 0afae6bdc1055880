"""vGPUs in the API: profiles, and slices that are devices like any other."""

from __future__ import annotations

import json

import pytest

from tests.api.client import Api, bearer, code_of
from tests.devices.vgpus import LARGE, OTHER, SMALL, T4, add_gpus, make_by_hand
from tests.fake_host import FakeHost

UUID = "c2177883-f1bb-47f0-914d-32a22e3a8804"


@pytest.fixture(autouse=True)
def gpus(fake_host: FakeHost) -> None:
    add_gpus(fake_host)


def test_a_vgpu_is_made_listed_and_taken_away(api: Api, fake_host: FakeHost) -> None:
    body = {"profile": LARGE, "parent": T4, "name": "slice", "tags": {"team": "ml"}}
    made = api.post("/devices", body)
    assert made.status_code == 201
    (mdev,) = fake_host.mediated_devices()
    assert made.json == {
        **made.json,
        "pci_address": T4,
        "parent": T4,
        "profile": LARGE,
        "mdev_uuid": mdev.uuid,
        "iommu_group": mdev.group,
        "bound_to_vfio": True,
        "type": "gpu",
        "persistent": False,
        "state": "present",
    }
    assert api.get("/devices/slice").json == made.json
    assert api.get("/devices").json == [made.json]
    assert api.get("/devices?tags[team]=ml").json == [made.json]
    attached = api.post("/devices/slice/attach", {"instance": "vm-on"})
    assert attached.json["attached_domain"] == "vm-on"
    assert code_of(api.delete("/devices/slice")) == (409, "in_use")
    assert api.post("/devices/slice/detach").json == made.json
    assert api.delete("/devices/slice").status_code == 204
    assert fake_host.mediated_devices() == []


def test_profiles_say_where_there_is_room(api: Api) -> None:
    api.post("/devices", {"profile": LARGE, "parent": T4})
    name = "TU104GL [Tesla T4]"
    assert api.get("/devices/vgpu-profiles").json == [
        {
            "name": SMALL,
            "framebuffer_mb": 1024,
            "available": 16,
            "framework": "mdev",
            "parents": [
                {"pci_address": T4, "name": name, "available": 0},
                {"pci_address": OTHER, "name": name, "available": 16},
            ],
        },
        {
            "name": LARGE,
            "framebuffer_mb": 8192,
            "available": 4,
            "framework": "mdev",
            "parents": [
                {"pci_address": T4, "name": name, "available": 1},
                {"pci_address": OTHER, "name": name, "available": 3},
            ],
        },
    ]


def test_without_a_gpu_that_is_cut_up_there_is_no_profile(api: Api, fake_host: FakeHost) -> None:
    for address in (T4, OTHER):
        fake_host.vanish(address)
    assert api.get("/devices/vgpu-profiles").json == []
    assert code_of(api.post("/devices", {"profile": LARGE})) == (404, "profile_not_found")


def test_what_others_made_is_available_and_registered_by_its_uuid(
    api: Api, fake_host: FakeHost
) -> None:
    mdev = make_by_hand(fake_host, UUID)
    (free,) = [each for each in api.get("/devices/available").json if "mdev_uuid" in each]
    assert (free["mdev_uuid"], free["mdev_type"]) == (UUID, "nvidia-230")
    assert (free["pci_address"], free["iommu_group"]) == (T4, mdev.group)
    assert free["iommu_group_members"] == []
    theirs = api.post("/devices", {"mdev_uuid": UUID, "name": "theirs"})
    assert (theirs.status_code, theirs.json["profile"]) == (201, LARGE)
    assert api.delete("/devices/theirs").status_code == 204
    assert mdev.active


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "bad_request")),
        ({"name": "only-a-name"}, (400, "bad_request")),
        ({"profile": LARGE, "pci_address": T4}, (400, "bad_request")),
        ({"profile": None}, (400, "bad_request")),
        ({"profile": ""}, (400, "bad_request")),
        ({"profile": LARGE, "numa_node": -1}, (400, "bad_request")),
        ({"profile": LARGE, "persist": "yes"}, (400, "bad_request")),
        ({"mdev_uuid": "nonsense"}, (400, "bad_request")),
        ({"profile": LARGE, "name": "vgpu-profiles"}, (400, "invalid_name")),
        ({"profile": LARGE, "parent": "65:00.0"}, (400, "invalid_pci_address")),
        ({"profile": LARGE, "parent": "0000:99:00.0"}, (404, "device_not_found")),
        ({"profile": "A100-4C"}, (404, "profile_not_found")),
        ({"mdev_uuid": UUID}, (404, "device_not_found")),
        ({"profile": LARGE, "parent": "0000:a2:00.0"}, (409, "no_capacity")),
    ],
    ids=json.dumps,
)
def test_what_cannot_be_made_is_refused(
    api: Api, fake_host: FakeHost, body: dict[str, object], expected: tuple[int, str]
) -> None:
    assert code_of(api.post("/devices", body)) == expected
    assert fake_host.calls["nodeDeviceDefineXML"] == 0


def test_profiles_are_read_and_vgpus_written_with_the_permissions_of_devices(api: Api) -> None:
    read = bearer(permissions=["device:read"])
    assert api.get("/devices/vgpu-profiles", headers=read).status_code == 200
    refused = api.post("/devices", {"profile": LARGE}, headers=read)
    assert code_of(refused) == (403, "forbidden")
