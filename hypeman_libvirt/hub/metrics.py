"""What Prometheus reads of a fleet: its hosts, their devices and claims, at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, get_args

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Float, cast, extract, func, select

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.hosts import Hosts
from hypeman_libvirt.hub.listing import IN_UNIT, is_free
from hypeman_libvirt.hub.model import ClaimState, HostStatus
from hypeman_libvirt.hub.schema import claims, devices, hosts, units
from hypeman_libvirt.metrics import PREFIX

_UP: Final = "1 if the hub's database answers."
_STATUS: Final = "1 for the status that a host has: up, down, drained."
_AGE: Final = "Seconds since a host's agent has reported; -1 before its first report."
_DUPLICATE: Final = "1 if another machine has reported as this host since it enrolled."
_PROBLEM: Final = "1 for what hinders a host's agent from reading its host."


class FleetCollector(Collector):
    """Reads the database once for each scrape."""

    def __init__(self, database: Database, fleet: Hosts) -> None:
        """Read here."""
        self._database = database
        self._fleet = fleet

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand, so that registering does not ask the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Report what is, or only that the database does not answer."""
        try:
            metrics = [*self._of_hosts(), *self._of_devices(), self._of_claims()]
        except DeviceError:
            metrics = []
        up = GaugeMetricFamily(f"{PREFIX}_hub_up", _UP)
        up.add_metric((), float(bool(metrics)))
        yield up
        yield from metrics

    def _of_hosts(self) -> Iterator[Metric]:
        age, duplicate = (
            self._age(),
            GaugeMetricFamily(f"{PREFIX}_hub_host_duplicate", _DUPLICATE, labels=("host",)),
        )
        status = GaugeMetricFamily(f"{PREFIX}_hub_host_status", _STATUS, labels=("host", "status"))
        problem = GaugeMetricFamily(
            f"{PREFIX}_hub_host_problem", _PROBLEM, labels=("host", "problem")
        )
        for host in self._fleet.list():
            for each in get_args(HostStatus):
                status.add_metric((host.name, each), float(each == host.status))
            if host.problem is not None:
                problem.add_metric((host.name, host.problem), 1.0)
            duplicate.add_metric((host.name,), float(host.duplicate_at is not None))
        yield from (status, age, problem, duplicate)

    def _age(self) -> Metric:
        seconds = cast(extract("epoch", self._database.now() - hosts.c.seen_at), Float)
        query = select(hosts.c.name, func.coalesce(seconds, -1.0)).where(hosts.c.gone_at.is_(None))
        age = GaugeMetricFamily(f"{PREFIX}_hub_host_report_age_seconds", _AGE, labels=("host",))
        with self._database.read() as connection:
            for name, value in connection.execute(query.order_by(hosts.c.name)):
                age.add_metric((name,), value)
        return age

    def _of_devices(self) -> Iterator[Metric]:
        free = is_free(self._database.now())
        query = (
            select(hosts.c.name, devices.c.type, func.count(), func.count().filter(free))
            .select_from(devices.join(hosts).join(units, IN_UNIT))
            .where(hosts.c.gone_at.is_(None))
            .group_by(hosts.c.name, devices.c.type)
            .order_by(hosts.c.name, devices.c.type)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        yield _by_host("hub_devices", "Registered devices.", rows, 2)
        yield _by_host("hub_devices_free", "Devices that could be claimed.", rows, 3)

    def _of_claims(self) -> Metric:
        with self._database.read() as connection:
            counted = Counter(connection.execute(select(claims.c.state)).scalars())
        family = GaugeMetricFamily(f"{PREFIX}_hub_claims", "Claims.", labels=("state",))
        for state in get_args(ClaimState):
            family.add_metric((state,), counted[state])
        return family


def _by_host(name: str, text: str, rows: Iterable[Sequence[Any]], column: int) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=("host", "type"))
    for row in rows:
        family.add_metric((row[0], row[1]), row[column])
    return family
