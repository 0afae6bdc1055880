"""Many clients on a few devices: as if they had come one after another."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient

from hypeman_libvirt.devices.errors import ConflictError
from hypeman_libvirt.registry import SqlRegistry
from tests.api.client import bearer
from tests.api.whole_app import whole_app
from tests.fake_host import FakeHost
from tests.fake_xml import held
from tests.registry.registrations import L4, nth
from tests.trust.clients import Device, check, drive, run, step
from tests.trust.conftest import Figures
from tests.trust.linear import Call, NoOrderError, find_order
from tests.trust.service import Caller, serving
from tests.world import World, world_on

pytestmark = pytest.mark.trust

CLIENTS, DEVICES = 64, 20
SECONDS = float(os.environ.get("HYPEMAN_LIBVIRT_TRUST_SECONDS", "5"))
DOMAINS = ("vm-a", "vm-b")
ADDRESSES = [f"0000:{0x90 + number:02x}:00.0" for number in range(DEVICES)]
DOMAIN = """
<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
  <name>{name}</name><uuid>{id}</uuid><memory>1024</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <test:runstate>5</test:runstate>
</domain>
"""
COMPUTER = """
<device>
  <name>computer</name>
  <capability type='system'>
    <product>host</product>
    <hardware><vendor>v</vendor><version>1</version><serial>1</serial>
      <uuid>9c1d2e3f-5a6b-4c7d-8e9f-0a1b2c3d4e5f</uuid></hardware>
    <firmware><vendor>v</vendor><version>1</version><release_date>01/01/2024</release_date></firmware>
  </capability>
</device>
"""
NODE_DEVICE = """
<device>
  <name>pci_0000_{bus:02x}_00_0</name><parent>computer</parent>
  <driver><name>nvidia</name></driver>
  <capability type='pci'>
    <class>0x030200</class><domain>0</domain><bus>{bus}</bus><slot>0</slot><function>0</function>
    <product id='0x27b8'/><vendor id='0x10de'/>
    <iommuGroup number='{bus}'>
      <address domain='0x0000' bus='0x{bus:02x}' slot='0x00' function='0x0'/>
    </iommuGroup>
  </capability>
