"""A hub on a PostgreSQL with very many hosts, against what PostgreSQL alone takes for the same.

Hosts are generated: 16 GPUs each. Nothing is synced to disk, on both sides of each ratio.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import jwt
from falcon.testing import TestClient
from hypeman_fleet.postgres import Postgres, running_postgres
from pydantic import SecretStr
from sqlalchemy import insert

from hypeman_bench.load import percentile
from hypeman_libvirt.hub.bootstrap import HubWorld, build_hub, build_hub_app
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.model import ClaimSpec
from hypeman_libvirt.hub.protocol import Report
from hypeman_libvirt.hub.schema import devices, hosts, units
from hypeman_libvirt.hub.service import Hub
from hypeman_libvirt.hub.settings import HubSettings
from hypeman_libvirt.rest.auth import BearerAuth
from hypeman_libvirt.rest.limits import Limits

_SECRET: Final = "the secret of a fleet that is measured, and of nothing else whatever"  # noqa: S105
_DEVICES: Final = 16
_PAGE: Final = 100
_FREE: Final = """
SELECT d.body, h.name, h.seen_at FROM devices d JOIN hosts h ON h.key = d.host
JOIN units u ON u.host = d.host AND u.iommu_group = d.iommu_group
WHERE h.gone_at IS NULL AND d.type = 'gpu' AND d.is_fit AND u.claim IS NULL
AND d.attached_to IS NULL AND h.drained_at IS NULL AND h.problem IS NULL
ORDER BY h.name, d.created_at, d.id LIMIT 100"""
_LOCK: Final = (
    "SELECT host, iommu_group FROM units WHERE claim IS NULL LIMIT 1 FOR UPDATE SKIP LOCKED"
)
_TAKE: Final = "UPDATE units SET claim = NULL WHERE host = %s AND iommu_group = %s"


@dataclass(frozen=True)
class Figures:
    """What a fleet of one size takes; milliseconds are those of this machine.

    Attributes:
        hosts: How many, with 16 GPUs each.
        page: p99 of 100 free GPUs over the hub's app, as a multiple of the bare query's.
        page_ms: The same, in milliseconds.
        claims: Claims and releases a second, as a part of bare row locks.
        heartbeat_ms: Median of a report without changes, until it is committed.
        claim_ms: Median of a claim and its release, without agents.
    """

    hosts: int
    page: float
    page_ms: float
    claims: float
    heartbeat_ms: float
    claim_ms: float


def run(sizes: tuple[int, ...], seconds: float) -> str:
    """Measure fleets of these sizes; return a table in Markdown."""
    head = (
        "| hosts | 100 free GPUs, p99 against bare SQL | p99 | claims against bare row locks "
        "| claim and release | heartbeat |\n|---|---|---|---|---|---|"
    )
    with running_postgres() as postgres:
        rows = [measure(postgres, size, seconds) for size in sizes]
    return "\n".join([head, *map(_row, rows)])


def measure(postgres: Postgres, size: int, seconds: float) -> Figures:
    """Measure a fleet of so many hosts."""
    with _fleet(postgres, size) as (hub, client):
        token = jwt.encode({"sub": "bench"}, _SECRET, algorithm="HS256")
        headers = {"Authorization": f"Bearer {token}"}
        query = f"free=true&type=gpu&limit={_PAGE}"
        with hub.database.engine.connect() as bare:
            page, alone = _alternate(
                lambda: client.simulate_get("/devices", query_string=query, headers=headers),
                lambda: bare.exec_driver_sql(_FREE).all(),
                seconds,
            )
        claim, lock = _alternate(lambda: _claim(hub), lambda: _lock(hub), seconds)
        beats, _ = _alternate(_heartbeat(hub), lambda: None, seconds)
    return Figures(
        size,
        percentile(page, 99) / percentile(alone, 99),
        1000 * percentile(page, 99),
        percentile(lock, 50) / percentile(claim, 50),
        1000 * percentile(beats, 50),
        1000 * percentile(claim, 50),
    )


def _row(each: Figures) -> str:
    return (
        f"| {each.hosts} | {each.page:.2f} x | {each.page_ms:.1f} ms | {each.claims:.2f} x "
        f"| {each.claim_ms:.1f} ms | {each.heartbeat_ms:.1f} ms |"
    )


def _alternate(
    one: Callable[[], object], other: Callable[[], object], seconds: float
) -> tuple[list[float], list[float]]:
    """Time two things by turns; return the seconds of each call."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for action, taken in zip((one, other), times, strict=True):
            began = time.perf_counter()
            action()
            taken.append(time.perf_counter() - began)
    return times


