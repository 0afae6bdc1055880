"""hypeman's own part of the API."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.api.client import Api, bearer, code_of
from tests.fake_host import FakeHost
from tests.world import World

L4 = "0000:a2:00.0"
GPU, AUDIO, NIC = "0000:41:00.0", "0000:41:00.1", "0000:3b:00.0"


def test_a_device_is_registered_as_hypemans_document_shows(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    assert answer.status_code == 201
    assert re.fullmatch("[a-z][a-z0-9]{23}", answer.json["id"])
    assert list(answer.json.items()) == [
        ("id", answer.json["id"]),
        ("bound_to_vfio", False),
        ("created_at", "2025-01-15T10:00:00Z"),
        ("device_id", "27b8"),
        ("iommu_group", 82),
        ("pci_address", L4),
        ("type", "gpu"),
        ("vendor_id", "10de"),
        ("attached_to", None),
        ("name", "l4-gpu"),
        ("state", "present"),
        ("topology", "pci0000:a2/00.0"),
        ("health", {"status": "ok"}),
    ]


def test_the_time_of_registration_has_whole_seconds(api: Api, world: World) -> None:
    world.pass_time(0.75)
    answer = api.post("/devices", {"pci_address": L4})
    assert answer.json["created_at"] == "2025-01-15T10:00:00Z"


def test_tags_come_back_and_none_are_left_out(api: Api) -> None:
    tagged = api.post("/devices", {"pci_address": L4, "tags": {"team": "ml"}})
    untagged = api.post("/devices", {"pci_address": GPU, "tags": {}})
    assert tagged.json["tags"] == {"team": "ml"}
    assert "tags" not in untagged.json


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["l4-gpu", "h100"]),
        ("tags[team]=ml", ["l4-gpu", "h100"]),
        ("tags%5Bteam%5D=ml&tags%5Benv%5D=prod", ["l4-gpu"]),
        ("tags[env]=", ["h100"]),
        ("tags[team]=m", []),
        ("tags[team]=a,b", []),
        ("colour=green", ["l4-gpu", "h100"]),
    ],
)
def test_devices_are_listed_by_all_of_the_tags(api: Api, query: str, names: list[str]) -> None:
    tags = {"team": "ml", "env": "prod"}
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu", "tags": tags})
    api.post("/devices", {"pci_address": GPU, "name": "h100", "tags": {"team": "ml", "env": ""}})
    assert [each["name"] for each in api.get("/devices", query=query).json] == names


def test_without_devices_the_list_is_empty(api: Api) -> None:
    assert api.get("/devices").json == []


def test_a_device_is_found_by_whatever_names_it(api: Api) -> None:
    registered = api.post("/devices", {"pci_address": L4, "name": "l4-gpu"}).json
    for reference in (registered["id"], "l4-gpu", L4, "0000%3AA2%3A00.0", "pci_0000_a2_00_0"):
        assert api.get(f"/devices/{reference}").json == registered


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_prefix_matches(api: Api, method: str) -> None:
    registered = api.post("/devices", {"pci_address": L4, "name": "l4-gpu"}).json
    for prefix in ("l4", registered["id"][:8]):
        assert code_of(api.send(method, f"/devices/{prefix}")) == (404, "not_found")


def test_a_device_is_unregistered_once(api: Api) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    headers = bearer() | {"Content-Type": "application/json"}
    first = api.delete("/devices/l4-gpu", headers=headers)
    assert (first.status_code, first.content) == (204, b"")
    assert code_of(api.delete("/devices/l4-gpu")) == (404, "not_found")
    assert api.post("/devices", {"pci_address": L4, "name": "l4-gpu"}).status_code == 201


def test_what_a_domain_holds_cannot_be_unregistered(api: Api, fake_host: FakeHost) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    fake_host.virsh_attach("vm-off", L4, live=False)
    answer = api.delete("/devices/l4-gpu")
    assert code_of(answer) == (409, "in_use")
    assert "vm-off" in answer.json["message"]
    assignment = api.get("/devices/l4-gpu").json["attached_to"]
    assert assignment == fake_host.guest("vm-off").uuid


def test_available_lists_every_endpoint_of_a_group(api: Api) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    available = {each["pci_address"]: each for each in api.get("/devices/available").json}
    assert set(available) == {L4, GPU, AUDIO, NIC}
    assert available[L4] == {
        "pci_address": L4,
        "vendor_id": "10de",
        "device_id": "27b8",
        "vendor_name": "NVIDIA Corporation",
        "device_name": "AD104GL [L4]",
        "iommu_group": 82,
        "current_driver": "nvidia",
        "type": "gpu",
        "class": "0x030200",
        "numa_node": 1,
        "registered_as": "l4-gpu",
        "attached_to": None,
        "iommu_group_members": [L4],
        "health": {"status": "ok"},
    }
    assert available[AUDIO]["iommu_group_members"] == [GPU, AUDIO]


def test_what_libvirt_does_not_say_is_null_or_left_out(api: Api, fake_host: FakeHost) -> None:
    bare = "<device><name>pci_0000_07_00_0</name><capability type='pci'><domain>0</domain>"
    bare += "<bus>7</bus><slot>0</slot><function>0</function><product id='0x0001'/>"
    bare += "<vendor id='0x1234'/><iommuGroup number='0'>"
    bare += "<address domain='0x0000' bus='0x07' slot='0x00' function='0x0'/></iommuGroup>"
    fake_host.add_node(f"{bare}</capability></device>")
    listed = {each["pci_address"]: each for each in api.get("/devices/available").json}
    found = listed["0000:07:00.0"]
    assert (found["current_driver"], found["class"], found["numa_node"]) == (None, None, None)
    assert (found["iommu_group"], found["type"]) == (0, "pci")
    assert not found.keys() & {"vendor_name", "device_name"}


def test_on_a_host_without_iommu_nothing_is_available(api: Api, fake_host: FakeHost) -> None:
    for address in (L4, GPU, AUDIO, NIC):
        fake_host.vanish(fake_host.pci(address).name)
    fake_host.add_pci(L4, driver="nvidia")
    assert api.get("/devices/available").json == []
    assert code_of(api.post("/devices", {"pci_address": L4})) == (409, "iommu_unavailable")


def test_a_device_that_is_gone_is_missing_and_keeps_its_names(
    api: Api, fake_host: FakeHost
) -> None:
    registered = api.post("/devices", {"pci_address": L4, "name": "l4-gpu"}).json
    fake_host.vanish("pci_0000_a2_00_0")
    assert api.get("/devices/l4-gpu").json == registered | {"state": "missing"}


def test_other_hardware_at_the_address_is_changed(api: Api, fake_host: FakeHost) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    fake_host.vanish("pci_0000_a2_00_0")
    fake_host.add_pci(L4, vendor="15b3", product="101d", class_code="020000", driver="mlx5_core")
    now = api.get("/devices/l4-gpu").json
    assert (now["state"], now["vendor_id"], now["type"]) == ("changed", "15b3", "pci")
    assert now["iommu_group"] == 82


def test_a_repeated_request_gets_the_answer_that_was_lost(api: Api, world: World) -> None:
    body = {"pci_address": L4, "name": "l4-gpu"}
    first = api.post("/devices", body)
    again = api.post("/devices", body, headers=bearer() | {"X-Stainless-Retry-Count": "1"})
    assert (again.status_code, again.json) == (201, first.json)
    world.pass_time(61)
    late = api.post("/devices", body, headers=bearer() | {"X-Stainless-Retry-Count": "1"})
    assert code_of(late) == (409, "conflict")


@pytest.mark.parametrize("count", ["0", "", "-1", "x", "²", None])
def test_a_first_request_is_no_repeated_one(api: Api, count: str | None) -> None:
    body = {"pci_address": L4, "name": "l4-gpu"}
    api.post("/devices", body)
    headers = bearer() | ({"X-Stainless-Retry-Count": count} if count is not None else {})
    assert code_of(api.post("/devices", body, headers=headers)) == (409, "conflict")


def test_someone_elses_registration_is_no_lost_answer(api: Api) -> None:
    body = {"pci_address": L4, "name": "l4-gpu"}
    api.post("/devices", body)
    headers = bearer(sub="another") | {"X-Stainless-Retry-Count": "1"}
    assert code_of(api.post("/devices", body, headers=headers)) == (409, "conflict")


def test_while_libvirt_is_down_clients_are_told_when_to_come_back(
    api: Api, fake_host: FakeHost
) -> None:
    assert api.get("/ready", headers={}).status_code == 200
    fake_host.down()
    for path in ("/devices/available", "/ready"):
        answer = api.get(path)
        assert code_of(answer) == (503, "libvirt_unavailable")
        assert answer.headers["Retry-After"] == "2"
        assert "x-should-retry" not in answer.headers
    assert api.get("/health").status_code == 200


def test_a_row_of_an_older_version_without_a_group_stops_no_list(
    api: Api, world: World, fake_host: FakeHost
) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    [registration] = world.registry.list_all()
    world.registry.remove(registration.host, registration.id)
    world.registry.add(replace(registration, iommu_group=None))
    fake_host.switch_iommu_off()
    [device] = api.get("/devices").json
    assert (device["name"], device["iommu_group"]) == ("l4-gpu", -1)
    assert api.get("/devices/l4-gpu").json == device


def test_a_device_is_renamed_and_tagged(api: Api) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu", "tags": {"team": "ml"}})
    renamed = api.patch("/devices/l4-gpu", {"name": "l4"})
    assert (renamed.status_code, renamed.json["name"], renamed.json["tags"]) == (
        200,
        "l4",
        {"team": "ml"},
    )
    assert "tags" not in api.patch("/devices/l4", {"tags": {}, "name": None}).json
    assert api.get("/devices/l4-gpu").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "h100"}, 409, "conflict"),
        ({"name": "events"}, 400, "invalid_name"),
        ({"name": ""}, 400, "invalid_name"),
        ({"tags": {"": "x"}}, 400, "invalid_tags"),
        ({"name": 7}, 400, "bad_request"),
    ],
)
def test_a_label_that_cannot_be_is_refused(
    api: Api, body: dict[str, object], status: int, code: str
) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    api.post("/devices", {"pci_address": GPU, "name": "h100"})
    refused = api.patch("/devices/l4-gpu", body)
    assert (refused.status_code, refused.json["code"]) == (status, code)
    assert api.get("/devices/l4-gpu").status_code == 200
