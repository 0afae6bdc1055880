"""Every change, and every attempt at one, is in the log: who, what, from which state to which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient
from pydantic import SecretStr

from hypeman_libvirt import Settings
from hypeman_libvirt.bootstrap import build_app, build_service, create_auth, open_world
from tests.api.client import SECRET, bearer
from tests.fake_host import FakeHost
from tests.server.running import LogLines

ON_NVIDIA = {"driver": "nvidia", "attached_to": None}
ON_VFIO = {"driver": "vfio-pci", "attached_to": None}


@pytest.fixture
def client(fake_host: FakeHost, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(
        uri=fake_host.uri, registry=str(tmp_path / "registry.db"), jwt_secret=SecretStr(SECRET)
    )
    world = open_world(settings)
    with closing(build_service(settings, world)) as service:
        yield TestClient(build_app(settings, world, service, create_auth(settings)))


def post(client: TestClient, path: str, **body: object) -> None:
    client.simulate_post(path, json=body, headers=bearer(sub="alice"))


def entries(log_lines: LogLines, event: str) -> list[dict[str, Any]]:
    return [entry for entry in log_lines.entries() if entry["event"] == event]


def test_a_change_says_who_made_it_and_what_was_before(
    client: TestClient, log_lines: LogLines, fake_host: FakeHost
) -> None:
    post(client, "/devices", pci_address="0000:a2:00.0", name="l4-gpu")
    post(client, "/devices/l4-gpu/bind")
    post(client, "/devices/l4-gpu/attach", instance="vm-off")
    client.simulate_delete("/devices/l4-gpu", headers=bearer(sub="bob"))
    post(client, "/devices/l4-gpu/detach")
    client.simulate_delete("/devices/l4-gpu", headers=bearer(sub="bob"))
    held = ON_VFIO | {"attached_to": fake_host.guest("vm-off").uuid}
    expected = [
        ("register", "alice", None, ON_NVIDIA),
        ("bind", "alice", ON_NVIDIA, ON_VFIO),
        ("attach", "alice", ON_VFIO, held),
        ("detach", "alice", held, ON_VFIO),
        ("unregister", "bob", ON_VFIO, None),
    ]
    changes = [entry for entry in log_lines.entries() if "before" in entry]
    found = [(each["event"], each["subject"], each["before"], each["after"]) for each in changes]
    assert found == expected
    assert {each["name"] for each in changes} == {"l4-gpu"}
    assert all(each["request_id"] for each in changes)


def test_an_attempt_that_failed_says_who_tried_what_and_why_not(
    client: TestClient, log_lines: LogLines
) -> None:
    post(client, "/devices", pci_address="0000:41:00.0", name="rtx")
    post(client, "/devices/rtx/bind")
    *_, attempt = entries(log_lines, "request")
    assert (attempt["subject"], attempt["method"]) == ("alice", "POST")
    assert (attempt["path"], attempt["status"]) == ("/devices/rtx/bind", 409)
    assert attempt["code"] == "iommu_group_conflict"
    assert entries(log_lines, "bind") == []


def test_neither_tokens_nor_the_secret_are_in_the_log(
    client: TestClient, log_lines: LogLines
) -> None:
    good, bad = (
        bearer(sub="alice", exp=4_102_444_800),
        {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30.hunter2"},
    )
    for headers in (good, bad):
        client.simulate_get("/devices", headers=headers)
        client.simulate_post("/devices", json={"pci_address": "x"}, headers=headers)
    log = log_lines.getvalue()
    assert len(log.splitlines()) == 4
    for secret in (SECRET, good["Authorization"][7:], "hunter2"):
        assert secret not in log
