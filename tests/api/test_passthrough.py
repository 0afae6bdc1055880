"""Binding and attaching over HTTP."""

from __future__ import annotations

from threading import Thread

import pytest
from lxml import etree

from tests.api.client import Api, code_of
from tests.fake_host import FakeHost

L4, GPU, AUDIO, NIC = "0000:a2:00.0", "0000:41:00.0", "0000:41:00.1", "0000:3b:00.0"


@pytest.fixture(autouse=True)
def _registered(api: Api) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    api.post("/devices", {"pci_address": GPU, "name": "h100"})
    api.post("/devices", {"pci_address": NIC, "name": "nic"})


@pytest.mark.parametrize("body", [None, {}, {"scope": "device", "force": False}])
def test_bind_and_unbind(api: Api, fake_host: FakeHost, body: object) -> None:
    bound = api.post("/devices/l4-gpu/bind", body)
    assert (bound.status_code, bound.json["bound_to_vfio"]) == (200, True)
    assert api.post("/devices/l4-gpu/bind", body).json == bound.json
    unbound = api.post("/devices/l4-gpu/unbind", body)
    assert (unbound.status_code, unbound.json["bound_to_vfio"]) == (200, False)
    assert fake_host.driver(L4) == "nvidia"


def test_a_shared_group_is_refused_with_who_is_in_the_way(api: Api) -> None:
    answer = api.post("/devices/h100/bind")
    assert code_of(answer) == (409, "iommu_group_conflict")
    assert answer.headers["x-should-retry"] == "false"
    assert AUDIO in answer.text


def test_the_whole_group_is_bound_on_demand(api: Api, fake_host: FakeHost) -> None:
    assert api.post("/devices/h100/bind", {"scope": "group"}).status_code == 200
    assert fake_host.driver(AUDIO) == "vfio-pci"
    assert api.post("/devices/h100/unbind", {"scope": "group"}).status_code == 200
    assert fake_host.driver(AUDIO) == "snd_hda_intel"


def test_what_the_host_lives_on_is_taken_by_force_only(api: Api) -> None:
    assert code_of(api.post("/devices/nic/bind")) == (409, "critical_device")
    assert api.post("/devices/nic/bind", {"force": True}).json["bound_to_vfio"]


def test_a_card_is_where_the_operator_says(api: Api, fake_host: FakeHost) -> None:
    for bus in ("51", "52"):
        fake_host.add_pci(f"0000:{bus}:00.0", product="2684", group=int(bus), driver="nvidia")
    api.post("/devices", {"pci_address": "0000:51:00.0", "name": "left"})
    api.post("/devices/left/attach", {"instance": "vm-off"})
    fake_host.add_pci("0000:53:00.0", product="2684", group=53, driver="nvidia")
    doubtful = api.get("/devices/left").json
    assert doubtful["state"] == "moved"
    moved = api.post("/devices/left/move", {"pci_address": doubtful["candidates"][-1]})
    assert moved.status_code == 200
    assert moved.json == api.get("/devices/left").json
    assert (moved.json["state"], moved.json["pci_address"]) == ("present", "0000:53:00.0")
    assert moved.json["moved_from"] == "0000:51:00.0"
    assert moved.json["attached_to"] == fake_host.guest("vm-off").uuid
    other = api.post("/devices/left/move", {"pci_address": L4})
    assert code_of(other) == (409, "identity_changed")
    assert code_of(api.post("/devices/left/move", {})) == (400, "bad_request")
    gone = api.post("/devices/left/move", {"pci_address": "0000:7f:00.0"})
    assert code_of(gone) == (404, "device_not_found")


def test_attach_and_detach(api: Api, fake_host: FakeHost) -> None:
    attached = api.post("/devices/l4-gpu/attach", {"instance": "vm-off"})
    assert attached.json["attached_to"] == fake_host.guest("vm-off").uuid
    assert code_of(api.post("/devices/l4-gpu/attach", {"instance": "vm-on"})) == (409, "in_use")
    detached = api.post("/devices/l4-gpu/detach")
    assert (detached.status_code, detached.json["attached_to"]) == (200, None)
    assert code_of(api.post("/devices/l4-gpu/detach")) == (409, "not_attached")


def test_an_unknown_instance_is_said_to_be_one(api: Api) -> None:
    for answer in (
        api.post("/devices/l4-gpu/attach", {"instance": "vm-none"}),
        api.get("/devices/l4-gpu/preflight?instance=vm-none"),
    ):
        assert code_of(answer) == (404, "instance_not_found")


def test_a_guest_that_keeps_the_device_is_a_timeout_of_its_own(
    api: Api, fake_host: FakeHost
) -> None:
    api.post("/devices/l4-gpu/attach", {"instance": "vm-on"})
    fake_host.guest_ignores_unplug("vm-on")
    answer = api.post("/devices/l4-gpu/detach")
    assert code_of(answer) == (504, "guest_did_not_release")
    assert "x-should-retry" not in answer.headers


def test_a_device_that_did_not_come_back_is_cleared(api: Api, fake_host: FakeHost) -> None:
    api.delete("/devices/l4-gpu")
    body = {"pci_address": L4, "name": "l4-gpu", "require_clean": True}
    created = api.post("/devices", body)
    assert (created.json["health"], created.json["require_clean"]) == ({"status": "ok"}, True)
    api.post("/devices/l4-gpu/attach", {"instance": "vm-off"})
    detached = api.post("/devices/l4-gpu/detach")
    health = {
        "status": "quarantined",
        "reason": "domain vm-off has used it",
        "since": "2025-01-15T10:00:00Z",
    }
    assert detached.json["health"] == health
    assert api.get("/devices/l4-gpu").json["health"] == health
    (available,) = [e for e in api.get("/devices/available").json if e["pci_address"] == L4]
    assert available["health"] == health
    assert code_of(api.post("/devices/l4-gpu/bind")) == (409, "quarantined")
    (gpu,) = [api.get("/resources").json["gpu"]]
    assert (gpu["total_slots"], gpu["quarantined_slots"], gpu["allocatable_slots"]) == (2, 1, 1)
    assert sorted(each["available"] for each in gpu["devices"]) == [False, True]
    cleared = api.post("/devices/l4-gpu/clear")
    assert (cleared.status_code, cleared.json["health"]) == (200, {"status": "ok"})
    assert api.post("/devices/l4-gpu/clear").json == cleared.json
    assert fake_host.driver(L4) == "nvidia"


