"""What changes a device goes to the agent of its host, on behalf of the caller."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TypeVar

import jwt
import pytest

from hypeman_libvirt.hub.tokens import agent_secret
from tests.api.client import SECRET, bearer, code_of
from tests.fleet.world import HUB_SECRET, Agent, Fleet

pytestmark = pytest.mark.fleet
GPU = "0000:a2:00.0"
SECOND_GPU = "0000:41:00.0"


@pytest.fixture
def l4(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    """A device ``l4`` on each of two hosts, and ``h100`` on one."""
    for agent in (alpha, beta):
        agent.register(GPU, "l4")
    beta.register(SECOND_GPU, "h100")
    alpha.report()
    beta.report()
    assert len(fleet.names()) == 3


@pytest.mark.usefixtures("l4")
def test_a_name_that_several_hosts_use_is_refused_with_the_candidates(fleet: Fleet) -> None:
    for method, path in (("GET", "/devices/l4"), ("DELETE", "/devices/l4")):
        answer = fleet.api.send(method, path)
        assert code_of(answer) == (409, "ambiguous_name")
        assert [each["message"] for each in answer.json["details"]] == ["l4@alpha", "l4@beta"]
    for reference in ("l4@beta", f"{GPU}@beta", "pci_0000_a2_00_0@beta", "h100"):
        assert fleet.api.get(f"/devices/{reference}").json["host"] == "beta"
    assert code_of(fleet.api.get("/devices/l4@gamma")) == (404, "not_found")
    assert code_of(fleet.api.get("/devices/nobody")) == (404, "not_found")


@pytest.mark.usefixtures("l4")
def test_a_change_is_made_by_the_agent_and_listed_at_once(
    fleet: Fleet, alpha: Agent, beta: Agent
) -> None:
    bound = fleet.api.post("/devices/l4@beta/bind", headers=bearer(sub="ann"))
    assert bound.status_code == 200
    assert (bound.json["bound_to_vfio"], bound.json["host"]) == (True, "beta")
    assert fleet.api.get("/devices/l4@beta").json["bound_to_vfio"] is True
    assert fleet.api.get("/devices/l4@alpha").json["bound_to_vfio"] is False
    assert [each.caller.subject for each in beta.world.changes][-1] == "ann"
    assert "bind" not in [each.action for each in alpha.world.changes]
    renamed = fleet.api.patch("/devices/l4@beta", {"name": "other"})
    assert renamed.json["name"] == "other"
    assert fleet.api.delete("/devices/other", query="unbind=device").status_code == 204
    assert fleet.names() == ["l4@alpha", "h100@beta"]


@pytest.mark.usefixtures("l4")
def test_an_agents_refusal_is_the_hubs(fleet: Fleet) -> None:
    refused = fleet.api.post("/devices/h100/attach", {"instance": "nobody"})
    assert code_of(refused) == (404, "instance_not_found")
    refused = fleet.api.post("/devices/h100/detach")
    assert code_of(refused) == (409, "not_attached")
    assert refused.headers["x-should-retry"] == "false"


@pytest.mark.usefixtures("l4")
def test_only_the_host_itself_answers_what_only_it_can(fleet: Fleet, beta: Agent) -> None:
    preflight = fleet.api.get("/devices/h100/preflight").json
    assert preflight == beta.api.get("/devices/h100/preflight").json
    xml = fleet.api.get("/devices/h100/hostdev.xml")
    assert xml.headers["Content-Type"] == "application/xml"
    assert "<hostdev" in xml.text
    assert fleet.api.get("/devices/preflight", query=f"pci_address={SECOND_GPU}@beta").json == (
        beta.api.get("/devices/preflight", query=f"pci_address={SECOND_GPU}").json
    )
    groups = fleet.api.get("/iommu-groups", query="host=beta").json
    assert groups == beta.api.get("/iommu-groups").json
    assert fleet.api.get("/iommu-groups/25@beta").json in groups
    assert code_of(fleet.api.get("/iommu-groups")) == (400, "bad_request")
    assert code_of(fleet.api.get("/iommu-groups", query="host=gamma")) == (404, "not_found")


def test_a_hub_has_every_path_of_a_host_with_its_permission(fleet: Fleet, alpha: Agent) -> None:
    from hypeman_libvirt.hub.rest.routes import hub_routes  # noqa: PLC0415
    from hypeman_libvirt.rest.routes import device_routes  # noqa: PLC0415

    hubs = {route.path: route.permissions for route in hub_routes(fleet.hub)}
    for route in device_routes(alpha.world.service):
        below = re.sub(r"(/devices/\{reference\})/[^/]+$", r"\1/{operation}", route.path)
        own = hubs.get(route.path, hubs.get(below))
        assert own is not None, route.path
        assert route.permissions.items() <= own.items(), route.path


def test_a_device_is_registered_on_the_host_that_has_it(
    fleet: Fleet, alpha: Agent, beta: Agent
) -> None:
    answer = fleet.api.post("/devices", {"pci_address": GPU, "name": "l4"})
    assert code_of(answer) == (409, "ambiguous_name")
    made = fleet.api.post("/devices", {"pci_address": f"{GPU}@beta", "name": "l4"})
    assert (made.status_code, made.json["host"]) == (201, "beta")
    assert fleet.names() == ["l4@beta"]
    assert alpha.api.get("/devices").json == []
    assert [each["name"] for each in beta.api.get("/devices").json] == ["l4"]
    alone = {"pci_address": "0000:99:00.0", "name": "x"}
    assert code_of(fleet.api.post("/devices", alone)) == (404, "device_not_found")
    assert code_of(fleet.api.post("/devices", {"name": "x"})) == (400, "bad_request")
    assert code_of(fleet.api.post("/devices", raw=b"[]", headers=json_bearer())) == (
        400,
        "bad_request",
    )


@pytest.mark.usefixtures("l4")
def test_a_token_that_is_limited_to_hosts_sees_and_changes_those(fleet: Fleet) -> None:
    limited = bearer(hosts=["alpha"])
    listed = fleet.api.get("/devices", headers=limited).json
    assert [each["host"] for each in listed] == ["alpha"]
    assert code_of(fleet.api.get("/devices/h100", headers=limited)) == (403, "forbidden")
    answer = fleet.api.post("/devices/h100/bind", headers=limited)
    assert code_of(answer) == (403, "forbidden")
    assert fleet.api.post("/devices/l4@alpha/bind", headers=limited).status_code == 200
    assert [each["name"] for each in fleet.api.get("/hosts", headers=limited).json] == ["alpha"]
    assert code_of(fleet.api.post("/hosts", {"name": "x"}, headers=limited)) == (403, "forbidden")


@pytest.mark.usefixtures("l4")
def test_permissions_are_asked_for_at_the_hub(fleet: Fleet) -> None:
    reader = bearer(permissions=["device:read"])
    assert fleet.api.get("/devices/h100/preflight", headers=reader).status_code == 200
    assert code_of(fleet.api.post("/devices/h100/bind", headers=reader)) == (403, "forbidden")
    assert code_of(fleet.api.get("/hosts", headers={})) == (401, "unauthorized")


def test_an_agent_takes_only_the_hubs_tokens_for_itself(
    fleet: Fleet, alpha: Agent, beta: Agent
) -> None:
    host = fleet.hub.hosts.get("alpha")
    good = fleet.hub.tokens.sign(host, "ann", ["device:read"])
    assert ask(alpha, good) == 200
    assert ask(beta, good) == 401
    assert alpha.api.post("/devices/x/bind", headers=as_bearer(good)).status_code == 403
    alpha.world.pass_time(3600)
    assert ask(alpha, good) == 401  # its minute is over
    secret = agent_secret(HUB_SECRET, host.key, host.salt)
    forever = {"iss": "hypeman-libvirt-hub", "aud": host.key}
    assert ask(alpha, jwt.encode(forever, secret, algorithm="HS256")) == 401
    assert ask(alpha, jwt.encode(forever | {"exp": 9e9}, SECRET, algorithm="HS256")) == 401


@pytest.mark.usefixtures("l4")
def test_a_host_that_does_not_answer_is_named(fleet: Fleet) -> None:
    with fleet.hub.database.write() as connection:
        connection.exec_driver_sql("UPDATE hosts SET url = 'http://127.0.0.1:9'")
    answer = fleet.api.post("/devices/h100/bind")
    assert code_of(answer) == (503, "host_unreachable")
    assert "beta" in answer.json["message"]
    assert answer.headers["Retry-After"]


def test_events_of_all_hosts_are_one_stream(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    with fleet.hub.feed.listen(None) as events:
        for agent, address, name in ((alpha, GPU, "l4"), (beta, SECOND_GPU, "h100")):
            with agent.events() as collected:
                agent.register(address, name)
                agent.reporter.collect(next_event(collected))
            agent.report()
        seen = [next_event(events) for _ in range(2)]
    assert [(each.type, each.host, json.loads(each.body)["name"]) for each in seen] == [
        ("registered", "alpha", "l4"),
        ("registered", "beta", "h100"),
    ]
    with fleet.hub.feed.listen(seen[0].id) as events:
        assert next_event(events) == seen[1]
    with fleet.hub.feed.listen(seen[0].id, hosts=["alpha"]) as events:
        assert next(events) is None  # a sign of life, and nothing of beta
    with fleet.api.stream("/devices/events", {**bearer(), "Last-Event-ID": "0"}) as answer:
        assert answer.status_code == 200
        assert next(answer.body) == b": listening\n\n"
        first = next(answer.body).decode()
    assert first.startswith(f"id: {seen[0].id}\nevent: registered\ndata: ")
    assert '"host": "alpha"' in first


E = TypeVar("E")


def next_event(events: Iterator[E | None]) -> E:
    """Return the next event, whatever signs of life come before."""
    return next(each for each in events if each is not None)


def ask(agent: Agent, token: str) -> int:
    """Return the status that a bearer of the token gets."""
    return agent.api.get("/devices", headers=as_bearer(token)).status_code


def as_bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def json_bearer() -> dict[str, str]:
    return {**bearer(), "Content-Type": "application/json"}
