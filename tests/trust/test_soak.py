"""Mixed load for minutes: memory, threads, files and the registry stay as they are.

``HYPEMAN_LIBVIRT_SOAK_MINUTES`` says for how long; two by default.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.trust.conftest import Figures
from tests.trust.service import Caller, Process, serving

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("fake_host")]  # it serves on the fake

MINUTES: Final = float(os.environ.get("HYPEMAN_LIBVIRT_SOAK_MINUTES", "2"))
CLIENTS: Final = 8
SAMPLES: Final = 60
MOST_KIB: Final = 6 * 1024
"""SQLite empties its write-ahead log into the database when it has 1000 pages, 4 MiB."""
WARM: Final = 0.4
"""Part of the run after which figures count: caches have filled by then."""


class Client:
    """Asks for anything, in turn, until it is told to stop."""

    def __init__(self, port: int, seed: int, stop: threading.Event) -> None:
        self._http = Caller(port)
        self._random = random.Random(seed)  # noqa: S311 - what to do next
        self._stop = stop
        self.answers = 0
        self.errors = 0

    def work(self) -> None:
        with closing(self._http):
            while not self._stop.is_set():
                status, _ = self._http.ask(*self._choose())
                self.answers += 1
                self.errors += status >= 500

    def _choose(self) -> tuple[str, str, dict[str, str] | None]:
        number = self._random.randrange(20)
        address = f"0000:{0x90 + number:02x}:00.0"
        return self._random.choice(
            [
                ("POST", "/devices", {"pci_address": address, "name": f"gpu-{number}"}),
                ("GET", f"/devices/{address}", None),
                ("GET", "/devices", None),
                ("GET", "/devices/available", None),
                ("GET", "/iommu-groups", None),
                ("GET", f"/devices/{address}/preflight", None),
                ("GET", "/metrics", None),
                ("GET", f"/no/{self._random.random()}", None),
                ("POST", f"/devices/{address}/bind", {}),
                ("POST", f"/devices/{address}/unbind", {}),
                ("POST", f"/devices/{address}/attach", {"instance": "vm-off"}),
                ("POST", f"/devices/{address}/detach", {}),
                ("DELETE", f"/devices/{address}", None),
            ]
        )


def growth(samples: list[float]) -> float:
    """Return how much a figure grew over the samples, by the line through them."""
    slope, _ = statistics.linear_regression(range(len(samples)), samples)
    return slope * len(samples)


def test_under_mixed_load_everything_stays_as_it_is(tmp_path: Path, figures: Figures) -> None:
    with serving(tmp_path) as service:
        clients, samples = _load(service, tmp_path / "registry.db")
    answers = sum(client.answers for client in clients)
    errors = sum(client.errors for client in clients)
    figures("soak: minutes, answers, answers of 5xx", f"{MINUTES:g}, {answers}, {errors}")
    for name, values in samples.items():
        kept = values[int(len(values) * WARM) :]
        figures(f"soak: {name}", f"{kept[0]:.0f} to {kept[-1]:.0f}, grew {growth(kept):.1f}")
    warm = {name: values[int(len(values) * WARM) :] for name, values in samples.items()}
    assert errors == 0
    assert growth(warm["memory, MiB"]) < 0.1 * warm["memory, MiB"][0]
    assert abs(growth(warm["threads"])) < 4
    assert abs(growth(warm["open files"])) < 8
    assert max(warm["registry, KiB"]) < MOST_KIB


def _load(service: Process, registry: Path) -> tuple[list[Client], dict[str, list[float]]]:
    stop = threading.Event()
    clients = [Client(service.port, seed, stop) for seed in range(CLIENTS)]
    threads = [threading.Thread(target=each.work) for each in clients]
    for thread in threads:
        thread.start()
    read: dict[str, Callable[[], float]] = {
        "memory, MiB": lambda: service.memory / 2**20,
        "threads": lambda: service.threads,
        "open files": lambda: service.files,
        "registry, KiB": lambda: (
            sum(each.stat().st_size for each in registry.parent.glob("registry.db*")) / 2**10
        ),
    }
    samples: dict[str, list[float]] = {name: [] for name in read}
    for _ in range(SAMPLES):
        time.sleep(MINUTES * 60 / SAMPLES)
        for name, ask in read.items():
            samples[name].append(ask())
    stop.set()
    for thread in threads:
        thread.join()
    return clients, samples