@pytest.mark.parametrize("action", ["bind", "unbind", "attach", "detach"])
def test_what_is_not_registered_cannot_be_moved(api: Api, action: str) -> None:
    body = {"instance": "vm-off"} if action == "attach" else None
    assert code_of(api.post(f"/devices/nobody/{action}", body)) == (404, "not_found")


def test_registering_and_binding_are_one_step(api: Api, fake_host: FakeHost) -> None:
    api.delete("/devices/l4-gpu")
    answer = api.post("/devices", {"pci_address": L4, "name": "l4-gpu", "bind": "device"})
    assert (answer.status_code, answer.json["bound_to_vfio"]) == (201, True)
    assert api.delete("/devices/l4-gpu?unbind=device").status_code == 204
    assert fake_host.driver(L4) == "nvidia"


def test_what_cannot_be_bound_is_not_registered_either(api: Api) -> None:
    api.delete("/devices/h100")
    answer = api.post("/devices", {"pci_address": GPU, "name": "h100", "bind": "device"})
    assert code_of(answer) == (409, "iommu_group_conflict")
    assert code_of(api.get("/devices/h100")) == (404, "not_found")


def test_preflight_says_what_attach_would_say(api: Api) -> None:
    good, bad = api.get("/devices/l4-gpu/preflight").json, api.get("/devices/h100/preflight").json
    assert (good["ready"], bad["ready"]) == (True, False)
    errors = [each for each in bad["checks"] if each["severity"] == "error"]
    assert [each["id"] for each in errors] == ["group"]
    assert errors[0]["hint"]
    assert api.get("/devices/h100/preflight?scope=group&instance=vm-off").json["ready"]


def test_preflight_for_bind_says_what_bind_would_say(api: Api, fake_host: FakeHost) -> None:
    fake_host.virsh_attach("vm-off", L4, live=False)
    assert not api.get("/devices/l4-gpu/preflight").json["ready"]
    assert api.get("/devices/l4-gpu/preflight?for=bind").json["ready"]
    assert api.get(f"/devices/preflight?pci_address={L4}&for=bind").json["ready"]
    unknown = api.get("/devices/l4-gpu/preflight?for=lunch")
    assert code_of(unknown) == (400, "bad_request")


def test_preflight_of_an_address_needs_no_registration(api: Api) -> None:
    assert api.get(f"/devices/preflight?pci_address={AUDIO}").status_code == 200
    unknown = api.get("/devices/preflight?pci_address=0000:ff:00.0")
    assert code_of(unknown) == (404, "device_not_found")
    assert code_of(api.get("/devices/preflight?pci_address=ff")) == (400, "invalid_pci_address")


def test_the_xml_is_what_virsh_takes(api: Api) -> None:
    alone = api.get("/devices/l4-gpu/hostdev.xml")
    assert alone.headers["Content-Type"] == "application/xml"
    address = etree.fromstring(alone.content).find("source/address")
    assert address is not None
    assert dict(address.attrib) == {
        "domain": "0x0000",
        "bus": "0xa2",
        "slot": "0x00",
        "function": "0x0",
    }


def test_the_xml_of_a_group_is_one_document_with_an_element_on_each_line(api: Api) -> None:
    whole = api.get("/devices/h100/hostdev.xml?scope=group").text
    assert [each.tag for each in etree.fromstring(whole)] == ["hostdev", "hostdev"]
    lines = [line for line in whole.splitlines() if "<hostdev" in line]
    functions = [etree.fromstring(line).find("source/address") for line in lines]
    assert [None if each is None else each.get("function") for each in functions] == ["0x0", "0x1"]
    alone = api.get("/devices/l4-gpu/hostdev.xml?scope=group").text
    assert etree.fromstring(alone).tag == "hostdev"


def test_groups_say_who_is_in_the_way(api: Api) -> None:
    groups = {each["iommu_group"]: each for each in api.get("/iommu-groups").json}
    assert groups[25] == api.get("/iommu-groups/25").json
    assert (groups[25]["viable"], AUDIO in groups[25]["reason"]) == (False, True)
    member = groups[25]["members"][0]
    assert (member["pci_address"], member["registered_as"]) == (GPU, "h100")
    api.post("/devices/h100/bind", {"scope": "group"})
    group = api.get("/iommu-groups/25").json
    assert (group["viable"], group["reason"]) == (True, None)


def test_a_device_that_is_being_moved_is_busy_and_may_be_tried_again(
    api: Api, fake_host: FakeHost
) -> None:
    with fake_host.hang("detachFlags") as hang:
        first = Thread(target=api.post, args=("/devices/l4-gpu/bind",))
        first.start()
        assert hang.entered.wait(10)
        answer = api.post("/devices/l4-gpu/bind")
        assert code_of(answer) == (409, "busy")
        assert answer.headers["Retry-After"] == "2"
        assert "x-should-retry" not in answer.headers
        assert api.get("/devices/l4-gpu").status_code == 200
        hang.release()
        first.join()