def _claim(hub: Hub) -> None:
    claim = hub.claiming.reserve(ClaimSpec(1, type="gpu"), subject="bench")
    hub.claims.activate(claim.id)
    hub.claims.finish(claim.id)


def _lock(hub: Hub) -> None:
    """Take and give back one row, in as many commits as a claim has."""
    for _ in range(3):
        with hub.database.engine.begin() as connection:
            row = connection.exec_driver_sql(_LOCK).one()
            connection.exec_driver_sql(_TAKE, (row.host, row.iommu_group))


def _heartbeat(hub: Hub) -> Callable[[], None]:
    host, numbers = hub.hosts.get("host0"), count(2)

    def beat() -> None:
        report = Report(
            host=host.key,
            epoch="bench",
            sequence=next(numbers),
            sent_at=time.time(),
            version="0",
            url=host.url,
        )
        hub.reports.receive(hub.hosts.authenticate("key of host0"), report)

    return beat


@contextmanager
def _fleet(postgres: Postgres, size: int) -> Iterator[tuple[Hub, TestClient]]:
    url = postgres.create_database()
    settings = HubSettings(database=url, jwt_secret=SecretStr(_SECRET))
    world = HubWorld(database=Database(url))
    with closing(build_hub(settings, world)) as hub:
        _fill(hub.database, size)
        limits = Limits(reads=8, changes=8, followers=8)
        yield hub, TestClient(build_hub_app(settings, world, hub, BearerAuth(_SECRET), limits))
    postgres.drop_database(url)


def _fill(database: Database, size: int) -> None:
    names = [f"host{number}" for number in range(size)]
    with database.write() as connection:
        connection.execute(insert(hosts), [_host(name) for name in names])
        connection.execute(
            insert(units),
            [{"host": name, "iommu_group": n} for name in names for n in range(_DEVICES)],
        )
        connection.execute(
            insert(devices), [_device(name, n) for name in names for n in range(_DEVICES)]
        )
        connection.exec_driver_sql("UPDATE hosts SET seen_at = now() + interval '1 hour'")
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE")


def _host(name: str) -> dict[str, Any]:
    from hypeman_libvirt.hub.tokens import hash_key  # noqa: PLC0415

    return {
        "key": name,
        "name": name,
        "url": "http://127.0.0.1:9",
        "agent_key_hash": hash_key(f"key of {name}"),
        "salt": "x",
        "version": "0",
        "enrolled_at": "2025-01-15T10:00:00Z",
        "epoch": "bench",
        "sequence": 1,
    }


def _device(host: str, number: int) -> dict[str, Any]:
    address = f"0000:{number + 16:02x}:00.0"
    body = {
        "id": f"{host}x{number}",
        "bound_to_vfio": False,
        "created_at": "2025-01-15T10:00:00Z",
        "device_id": "2330",
        "iommu_group": number,
        "pci_address": address,
        "type": "gpu",
        "vendor_id": "10de",
        "attached_to": None,
        "name": f"gpu{number}",
        "state": "present",
        "topology": f"pci0000:00/{number:02x}.0/00.0",
        "health": {"status": "ok"},
    }
    columns = ("id", "name", "pci_address", "type", "vendor_id", "device_id", "iommu_group")
    return {
        **{name: body[name] for name in columns},
        "host": host,
        "device": address,
        "tags": {},
        "numa_node": number // 8,
        "attached_to": None,
        "is_fit": True,
        "created_at": "2025-01-15T10:00:00Z",
        "body": json.dumps(body),
    }
