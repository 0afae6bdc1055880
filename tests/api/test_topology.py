"""The host as a picture, and what happened: ``/devices/topology`` and ``/devices/history``."""

from __future__ import annotations

from typing import Any

from tests.api.client import Api, bearer
from tests.fake_host import FakeHost
from tests.world import World

GPU = "0000:a2:00.0"


def functions_of(api: Api) -> dict[str, dict[str, Any]]:
    listed = api.get("/devices/topology").json["functions"]
    return {each["pci_address"]: each for each in listed}


def test_every_function_is_in_it_bridges_and_those_without_a_group_too(api: Api) -> None:
    functions = functions_of(api)
    assert list(functions) == sorted(functions)
    assert functions["0000:a1:01.0"]["assignable"] is False
    assert functions["0000:00:1f.4"]["iommu_group"] is None
    assert functions[GPU]["parent"] == "0000:a1:01.0"
    assert functions[GPU]["node_name"] == "pci_0000_a2_00_0"


def test_the_link_of_a_function_is_in_it(api: Api) -> None:
    functions = functions_of(api)
    assert functions[GPU]["link"] == {
        "speed": 16.0,
        "width": 16,
        "max_speed": 16.0,
        "max_width": 16,
    }
    assert "link" not in functions["0000:41:00.0"]


def test_it_says_what_the_host_does_with_a_function(api: Api) -> None:
    functions = functions_of(api)
    (use,) = functions["0000:3b:00.0"]["host_uses"]
    assert "ens1" in use["what"]
    assert use["known"] is False
    assert functions[GPU]["host_uses"] == []


def test_a_function_that_changed_its_driver_is_asked_about_anew(api: Api) -> None:
    assert functions_of(api)["0000:3b:00.0"]["host_uses"]
    api.post("/devices", {"pci_address": "0000:3b:00.0", "name": "nic"})
    bound = api.post("/devices/nic/bind", {"force": True})
    assert bound.status_code == 200
    assert functions_of(api)["0000:3b:00.0"]["host_uses"] == []


def test_groups_and_domains_are_in_it(api: Api) -> None:
    topology = api.get("/devices/topology").json
    groups = {each["iommu_group"]: each["status"] for each in topology["iommu_groups"]}
    assert groups == {25: "needs_bind", 30: "needs_bind", 81: "never", 82: "needs_bind"}
    assert [(each["name"], each["state"]) for each in topology["domains"]] == [
        ("vm-off", "shut off"),
        ("vm-on", "running"),
    ]


def test_it_names_registration_and_domain(api: Api) -> None:
    api.post("/devices", {"pci_address": GPU, "name": "l4-gpu"})
    api.post("/devices/l4-gpu/attach", {"instance": "vm-on"})
    function = functions_of(api)[GPU]
    assert function["registered_as"] == "l4-gpu"
    assert function["attached_domain"] == "vm-on"
    assert function["current_driver"] == "vfio-pci"


def test_slices_are_in_it(api: Api, fake_host: FakeHost) -> None:
    fake_host.add_pci("0000:65:00.0", class_code="020000", driver="igb", group=65, max_vfs=4)
    fake_host.add_pci("0000:65:10.0", group=66, physical_function="0000:65:00.0")
    functions = functions_of(api)
    assert functions["0000:65:00.0"]["virtual_functions"] == ["0000:65:10.0"]
    assert functions["0000:65:00.0"]["max_virtual_functions"] == 4
    assert functions["0000:65:10.0"]["physical_function"] == "0000:65:00.0"
    assert "virtual_functions" not in functions[GPU]


def test_history_says_who_changed_what(world: World, api: Api) -> None:
    world.service.register("0000:a2:00.0", "l4-gpu", {}, _caller("ann"))
    api.post("/devices/l4-gpu/bind", {}, headers=bearer(sub="bob"))
    first, second = api.get("/devices/history").json["changes"]
    assert (first["action"], first["by"], first["current_driver"]) == ("register", "ann", "nvidia")
    assert (second["action"], second["by"], second["current_driver"]) == ("bind", "bob", "vfio-pci")
    assert second["at"] == "2025-01-15T10:00:00Z"


def test_history_counts_operations_by_the_minute(world: World, api: Api) -> None:
    api.post("/devices", {"pci_address": GPU, "name": "l4-gpu"})
    for _ in range(2):
        api.post("/devices/l4-gpu/bind", {})
    api.post("/devices/l4-gpu/detach", {})
    world.pass_time(60)
    api.post("/devices/l4-gpu/unbind", {})
    counted = [
        (each["minute"][11:16], each["operation"], each["successes"], each["failures"])
        for each in api.get("/devices/history").json["operations"]
    ]
    assert counted == [
        ("10:00", "bind", 2, 0),
        ("10:00", "detach", 0, 1),
        ("10:01", "unbind", 1, 0),
    ]


def test_history_has_the_events_that_were_noticed(world: World, api: Api) -> None:
    with world.service.event_feed.listen(None):
        api.post("/devices", {"pci_address": GPU, "name": "l4-gpu"})
        events = api.get("/devices/history").json["events"]
    assert [(each["type"], each["name"]) for each in events] == [("registered", "l4-gpu")]


def _caller(subject: str) -> Any:  # noqa: ANN401  # imported after the level was chosen
    from hypeman_libvirt.devices.model import Caller  # noqa: PLC0415

    return Caller(subject)
