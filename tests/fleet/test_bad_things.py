"""What goes wrong in a fleet: processes that are killed, a database that restarts, clocks."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypeman_fleet.local import LocalFleet, local_fleet
from hypeman_fleet.postgres import Postgres

from hypeman_libvirt.endpoint import Endpoint
from hypeman_libvirt.hub.model import ClaimSpec
from tests.api.client import code_of
from tests.fleet.generated import GeneratedAgent
from tests.fleet.test_claims import claim, names, release
from tests.fleet.world import Agent, Fleet, agent_in, fleet_on

pytestmark = pytest.mark.fleet
GPU = "0000:a2:00.0"
SECOND_GPU = "0000:41:00.0"
LEASE = 91
"""Seconds after which another hub may end a claim."""


class Severed(http.client.HTTPConnection):
    """Sends a request, and gets no answer: the agent dies meanwhile."""

    def getresponse(self) -> http.client.HTTPResponse:
        super().getresponse().read()
        raise ConnectionResetError(104, "Connection reset by peer")


class Wire:
    """Opens connections to agents; one that is to die takes one more change, and is gone then."""

    def __init__(self) -> None:
        self.dies = False
        self.is_gone = False
        self._asked = 0

    def connect(self, endpoint: Endpoint, timeout: float) -> http.client.HTTPConnection:
        """Open a connection."""
        if self.is_gone:
            raise ConnectionRefusedError(111, "Connection refused")
        self._asked += self.dies
        self.is_gone = self._asked == 2  # the first only looks at the device
        kind = Severed if self.is_gone else http.client.HTTPConnection
        return kind(endpoint.host, endpoint.port, timeout=timeout)

    def revive(self) -> None:
        """Start the agent again."""
        self.dies, self.is_gone, self._asked = False, False, 0


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def wired(database: str, tmp_path: Path, wire: Wire) -> Iterator[Fleet]:
    """A hub that reaches agents over the wire."""
    with fleet_on(database, tmp_path, wire.connect) as fleet:
        yield fleet


def test_an_agent_that_dies_in_the_middle_of_a_bind_leaves_no_claim(
    wired: Fleet, wire: Wire
) -> None:
    fleet = wired
    with agent_in(fleet, "alpha") as alpha:
        alpha.register(GPU, "l4")
        alpha.report()
        wire.dies = True
        refused = claim(fleet)
        assert code_of(refused) == (409, "no_capacity")
        (left,) = fleet.api.get("/devices/claims").json  # whether it is bound is not known
        assert left["state"] == "releasing"
        assert fleet.names("free=true") == []  # so that nobody else gets it meanwhile
        assert alpha.api.get("/devices/l4").json["bound_to_vfio"] is True
        fleet.hub.housekeeping.tidy_up()
        assert len(fleet.api.get("/devices/claims").json) == 1  # not yet
        wire.revive()
        fleet.clock.pass_time(LEASE)
        fleet.hub.housekeeping.tidy_up()
        alpha.report()
        assert fleet.api.get("/devices/claims").json == []
        assert alpha.api.get("/devices/l4").json["bound_to_vfio"] is False
        assert fleet.names("free=true") == ["l4@alpha"]
        assert claim(fleet).status_code == 201


def test_a_hub_that_dies_between_reserve_and_bind_leaves_nothing(
    fleet: Fleet, alpha: Agent
) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    dead = fleet.hub.claiming.reserve(ClaimSpec(1), subject="ann")
    assert code_of(claim(fleet)) == (409, "no_capacity")
    fleet.hub.housekeeping.tidy_up()
    assert [each["id"] for each in fleet.api.get("/devices/claims").json] == [dead.id]
    fleet.clock.pass_time(LEASE)
    alpha.report()
    fleet.hub.housekeeping.tidy_up()
    assert fleet.api.get("/devices/claims").json == []
    assert fleet.hub.claims.activate(dead.id) is False  # should it come back
    assert claim(fleet, who="bob").status_code == 201


def test_a_hub_that_dies_after_the_bind_has_it_undone(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    dead = fleet.hub.claiming.reserve(ClaimSpec(1), subject="ann")
    assert fleet.hub.claims.begin_taking(dead.id, dead.devices[0].key, was_bound=False)
    assert alpha.api.post("/devices/l4/bind", {"scope": "group"}).status_code == 200
    fleet.clock.pass_time(LEASE)
    alpha.report()
    fleet.hub.housekeeping.tidy_up()
    assert fleet.api.get("/devices/claims").json == []
    assert alpha.api.get("/devices/l4").json["bound_to_vfio"] is False
    assert not fleet.hub.claims.begin_taking(dead.id, dead.devices[0].key, was_bound=False)


def test_two_hubs_give_back_one_claim_once(
    fleet: Fleet, alpha: Agent, database: str, tmp_path: Path
) -> None:
    for number, address in enumerate((GPU, SECOND_GPU)):
        alpha.register(address, f"gpu{number}")
    alpha.report()
    made = [claim(fleet, expires_in=60) for _ in range(2)]
    assert [each.status_code for each in made] == [201, 201]
    (tmp_path / "second").mkdir()
    with fleet_on(database, tmp_path / "second") as second:
        for hub in (fleet, second):
            hub.clock.pass_time(61)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda each: each.hub.housekeeping.tidy_up(), (fleet, second)))
    unbinds = [each for each in alpha.world.changes if each.action == "unbind"]
    assert len(unbinds) == 2
    assert fleet.api.get("/devices/claims").json == []


def test_a_hub_goes_on_after_a_restart_of_the_database(
    fleet: Fleet, alpha: Agent, postgres: Postgres
) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    made = claim(fleet)
    with fleet.hub.feed.listen(None) as events:
        postgres.restart()
        assert fleet.api.get("/ready").status_code in {200, 503}
        assert fleet.api.get("/ready").status_code == 200
        assert fleet.names() == ["l4@alpha"]
        with alpha.events() as seen:
            alpha.register(SECOND_GPU, "h100")
            alpha.reporter.collect(next(each for each in seen if each is not None))
        alpha.report()
        event = next(each for each in events if each is not None)
    assert (event.type, event.host) == ("registered", "alpha")
    assert names(made) == ["l4@alpha"]
    assert release(fleet, made).status_code == 204


def test_while_the_database_is_away_a_hub_says_so_and_agents_serve_on(
    fleet: Fleet, alpha: Agent, postgres: Postgres
) -> None:
    postgres.stop()
    try:
        for path in ("/ready", "/devices", "/hosts"):
            answer = fleet.api.get(path)
            assert code_of(answer) == (503, "registry_unavailable")
        assert fleet.api.get("/health").status_code == 200
        assert "hypeman_libvirt_hub_up 0.0" in fleet.api.get("/metrics").text
        alpha.register(GPU, "l4")
        assert alpha.api.post("/devices/l4/bind").status_code == 200
        with pytest.raises(Exception, match="cannot take a report"):
            alpha.report()
    finally:
        postgres.start()
    alpha.report()
    assert fleet.names() == ["l4@alpha"]


def test_a_revoked_agent_is_heard_no_more_and_called_no_more(fleet: Fleet, alpha: Agent) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    host = fleet.hub.hosts.get("alpha")
    fleet.api.delete("/hosts/alpha")
    alpha.register(SECOND_GPU, "h100")
    alpha.report()
    assert fleet.names() == []
    with agent_in(fleet, "alpha", host=alpha.host) as back:
        old = fleet.hub.tokens.sign(host, "ann", ["device:read"])
        answer = back.api.get("/devices", headers={"Authorization": f"Bearer {old}"})
        assert answer.status_code == 401  # what was signed for the enrolment before


def test_clocks_that_differ_by_years_hinder_nothing(fleet: Fleet, alpha: Agent) -> None:
    """Agents of these tests live in January 2025; the database may be ahead as well."""
    alpha.register(GPU, "l4")
    fleet.clock.pass_time(3600)
    alpha.report()
    made = claim(fleet)
    assert made.status_code == 201
    alpha.world.pass_time(7200)
    assert code_of(release(fleet, made)) == (409, "busy")  # until the next report
    assert fleet.api.get("/devices/claims").json[0]["state"] == "active"
    alpha.report()
    assert release(fleet, made).status_code == 204


def test_what_is_partitioned_from_the_hub_is_down_and_comes_back(
    fleet: Fleet, alpha: Agent
) -> None:
    alpha.register(GPU, "l4")
    alpha.report()
    fleet.clock.pass_time(31)
    assert fleet.api.get("/hosts/alpha").json["status"] == "down"
    assert code_of(claim(fleet)) == (409, "no_capacity")
    assert alpha.api.post("/devices/l4/bind").status_code == 200
    alpha.report()
    assert fleet.api.get("/devices/l4").json["bound_to_vfio"] is True
    assert claim(fleet).status_code == 201


def test_many_agents_that_come_back_at_once_are_all_heard(fleet: Fleet) -> None:
    agents = [GeneratedAgent(fleet, f"host{number:03d}", devices=4) for number in range(60)]
    together = threading.Barrier(len(agents))

    def come_back(agent: GeneratedAgent) -> int:
        together.wait()
        return agent.report_all()

    with ThreadPoolExecutor(len(agents)) as pool:
        statuses = list(pool.map(come_back, agents))
    assert set(statuses) == {200}
    assert len(fleet.names()) == 4 * len(agents)


@pytest.fixture
def processes(postgres: Postgres, tmp_path: Path) -> Iterator[LocalFleet]:
    """A hub and an agent, each a process."""
    with local_fleet(postgres, tmp_path, ["alpha"]) as fleet:
        yield fleet


@pytest.mark.testdriver
def test_processes_that_are_killed_come_back(processes: LocalFleet) -> None:
    fleet = processes
    fleet.ask("POST", "/devices", {"pci_address": f"{GPU}@alpha", "name": "l4"})
    fleet.kill("hub")
    fleet.start_hub()
    made = fleet.ask("POST", "/devices/claims", {"type": "gpu"})
    assert made["devices"][0]["name"] == "l4"
    fleet.kill("alpha")
    fleet.start_agent("alpha")
    fleet.wait_for(["alpha"])
    while fleet.ask("GET", "/devices/l4")["bound_to_vfio"]:
        time.sleep(0.05)  # the test driver forgets its drivers; the hub follows
    assert fleet.ask("GET", f"/devices/claims/{made['id']}")["state"] == "active"
    process = fleet.processes.pop("hub")
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 0
