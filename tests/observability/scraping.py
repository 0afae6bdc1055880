"""A service that is scraped as Prometheus does."""

from __future__ import annotations

from falcon.testing import TestClient
from prometheus_client.parser import text_string_to_metric_families

from tests.api.client import bearer
from tests.api.whole_app import whole_app
from tests.world import World

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """A service with its metrics."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.metrics = world.metrics
        self.client = TestClient(whole_app(world))

    def send(self, method: str, path: str, **body: object) -> None:
        self.client.simulate_request(method, path, json=body or None, headers=bearer())

    def text(self) -> str:
        answer = self.client.simulate_get("/metrics", headers=bearer(permissions=["resource:read"]))
        assert answer.status_code == 200
        return answer.text

    def value(self, name: str, **labels: str) -> float | None:
        """Return one sample; None if there is none."""
        return samples(self.text()).get((f"hypeman_libvirt_{name}", frozenset(labels.items())))


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
