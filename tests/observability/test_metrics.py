"""What Prometheus is told is true and small."""

from __future__ import annotations

from falcon.testing import TestClient

from hypeman_libvirt.metrics import Metrics
from tests.api.client import bearer
from tests.api.whole_app import whole_app
from tests.fake_host import FakeHost
from tests.observability.scraping import Scraped

STATUSES = ("viable", "needs_bind", "never")


def test_requests_are_counted_by_route_and_status(scraped: Scraped) -> None:
    scraped.send("POST", "/devices", pci_address="0000:a2:00.0", name="l4-gpu")
    scraped.send("GET", "/devices/l4-gpu")
    scraped.send("GET", "/devices/0000:a2:00.0")
    scraped.send("GET", "/devices/nobody")
    count = "http_request_duration_seconds_count"
    route = "/devices/{reference}"
    assert scraped.value(count, method="POST", route="/devices", status="201") == 1
    assert scraped.value(count, method="GET", route=route, status="200") == 2
    assert scraped.value(count, method="GET", route=route, status="404") == 1


def test_what_clients_make_up_makes_no_series(scraped: Scraped) -> None:
    for number in range(5):
        scraped.send("GET", f"/nothing/{number}")
        scraped.metrics.observe_request(f"BREW{number}", None, 400, 0.1)
    text = scraped.text()
    assert "nothing" not in text
    assert "BREW" not in text


def test_operations_are_timed_by_their_outcome(scraped: Scraped) -> None:
    scraped.send("POST", "/devices", pci_address="0000:a2:00.0", name="l4-gpu")
    scraped.send("POST", "/devices/l4-gpu/bind")
    scraped.send("POST", "/devices/l4-gpu/detach")
    count = "operation_duration_seconds_count"
    assert scraped.value(count, operation="bind", outcome="success") == 1
    assert scraped.value(count, operation="detach", outcome="failure") == 1


def test_devices_are_counted_by_what_they_are(scraped: Scraped, fake_host: FakeHost) -> None:
    scraped.send("POST", "/devices", pci_address="0000:a2:00.0", name="l4-gpu", bind="device")
    scraped.send("POST", "/devices", pci_address="0000:3b:00.0", name="nic")
    gone = {"type": "pci", "state": "missing", "driver": "none", "attached": "false"}
    here = {"type": "gpu", "state": "present", "driver": "vfio", "attached": "false"}
    assert scraped.value("devices", **here) == 1
    fake_host.vanish("0000:3b:00.0")
    assert scraped.value("devices", **gone) == 1
    groups = {each: scraped.value("iommu_groups", status=each) for each in STATUSES}
    assert groups == {"viable": 1, "needs_bind": 1, "never": 1}


def test_calls_to_libvirt_are_timed_and_their_errors_counted(scraped: Scraped) -> None:
    scraped.metrics.observe_call("detachFlags", 0.5, None)
    scraped.metrics.observe_call("detachFlags", 0.5, 55)
    assert scraped.value("libvirt_call_duration_seconds_sum", call="detachFlags") == 1.0
    assert scraped.value("libvirt_call_errors_total", call="detachFlags", code="55") == 1


def test_a_libvirt_that_is_down_is_said_and_not_an_error(
    scraped: Scraped, fake_host: FakeHost
) -> None:
    assert scraped.value("up", reason="") == 1
    fake_host.down()
    scraped.world.losses = 3
    assert scraped.value("up", reason="libvirt_unavailable") == 0
    assert scraped.value("libvirt_connections_lost_total") == 3
    assert scraped.value("build_info", version="0.0.0") == 1


def test_lines_of_the_log_that_were_dropped_are_counted(scraped: Scraped) -> None:
    scraped.metrics.watch_log(lambda: 7)
    assert scraped.value("log_lines_dropped_total") == 7


def test_a_scrape_needs_its_own_permission_or_none_if_it_is_open(scraped: Scraped) -> None:
    client = TestClient(whole_app(scraped.world))
    assert client.simulate_get("/metrics").status_code == 401
    only_devices = bearer(permissions=["device:read"])
    assert client.simulate_get("/metrics", headers=only_devices).status_code == 403
    anyone = TestClient(whole_app(scraped.world, metrics="open"))
    assert anyone.simulate_get("/metrics").status_code == 200


def test_two_apps_in_one_process_count_for_themselves() -> None:
    one, other = Metrics("1"), Metrics("1")
    one.observe_request("GET", "/devices", 200, 0.1)
    assert b'route="/devices"' in one.render()
    assert b'route="/devices"' not in other.render()


def test_whether_libvirt_announces_changes_is_told(scraped: Scraped, fake_host: FakeHost) -> None:
    fake_host.refuse("nodeDeviceEventRegisterAny", 88)
    assert scraped.value("libvirt_events_announced", of="domain") == 1
    assert scraped.value("libvirt_events_announced", of="node_device") == 0
