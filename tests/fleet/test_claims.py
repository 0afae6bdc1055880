"""Claims: all or none, nobody else's, and nothing left of one that dies."""

from __future__ import annotations

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hypeman_libvirt.hub.model import ClaimSpec
from tests.api.client import bearer, code_of
from tests.conftest import seed_host
from tests.fleet.world import Agent, Fleet, agent_in
from tests.world import OPERATOR

pytestmark = pytest.mark.fleet
GPU = "0000:a2:00.0"
SECOND_GPU = "0000:41:00.0"
NIC = "0000:3b:00.0"
CLAIMERS = int(os.environ.get("HYPEMAN_LIBVIRT_FLEET_CLAIMERS", "16"))
"""200 by name: HYPEMAN_LIBVIRT_FLEET_CLAIMERS=200."""


@pytest.fixture
def devices(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    """Two GPUs and a NIC on each of two hosts."""
    for agent in (alpha, beta):
        agent.register(GPU, "l4", tags={"team": "ml"})
        agent.register(SECOND_GPU, "h100")
        agent.register(NIC, "nic")
        agent.report()
    assert len(fleet.names("free=true")) == 6


def claim(fleet: Fleet, who: str = "ann", key: str | None = None, **spec: Any) -> Any:  # noqa: ANN401
    headers = bearer(sub=who) | ({"Idempotency-Key": key} if key else {})
    return fleet.api.post("/devices/claims", spec, headers=headers)


def names(answer: Any) -> list[str]:  # noqa: ANN401
    return [f"{each['name']}@{each['host']}" for each in answer.json["devices"]]


def release(fleet: Fleet, answer: Any, who: str = "ann") -> Any:  # noqa: ANN401
    return fleet.api.delete(f"/devices/claims/{answer.json['id']}", headers=bearer(sub=who))


@pytest.mark.usefixtures("devices")
def test_claimed_devices_are_bound_and_given_back(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    made = claim(fleet, count=4, type="gpu")
    assert made.status_code == 201
    assert names(made) == ["h100@alpha", "l4@alpha", "h100@beta", "l4@beta"]
    for agent in (alpha, beta):
        assert agent.api.get("/devices/l4").json["bound_to_vfio"] is True
        assert agent.world.changes[-1].caller.subject == "ann"
    assert fleet.names("free=true") == ["nic@alpha", "nic@beta"]
    assert fleet.api.get("/devices/l4@alpha").json["claim"] == made.json["id"]
    assert release(fleet, made).status_code == 204
    assert alpha.api.get("/devices/l4").json["bound_to_vfio"] is False
    assert len(fleet.names("free=true")) == 6
    assert fleet.api.get("/devices/claims").json == []
    assert code_of(release(fleet, made)) == (404, "not_found")


@pytest.mark.usefixtures("devices")
def test_what_was_bound_before_a_claim_stays_bound_after_it(fleet: Fleet, alpha: Agent) -> None:
    assert alpha.api.post("/devices/l4/bind").status_code == 200
    made = claim(fleet, tags={"team": "ml"}, type="gpu", same_host=True)
    assert names(made) == ["l4@alpha"]
    assert release(fleet, made).status_code == 204
    assert alpha.api.get("/devices/l4").json["bound_to_vfio"] is True


@pytest.mark.usefixtures("devices")
def test_devices_are_chosen_by_what_is_asked_for(fleet: Fleet) -> None:
    refused = claim(fleet, count=2, vendor_id="15b3")  # a NIC of a remote libvirt may be critical
    assert code_of(refused) == (409, "no_capacity")
    assert "critical_device" in [each["code"] for each in refused.json["details"]]
    assert names(claim(fleet, count=2, tags={"team": "ml"})) == ["l4@alpha", "l4@beta"]
    assert {each.partition("@")[0] for each in names(claim(fleet, device_id="2330"))} == {"h100"}
    assert code_of(claim(fleet, profile="A40-8Q")) == (409, "no_capacity")
    assert code_of(claim(fleet, count=0)) == (400, "bad_request")
    assert code_of(claim(fleet, tags={"$": "x"})) == (400, "invalid_tags")


@pytest.mark.usefixtures("devices")
def test_devices_of_one_host_or_numa_node(fleet: Fleet) -> None:
    made = claim(fleet, count=2, type="gpu", same_host=True)
    assert len({each["host"] for each in made.json["devices"]}) == 1
    other = claim(fleet, count=2, type="gpu", same_host=True)
    assert len({each["host"] for each in other.json["devices"]}) == 1
    assert code_of(claim(fleet, count=2, type="gpu", same_host=True)) == (409, "no_capacity")
    release(fleet, made)
    apart = claim(fleet, count=2, type="gpu", same_numa=True)
    assert code_of(apart) == (409, "no_capacity")  # the two GPUs of a host are at two nodes
    assert claim(fleet, type="gpu", same_numa=True, tags={"team": "ml"}).status_code == 201


@pytest.mark.usefixtures("devices")
def test_a_refusal_says_where_it_came_nearest_and_what_is_in_the_way(
    fleet: Fleet, alpha: Agent
) -> None:
    assert alpha.api.post("/devices/l4/attach", {"instance": "vm-on"}).status_code == 200
    alpha.report()
    claim(fleet, device_id="2330", same_host=True, tags={})
    refused = claim(fleet, who="bob", count=3, type="gpu", same_host=True)
    assert code_of(refused) == (409, "no_capacity")
    assert "3 gpu devices are not free on any one host" in refused.json["message"]
    said = [each["message"] for each in refused.json["details"]]
    assert any("1 attached to domains" in each for each in said)
    assert any("1 claimed" in each for each in said)
    assert fleet.api.get("/devices/claims").json[0]["subject"] == "ann"
    assert len(fleet.api.get("/devices/claims").json) == 1


@pytest.mark.usefixtures("devices")
def test_a_claim_can_attach_its_devices(fleet: Fleet, alpha: Agent) -> None:
    assert code_of(claim(fleet, instance="nobody")) == (404, "instance_not_found")
    several = claim(fleet, instance="vm-on")
    assert code_of(several) == (409, "ambiguous_name")
    uuid = alpha.host.guest("vm-on").uuid
    made = claim(fleet, type="gpu", tags={"team": "ml"}, instance=uuid)
    assert names(made) == ["l4@alpha"]
    assert alpha.api.get("/devices/l4").json["attached_to"] == uuid
    assert release(fleet, made).status_code == 204
    device = alpha.api.get("/devices/l4").json
    assert (device["attached_to"], device["bound_to_vfio"]) == (None, False)


@pytest.mark.usefixtures("devices")
def test_what_is_claimed_is_nobody_elses(fleet: Fleet) -> None:
    made = claim(fleet, type="gpu", tags={"team": "ml"}, same_host=True)
    (name,) = names(made)
    for change in (f"/devices/{name}/unbind", f"/devices/{name}/detach"):
        assert code_of(fleet.api.post(change, headers=bearer(sub="bob"))) == (409, "claimed")
    assert fleet.api.post(f"/devices/{name}/unbind", headers=bearer(sub="ann")).status_code == 200
    assert code_of(release(fleet, made, who="bob")) == (403, "forbidden")
    assert release(fleet, made).status_code == 204


@pytest.mark.usefixtures("devices")
def test_a_claim_whose_device_a_domain_has_does_not_end(fleet: Fleet, alpha: Agent) -> None:
    made = claim(fleet, count=2, type="gpu", same_host=True)
    host = alpha if made.json["devices"][0]["host"] == "alpha" else None
    attach = f"/devices/l4@{made.json['devices'][0]['host']}/attach"
    answer = fleet.api.post(attach, {"instance": "vm-on"}, headers=bearer(sub="ann"))
    assert answer.status_code == 200
    assert code_of(release(fleet, made)) == (409, "in_use")
    assert fleet.api.get("/devices/claims").json[0]["state"] == "active"
    if host is not None:
        assert host.api.get("/devices/l4").json["attached_to"] is not None


@pytest.mark.usefixtures("devices")
def test_an_idempotency_key_makes_one_claim(fleet: Fleet) -> None:
    first, again = claim(fleet, key="k", type="gpu"), claim(fleet, key="k", type="gpu")
    assert first.json == again.json
    assert len(fleet.api.get("/devices/claims").json) == 1
    assert code_of(claim(fleet, key="k", type="pci")) == (409, "conflict")
    assert claim(fleet, key="k", who="bob", type="gpu").json["id"] != first.json["id"]


@pytest.mark.usefixtures("devices")
def test_a_claim_ends_by_itself(fleet: Fleet) -> None:
    made = claim(fleet, type="gpu", expires_in=60)
    assert made.json["expires_at"] > made.json["created_at"]
    fleet.hub.housekeeping.tidy_up()
    assert len(fleet.api.get("/devices/claims").json) == 1
    fleet.clock.pass_time(20)
    fleet.hub.housekeeping.tidy_up()
    assert len(fleet.api.get("/devices/claims").json) == 1
    fleet.clock.pass_time(41)
    fleet.hub.housekeeping.tidy_up()
    assert fleet.api.get("/devices/claims").json == []


@pytest.mark.usefixtures("devices")
def test_where_an_agent_refuses_other_devices_are_tried(fleet: Fleet, alpha: Agent) -> None:
    alpha.host.virsh_attach("vm-on", GPU)  # the hub does not know yet
    made = claim(fleet, type="gpu", tags={"team": "ml"})
    assert names(made) == ["l4@beta"]
    refused = claim(fleet, type="gpu", tags={"team": "ml"})
    assert code_of(refused) == (409, "no_capacity")


@pytest.mark.usefixtures("devices")
def test_all_or_none(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    alpha.host.virsh_attach("vm-on", GPU)
    beta.host.virsh_attach("vm-on", GPU)
    refused = claim(fleet, count=4, type="gpu")
    assert code_of(refused) == (409, "no_capacity")
    assert any(each["code"] == "in_use" for each in refused.json["details"])
    for agent in (alpha, beta):
        assert agent.api.get("/devices/h100").json["bound_to_vfio"] is False
    assert fleet.api.get("/devices/claims").json == []


def test_many_claimers_get_each_device_once_and_lose_none(fleet: Fleet) -> None:
    host = seed_host()
    for number in range(CLAIMERS):
        host.add_pci(
            f"0000:{number // 8 + 0xB0:02x}:{number % 8:02x}.0",
            product="26b9",
            driver="nvidia",
            group=200 + number,
        )
    with agent_in(fleet, "alpha", host=host) as agent:
        for number in range(CLAIMERS):
            address = f"0000:{number // 8 + 0xB0:02x}:{number % 8:02x}.0"
            agent.world.service.register(address, f"gpu{number}", {}, OPERATOR)
        agent.report()
        store, together = fleet.hub.claims, threading.Barrier(CLAIMERS)

        def reserve(number: int) -> list[str]:
            together.wait()
            claim = fleet.hub.claiming.reserve(
                ClaimSpec(1, device_id="26b9"), subject=f"claimer {number}"
            )
            return [each.key.id for each in claim.devices]

        with ThreadPoolExecutor(CLAIMERS) as pool:
            got = Counter(each for ids in pool.map(reserve, range(CLAIMERS)) for each in ids)
        assert len(got) == CLAIMERS
        assert set(got.values()) == {1}
        assert len(store.list()) == CLAIMERS


def test_two_devices_of_one_group_are_never_of_two_claims(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(SECOND_GPU, "h100")
    alpha.register("0000:41:00.1", "audio")
    alpha.report()
    assert claim(fleet).status_code == 201
    assert code_of(claim(fleet, who="bob")) == (409, "no_capacity")
