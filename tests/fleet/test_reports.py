"""What agents report is what a hub lists; each speaks of its own host alone."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, update

from hypeman_libvirt.hub.database import MIGRATIONS
from hypeman_libvirt.hub.protocol import REPORT_PATH
from hypeman_libvirt.hub.schema import HEAD, hosts, metadata
from tests.api.client import code_of, token
from tests.fleet.world import Agent, Fleet, fleet_on

pytestmark = pytest.mark.fleet
GPU = "0000:a2:00.0"
SECOND_GPU = "0000:41:00.0"


def test_the_migrations_make_the_tables_of_the_schema(database: str) -> None:
    engine = create_engine(database)
    with engine.connect() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, HEAD)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_devices_of_all_hosts_are_listed_as_their_agents_answer_them(
    fleet: Fleet, alpha: Agent, beta: Agent
) -> None:
    alpha.register(GPU, "l4", tags={"team": "ml"})
    beta.register(SECOND_GPU, "h100")
    alpha.report()
    beta.report()
    listed = fleet.api.get("/devices").json
    assert [(each["host"], each["name"]) for each in listed] == [("alpha", "l4"), ("beta", "h100")]
    own = alpha.api.get("/devices/l4").json
    assert {name: listed[0][name] for name in own} == own
    assert listed[0]["seen_at"].endswith("Z")
    assert len(fleet.api.get("/devices/available").json) == 2 * len(
        alpha.api.get("/devices/available").json
    )


def test_lists_are_filtered(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    alpha.register(GPU, "l4", tags={"team": "ml"})
    alpha.register("0000:3b:00.0", "nic")
    beta.register(SECOND_GPU, "h100")
    alpha.report()
    beta.report()
    assert fleet.names("host=alpha") == ["l4@alpha", "nic@alpha"]
    assert fleet.names("type=gpu") == ["l4@alpha", "h100@beta"]
    assert fleet.names("vendor_id=15B3") == ["nic@alpha"]
    assert fleet.names("device_id=2330") == ["h100@beta"]
    assert fleet.names("tags%5Bteam%5D=ml") == ["l4@alpha"]
    assert fleet.names("profile=A40-8Q") == []
    assert fleet.names("free=true&type=gpu") == ["l4@alpha", "h100@beta"]
    assert fleet.names("free=false") == []
    assert code_of(fleet.api.get("/devices", query="type=tpu")) == (400, "bad_request")
    assert code_of(fleet.api.get("/devices", query="free=perhaps")) == (400, "bad_request")


def test_a_list_comes_in_pages(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    for agent in (alpha, beta):
        agent.register(GPU, "l4")
        agent.register(SECOND_GPU, "h100")
        agent.report()
    whole, pages, path = fleet.names(), list[str](), "/devices?limit=3"
    while path:
        answer = fleet.api.get("/devices", query=path.partition("?")[2])
        pages += [f"{each['name']}@{each['host']}" for each in answer.json]
        path = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert pages == whole
    assert len(whole) == 4
    available = fleet.api.get("/devices/available", query="limit=2")
    assert len(available.json) == 2
    assert 'rel="next"' in available.headers["Link"]
    for query in ("limit=0", "limit=many", "limit=1&cursor=x", "limit=1&cursor=W10"):
        assert code_of(fleet.api.get("/devices", query=query)) == (400, "bad_request")


def test_only_what_has_changed_is_reported(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.register(SECOND_GPU, "h100")
    alpha.report()
    seen = fleet.api.get("/devices/l4").json["seen_at"]
    assert alpha.api.delete("/devices/h100").status_code == 204
    assert alpha.api.patch("/devices/l4", {"name": "l4-new"}).status_code == 200
    alpha.report()
    assert fleet.names() == ["l4-new@alpha"]
    assert fleet.api.get("/devices/l4-new").json["seen_at"] > seen


def test_a_report_that_is_sent_twice_changes_nothing(fleet: Fleet, alpha: Agent) -> None:
    report = of(alpha, sequence=2, devices_gone=["nobody"])
    assert send(fleet, alpha, report).status_code == 200
    assert send(fleet, alpha, report).status_code == 200
    assert send(fleet, alpha, {**report, "sequence": 3}).status_code == 200


def test_after_a_gap_everything_is_sent(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    gap = send(fleet, alpha, of(alpha, sequence=9))
    assert (gap.status_code, gap.json()["code"]) == (409, "report_gap")
    with fleet.hub.database.write() as connection:  # as a backup that was restored
        connection.execute(update(hosts).values(sequence=0))
    assert alpha.report() == 0.0  # at once again, with everything
    alpha.report()
    assert fleet.names() == ["l4@alpha"]


def test_an_agent_cannot_speak_of_another_host(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    beta.register(GPU, "l4")
    beta.report()
    lie = {**of(alpha, sequence=2, full=True), "host": beta.host_key}
    answer = send(fleet, alpha, lie)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert fleet.names() == ["l4@beta"]
    stolen = dict(fleet.api.get("/devices/l4").json, host="beta", attached_to="nobody")
    claims = of(alpha, sequence=2, devices=[{"body": stolen}])
    assert send(fleet, alpha, claims).status_code == 200  # of its own host, whatever it writes
    assert sorted(fleet.names()) == ["l4@alpha", "l4@beta"]
    assert fleet.api.get("/devices/l4@beta").json["attached_to"] is None


def test_a_report_without_a_key_or_with_a_clients_token_is_refused(
    fleet: Fleet, alpha: Agent
) -> None:
    for key in (None, "nobody's key", token()):
        answer = send(fleet, alpha, of(alpha, sequence=2), key=key)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_a_body_that_is_no_device_is_refused_and_named(fleet: Fleet, alpha: Agent) -> None:
    answer = send(fleet, alpha, of(alpha, sequence=2, devices=[{"body": {"id": "x"}}]))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "name" in answer.json()["message"]
    assert send(fleet, alpha, of(alpha, sequence=2)).status_code == 200


def test_fields_that_a_hub_does_not_know_are_handed_on(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    newer = {**alpha.api.get("/devices/l4").json, "of_tomorrow": {"x": 1}}
    report = {**of(alpha, sequence=3, devices=[{"body": newer, "y": 2}]), "z": 3}
    assert send(fleet, alpha, report).status_code == 200
    assert fleet.api.get("/devices/l4").json["of_tomorrow"] == {"x": 1}


def test_while_libvirt_is_down_the_host_is_named_with_its_problem(
    fleet: Fleet, alpha: Agent
) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    alpha.host.down()
    alpha.report()
    (host,) = fleet.api.get("/hosts").json
    assert host["problem"] == "libvirt_unavailable"
    assert fleet.names() == ["l4@alpha"]
    assert fleet.names("free=true") == []
    alpha.host.up()
    while fleet.names("free=true") != ["l4@alpha"]:  # the connection is opened again
        alpha.report()


def test_resources_of_all_hosts_are_added_up(fleet: Fleet, alpha: Agent, beta: Agent) -> None:
    one, both = alpha.api.get("/resources").json, fleet.api.get("/resources").json
    assert both["cpu"]["capacity"] == 2 * one["cpu"]["capacity"]
    assert both["gpu"]["total_slots"] == 2 * one["gpu"]["total_slots"]
    assert len(both["gpu"]["devices"]) == 2 * len(one["gpu"]["devices"])
    assert fleet.api.get("/capabilities").json["features"] == ["devices"]
    assert beta.name == "beta"


def test_two_hubs_show_the_same(fleet: Fleet, alpha: Agent, database: str, tmp_path: Path) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    (tmp_path / "second").mkdir()
    with fleet_on(database, tmp_path / "second") as second:
        assert second.names() == fleet.names() == ["l4@alpha"]


def test_an_agent_that_was_started_again_sends_everything(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    restarted = of(alpha, sequence=1, full=True) | {"epoch": "another run"}
    assert send(fleet, alpha, restarted).status_code == 200
    assert fleet.names() == []


def test_a_clone_of_an_agent_is_refused(fleet: Fleet, alpha: Agent) -> None:
    clone = of(alpha, sequence=1, full=True) | {"epoch": "the clone"}
    assert send(fleet, alpha, clone).status_code == 200
    alpha.report()
    (host,) = fleet.api.get("/hosts").json
    assert host["duplicate_at"] is not None
    answer = send(fleet, alpha, of(alpha, sequence=7, full=True))
    assert (answer.status_code, answer.json()["code"]) == (409, "duplicate_host")


def of(agent: Agent, **fields: object) -> dict[str, object]:
    """Return a report of an agent's run."""
    return {
        "host": agent.host_key,
        "epoch": agent.epoch,
        "sequence": 2,
        "full": False,
        "sent_at": 0.0,
        "version": "0.1.0",
        "url": agent.url,
        **fields,
    }


def send(
    fleet: Fleet, agent: Agent, report: dict[str, object], key: str | None = "its own"
) -> httpx.Response:
    """Send a report, with the key of an agent or another one."""
    if key == "its own":
        key = agent.key
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{fleet.url}{REPORT_PATH}", json=report, headers=headers, timeout=60)
