"""Metrics for Prometheus: each request and call to libvirt as it happens, the host when scraped.

Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.model import Device, GroupStatus
from hypeman_libvirt.devices.service import DeviceService

PREFIX: Final = "hypeman_libvirt"
_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_CHANGES: Final = frozenset({"bind", "unbind", "attach", "detach"})


class Metrics:
    """Every metric of one app; nothing is shared with other apps of the process."""

    def __init__(self, version: str) -> None:
        """Begin with all at zero, and say which version it is."""
        self._version = version
        self._registry = CollectorRegistry()
        self._collectors: list[Collector] = []
        self._requests = Histogram(
            f"{PREFIX}_http_request_duration_seconds",
            "Time from a request to the end of its answer.",
            ("method", "route", "status"),
            buckets=_QUICK,
            registry=self._registry,
        )
        self._calls = Histogram(
            f"{PREFIX}_libvirt_call_duration_seconds",
            "Time of a call to libvirt.",
            ("call",),
            buckets=_QUICK,
            registry=self._registry,
        )
        self._errors = Counter(
            f"{PREFIX}_libvirt_call_errors_total",
            "Calls to libvirt that failed, by libvirt's error code.",
            ("call", "code"),
            registry=self._registry,
        )
        self._operations = Histogram(
            f"{PREFIX}_operation_duration_seconds",
            "Time of bind, unbind, attach and detach as clients await them.",
            ("operation", "outcome"),
            buckets=_SLOW,
            registry=self._registry,
        )

    def observe_call(self, call: str, seconds: float, code: int | None) -> None:
        """Count a call to libvirt; the signature is that of ``host.connection.Observe``."""
        self._calls.labels(call).observe(seconds)
        if code is not None:
            self._errors.labels(call, code).inc()

    def observe_request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: Of HTTP; unknown ones are counted together.
            route: Template of the path; None for a path that there is not.
            status: Of the answer.
            seconds: Until the answer had been sent.
        """
        known = method if route is not None else "other"
        self._requests.labels(known, route or "none", status).observe(seconds)
        operation = operation_of(route)
        if operation is not None:
            outcome = "success" if is_success(status) else "failure"
            self._operations.labels(operation, outcome).observe(seconds)

    def watch(
        self,
        service: DeviceService,
        count_losses: Callable[[], int],
        announced: Callable[[], Mapping[str, bool]],
    ) -> None:
        """Report on this service's host at each scrape.

        Args:
            service: Whose devices.
            count_losses: Connections to libvirt that were lost so far.
            announced: Whether libvirt announces changes, by what changes.
        """
        self.add(_HostCollector(service, count_losses, announced, self._version))

    def add(self, collector: Collector) -> None:
        """Ask this too at each scrape."""
        self._collectors.append(collector)
        self._registry.register(collector)

    def watch_log(self, count_dropped: Callable[[], int]) -> None:
        """Report how many lines of the log were dropped so far."""
        self.add(_LogCollector(count_dropped))

    def render(self) -> bytes:
        """Return everything in Prometheus' text format.

        With several workers, what each counts is added up where they all write it.

        Source: https://prometheus.github.io/client_python/multiprocess/
        """
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        added_up = CollectorRegistry()
        MultiProcessCollector(added_up)  # type: ignore[no-untyped-call]
        for each in self._collectors:
            added_up.register(each)
        return generate_latest(added_up)


def operation_of(route: str | None) -> str | None:
    """Return which change a request asks for, by the template of its path; None for all others."""
    operation = (route or "").rpartition("/")[2]
    return operation if operation in _CHANGES else None


def is_success(status: int) -> bool:
    """Whether an answer of this status says that all went well."""
    return status < 400  # noqa: PLR2004 - HTTP's own


class _LogCollector(Collector):
    """Asks the log at each scrape."""

    def __init__(self, count_dropped: Callable[[], int]) -> None:
        self._count_dropped = count_dropped

    def collect(self) -> Iterator[Metric]:
        """Report what was dropped."""
        yield CounterMetricFamily(
            f"{PREFIX}_log_lines_dropped",
            "Lines of the log that were dropped, because whoever reads it is too slow.",
            self._count_dropped(),
        )


class _HostCollector(Collector):
    """Reads the host once for each scrape."""

    def __init__(
        self,
        service: DeviceService,
        count_losses: Callable[[], int],
        announced: Callable[[], Mapping[str, bool]],
        version: str,
    ) -> None:
        self._service = service
        self._count_losses = count_losses
        self._announced = announced
        self._version = version

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand, so that registering does not ask libvirt."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Report what is, or only that libvirt or the registry do not answer."""
        yield _gauge("build_info", "1, labelled by version.", {(self._version,): 1}, ("version",))
        yield _gauge(
            "event_listeners",
            "Clients that follow events.",
            {(): self._service.event_feed.listeners},
        )
        yield CounterMetricFamily(
            f"{PREFIX}_libvirt_connections_lost",
            "Connections to libvirt that were lost; each is opened again.",
            self._count_losses(),
        )
        try:
            self._service.ping()
            of_host = list(self._read_host())
        except DeviceError as error:
            of_host = [_gauge("up", _UP, {(error.code,): 0}, ("reason",))]
        yield from of_host
        announced: dict[tuple[str, ...], int] = {
            (what.replace(" ", "_"),): int(each) for what, each in self._announced().items()
        }
        yield _gauge("libvirt_events_announced", _ANNOUNCED, announced, ("of",))

    def _read_host(self) -> Iterator[Metric]:
        yield _gauge("up", _UP, {("",): 1}, ("reason",))
        yield _gauge("boot_rules_unmet", _UNMET, {(): len(self._service.reconciler.unmet)})
        devices = self._service.inventory.list_devices({})
        kinds: Tally[tuple[str, ...]] = Tally(map(_kind, devices))
        yield _gauge(
            "devices", "Registered devices.", kinds, ("type", "state", "driver", "attached")
        )
        available = self._service.inventory.list_available()
        yield _gauge(
            "devices_quarantined",
            "Devices that are offered to nobody until they are cleared, registered or not.",
            {(): sum(each.quarantine is not None for each in available)},
        )
        groups = self._service.inventory.list_groups()
        tally = Tally(group.status for group in groups)
        statuses = get_args(GroupStatus)
        counts: dict[tuple[str, ...], int] = {(each,): tally[each] for each in statuses}
        yield _gauge("iommu_groups", _GROUPS, counts, ("status",))


_ANNOUNCED: Final = "1 if libvirt announces changes; while 0, each answer asks it anew."
_GROUPS: Final = (
    "IOMMU groups: viable for a guest now, or needs_bind first, which is normal, or never."
)
_UNMET: Final = "Boot rules that did not hold when the service or libvirt was started last."
_UP: Final = "1 if libvirt and the registry answer, else 0 with the error's code as reason."


def _kind(device: Device) -> tuple[str, ...]:
    """Return type, state, whose driver is bound, and whether a domain holds it."""
    hardware = device.node or device.registration
    driver = "none"
    if device.node is not None and device.node.driver is not None:
        driver = "vfio" if rules.is_on_vfio(device.node) else "host"
    return (
        rules.class_type(hardware.class_code),
        rules.device_state(device),
        driver,
        "true" if device.assignment else "false",
    )


def _gauge(
    name: str,
    text: str,
    values: Mapping[tuple[str, ...], int],
    labels: tuple[str, ...] = (),
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for names, value in sorted(values.items()):
        family.add_metric(names, value)
    return family
