"""Hosts: enrolment, drain, removal and adoption."""

from __future__ import annotations

import re

import pytest

from tests.api.client import bearer, code_of
from tests.api.document import ROOT
from tests.conftest import seed_host
from tests.fleet.world import Agent, Fleet, agent_in

pytestmark = pytest.mark.fleet
GPU = "0000:a2:00.0"


def test_a_host_enrols_with_a_one_time_token(fleet: Fleet, alpha: Agent) -> None:
    (host,) = fleet.api.get("/hosts").json
    assert (host["name"], host["key"], host["status"]) == ("alpha", alpha.host_key, "up")
    assert fleet.api.get("/hosts/alpha").json["devices"] == []
    assert code_of(fleet.api.get("/hosts/gamma")) == (404, "not_found")
    assert code_of(fleet.api.post("/hosts", {"name": "a b"})) == (400, "bad_request")
    nobody = bearer(permissions=["device:write"])
    assert code_of(fleet.api.post("/hosts", {"name": "x"}, headers=nobody)) == (403, "forbidden")


def test_a_token_is_good_once_and_for_its_time(fleet: Fleet) -> None:
    token = fleet.invite("alpha")
    with agent_in(fleet, "alpha", token=token):
        assert len(fleet.api.get("/hosts").json) == 1
    with agent_in(fleet, "beta", token=token, enrol=False) as again:
        again.report()
    old = fleet.invite("beta", expires_in=60)
    fleet.clock.pass_time(61)
    with agent_in(fleet, "beta", token=old, enrol=False) as late:
        late.report()
    with agent_in(fleet, "gamma", enrol=False) as without:
        without.report()
    assert [each["name"] for each in fleet.api.get("/hosts").json] == ["alpha"]


def test_a_host_that_is_not_heard_is_down_and_its_devices_are_not_free(
    fleet: Fleet, alpha: Agent
) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    fleet.clock.pass_time(31)
    (host,) = fleet.api.get("/hosts").json
    assert host["status"] == "down"
    assert fleet.names() == ["l4@alpha"]
    assert fleet.names("free=true") == []
    alpha.report()
    assert fleet.names("free=true") == ["l4@alpha"]


def test_a_drained_host_gets_no_claims_and_keeps_those_it_has(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    claim = fleet.api.post("/devices/claims", {}).json
    drained = fleet.api.patch("/hosts/alpha", {"drained": True})
    assert drained.json["status"] == "drained"
    alpha.register("0000:41:00.0", "h100")
    alpha.report()
    refused = fleet.api.post("/devices/claims", {})
    assert code_of(refused) == (409, "no_capacity")
    assert "drained" in refused.json["details"][0]["message"]
    assert fleet.api.get(f"/devices/claims/{claim['id']}").json["state"] == "active"
    assert fleet.api.patch("/hosts/alpha", {"drained": False}).json["status"] == "up"
    assert fleet.api.post("/devices/claims", {}).status_code == 201


def test_a_host_that_is_gone_says_who_had_what(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    claim = fleet.api.post("/devices/claims", {}, headers=bearer(sub="ann")).json
    assert fleet.api.delete("/hosts/alpha").status_code == 204
    assert fleet.names() == []
    assert fleet.api.get("/hosts").json == []
    assert [each["status"] for each in fleet.api.get("/hosts", query="gone=true").json] == ["gone"]
    (device,) = fleet.api.get(f"/hosts/{alpha.host_key}").json["devices"]
    assert (device["name"], device["claim"], device["claimed_by"]) == ("l4", claim["id"], "ann")
    alpha.report()  # refused: its key is worth nothing any more
    assert fleet.names() == []
    assert (
        fleet.api.delete(f"/devices/claims/{claim['id']}", headers=bearer(sub="ann")).status_code
        == 204
    )
    with agent_in(fleet, "alpha", host=alpha.host) as back:
        back.register(GPU, "l4")
        back.report()
        assert fleet.names() == ["l4@alpha"]


def test_the_same_uuid_twice_is_refused(fleet: Fleet, alpha: Agent) -> None:
    clone = seed_host()
    clone.uuid = alpha.host.uuid
    with agent_in(fleet, "beta", host=clone, token=fleet.invite("beta"), enrol=False) as agent:
        agent.report()
    assert [each["name"] for each in fleet.api.get("/hosts").json] == ["alpha"]


def test_a_host_with_another_uuid_is_adopted(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    claim = fleet.api.post("/devices/claims", {}).json
    moved = seed_host()
    again = seed_host()
    again.uuid = moved.uuid
    with agent_in(fleet, "alpha", host=again, token=fleet.invite("alpha"), enrol=False) as agent:
        agent.report()  # refused: a host of that name is there
    (host,) = fleet.api.get("/hosts").json
    assert host["key"] == alpha.host_key
    token = fleet.invite("alpha", adopt=True)
    with agent_in(fleet, "alpha", host=moved, token=token) as agent:
        (host,) = fleet.api.get("/hosts").json
        assert host["key"] == agent.host_key
        agent.register(GPU, "l4")
        agent.report()
        assert fleet.names() == ["l4@alpha"]
        assert fleet.api.get(f"/devices/claims/{claim['id']}").json["devices"][0]["host"] == "alpha"
    assert code_of(fleet.api.post("/hosts", {"name": "nobody", "adopt": True})) == (
        404,
        "not_found",
    )


def test_metrics_say_how_each_host_is(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    fleet.api.post("/devices/claims", {})
    text = fleet.api.get("/metrics").text
    for line in (
        "hypeman_libvirt_hub_up 1.0",
        'hypeman_libvirt_hub_host_status{host="alpha",status="up"} 1.0',
        'hypeman_libvirt_hub_devices{host="alpha",type="gpu"} 1.0',
        'hypeman_libvirt_hub_devices_free{host="alpha",type="gpu"} 0.0',
        'hypeman_libvirt_hub_claims{state="active"} 1.0',
    ):
        assert line in text


def test_the_alerts_of_a_hub_ask_for_what_it_says(fleet: Fleet, alpha: Agent) -> None:
    alpha.host.down()
    alpha.report()
    alerts = (ROOT / "contrib" / "observability" / "alerts.yaml").read_text()
    asked = set(re.findall(r"\bhypeman_libvirt_hub_\w+", alerts))
    said = set(
        re.findall(r"^hypeman_libvirt_hub_\w+", fleet.api.get("/metrics").text, re.MULTILINE)
    )
    assert asked
    assert asked <= said