</device>
"""


def call(what: str, began: float, ended: float, answer: Hashable) -> Call:
    return Call(what, began, ended, answer)


@pytest.mark.parametrize(
    "history",
    [
        [call("register", 0, 1, 201), call("see", 2, 3, "not_found")],
        [call("register", 0, 1, 201), call("register", 2, 3, 201)],
        [
            call("register", 0, 1, 201),
            call("attach vm-a", 2, 5, 200),
            call("attach vm-b", 3, 6, 200),
            call("see", 7, 8, ("holder", "vm-a")),
        ],
        [call("register", 0, 1, 201), call("see", 2, 3, ("bound", True)), call("bind", 4, 5, 200)],
    ],
    ids=["lost", "twice", "two holders", "from the future"],
)
def test_the_checker_finds_what_cannot_have_been(history: list[Call]) -> None:
    with pytest.raises(NoOrderError, match="what came next was one of"):
        find_order(history, Device(), step)


def test_the_checker_finds_an_order_where_there_is_one() -> None:
    history = [
        call("see", 0, 10, ("bound", True)),
        call("bind", 3, 9, 200),
        call("register", 1, 4, 201),
    ]
    order = find_order(history, Device(), step)
    assert [each.what for each in order] == ["register", "bind", "see"]


def drive_app(app: Any, domains: dict[str, str], figures: Figures) -> Counter[Hashable]:  # noqa: ANN401
    """Let clients do anything to an app."""

    def ask(method: str, path: str, body: object) -> tuple[int, Any]:
        answer = TestClient(app).simulate_request(method, path, json=body, headers=bearer())
        return answer.status_code, answer.json if answer.content else None

    answers = drive([ask] * CLIENTS, ADDRESSES, domains, SECONDS)
    assert not answers["libvirt_error"]
    figures(
        "concurrency: clients, devices, operations, not linearizable",
        f"{CLIENTS}, {DEVICES}, {answers.total()}, 0",
    )
    return answers


def test_many_clients_on_a_few_devices(world: World, fake_host: FakeHost, figures: Figures) -> None:
    for number, address in enumerate(ADDRESSES):
        fake_host.add_pci(address, product="27b8", driver="nvidia", group=100 + number)
    domains = {fake_host.add_domain(name, root_ports=24).uuid: name for name in DOMAINS}
    answers = drive_app(whole_app(world), domains, figures)
    definitions = [held(fake_host.guest(name).config) for name in DOMAINS]
    assert not definitions[0] & definitions[1]
    assert {fake_host.driver(each) for each in ADDRESSES} <= {"nvidia", "vfio-pci"}
    assert answers[201] > DEVICES


@pytest.mark.testdriver
def test_many_clients_on_libvirts_test_driver(tmp_path: Path, figures: Figures) -> None:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415 - the level is chosen

    ids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(len(DOMAINS))]
    file = tmp_path / "host.xml"
    file.write_text(
        "<node>"
        + "".join(DOMAIN.format(name=name, id=id_) for name, id_ in zip(DOMAINS, ids, strict=True))
        + COMPUTER
        + "".join(NODE_DEVICE.format(bus=0x90 + number) for number in range(DEVICES))
        + "</node>"
    )
    host = open_host(f"test://{file}")
    with closing(host), world_on(host, tmp_path) as world:
        answers = drive_app(whole_app(world), dict(zip(ids, DOMAINS, strict=True)), figures)
    assert answers[201] > DEVICES


def test_two_services_on_one_registry(
    fake_host: FakeHost, tmp_path: Path, figures: Figures
) -> None:
    """Both processes serve all clients: as if there were one registry, which there is."""
    del fake_host  # each process has its own
    with serving(tmp_path) as one, serving(tmp_path) as other:
        clients = [Registrar(service.port, seed) for seed in range(8) for service in (one, other)]
        until = time.monotonic() + SECONDS
        run([threading.Thread(target=each.work, args=(until,)) for each in clients])
    answers = check(client.history for client in clients)
    assert answers[201] > DEVICES
    assert answers["conflict"]
    figures(
        "concurrency: services on one registry, operations, not linearizable",
        f"2, {answers.total()}, 0",
    )


class Registrar:
    """A client of one of the services, which registers, looks and unregisters."""

    def __init__(self, port: int, seed: int) -> None:
        self._http = Caller(port)
        self._random = random.Random(f"{port} {seed}")  # noqa: S311 - what to do next
        self.history: dict[str, list[Call]] = {}

    def work(self, until: float) -> None:
        while time.monotonic() < until:
            address = self._random.choice(ADDRESSES)
            what = self._random.choice(["register", "see", "delete"])
            began = time.monotonic()
            answer = self._ask(what, address)
            noted = Call(what, began, time.monotonic(), answer)
            self.history.setdefault(address, []).append(noted)
        self._http.close()

    def _ask(self, what: str, address: str) -> Hashable:
        path = f"/devices/{address}"
        if what == "register":
            status, answer = self._http.ask("POST", "/devices", {"pci_address": address})
        else:
            status, answer = self._http.ask("GET" if what == "see" else "DELETE", path)
        if status >= 300:
            return str(json.loads(answer)["code"])
        return ("registered", True) if what == "see" else status


def test_rivals_that_open_one_registry_each(tmp_path: Path, figures: Figures) -> None:
    """What they were told adds up; tests/registry has the same with processes that are killed."""
    registries = [SqlRegistry(tmp_path / "registry.db") for _ in range(8)]
    added: Counter[str] = Counter()
    refused: Counter[str] = Counter()

    def work(number: int) -> None:
        registry = registries[number]
        for turn in range(40):
            mine = replace(nth(turn), id=f"id-{number}-{turn}")
            try:
                registry.add(mine)
            except ConflictError:
                refused[mine.name] += 1
            else:
                added[mine.name] += 1

    with ThreadPoolExecutor(len(registries)) as pool:
        list(pool.map(work, range(len(registries))))
    kept = [each.name for each in registries[0].list_registrations(L4.host, {})]
    assert sorted(kept) == sorted(added)
    assert set(added.values()) == {1}
    assert set(refused.values()) == {len(registries) - 1}
    figures("concurrency: registrations by rivals, lost, double", f"{len(kept)}, 0, 0")
    for registry in registries:
        registry.close()
