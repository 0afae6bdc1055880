from __future__ import annotations

import logging
import threading

import libvirt
import pytest

from hypeman_libvirt.devices.errors import (
    DeviceError,
    LibvirtDeniedError,
    LibvirtFailedError,
    LibvirtUnavailableError,
    NotSupportedError,
    VfioUnavailableError,
)
from hypeman_libvirt.host.connection import Connection
from tests.fake_host import FakeHost

A_WHILE = 300.0


class StoppedClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(connection: Connection) -> str:
    return connection.read("getCapabilities", lambda c: c.getCapabilities())


def test_nothing_is_opened_before_it_is_needed(fake_host: FakeHost) -> None:
    connection = Connection(fake_host.uri)
    assert fake_host.calls["open"] == 0
    assert fake_host.uuid in ask(connection)
    assert ask(connection)
    assert fake_host.calls["open"] == 1
    connection.close()
    assert fake_host.open_connections == 0


@pytest.mark.parametrize("unnoticed", [False, True])
def test_a_read_survives_a_lost_connection(fake_host: FakeHost, unnoticed: bool) -> None:
    connection = Connection(fake_host.uri)
    ask(connection)
    fake_host.drop_connections(unnoticed=unnoticed)
    assert fake_host.uuid in ask(connection)
    assert fake_host.open_connections == 1


def test_a_read_is_retried_once_and_not_for_ever(fake_host: FakeHost) -> None:
    connection = Connection(fake_host.uri)
    fake_host.refuse("getCapabilities", 38, 7)
    with pytest.raises(LibvirtUnavailableError):
        ask(connection)
    assert fake_host.calls["getCapabilities"] == 2


def test_a_read_that_fails_without_a_cause_is_asked_once_more(fake_host: FakeHost) -> None:
    connection = Connection(fake_host.uri)
    fake_host.refuse("getCapabilities", 1, 0, times=1)
    assert fake_host.uuid in ask(connection)
    assert fake_host.calls["open"] == 1
    fake_host.refuse("getCapabilities", 1, 0)
    with pytest.raises(LibvirtFailedError):
        ask(connection)
    assert fake_host.calls["getCapabilities"] == 4


@pytest.mark.parametrize(("code", "domain"), [(38, 7), (1, 0)])
def test_a_write_is_never_repeated(fake_host: FakeHost, code: int, domain: int) -> None:
    connection = Connection(fake_host.uri)
    ask(connection)
    fake_host.refuse("defineXML", code, domain, times=1)
    with pytest.raises((LibvirtUnavailableError, LibvirtFailedError)):
        connection.write("defineXML", lambda c: c.defineXML("<domain><name>x</name></domain>"))
    assert fake_host.calls["defineXML"] == 1
    assert ask(connection)


def test_while_libvirt_is_down_requests_fail_at_once_and_only_one_asks(
    fake_host: FakeHost,
) -> None:
    clock = StoppedClock()
    connection = Connection(fake_host.uri, monotonic=clock)
    ask(connection)
    fake_host.down()
    for _ in range(5):
        with pytest.raises(LibvirtUnavailableError) as caught:
            ask(connection)
        assert caught.value.retry_after
    assert fake_host.calls["open"] == 2
    fake_host.up()
    clock.now += 1.0
    assert ask(connection)


def test_many_threads_open_one_connection(fake_host: FakeHost) -> None:
    connection = Connection(fake_host.uri)
    threads = [threading.Thread(target=ask, args=[connection]) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(A_WHILE)
    assert fake_host.calls["open"] == 1
    assert fake_host.calls["getCapabilities"] == 16


def test_many_threads_open_one_connection_again(fake_host: FakeHost) -> None:
    connection = Connection(fake_host.uri)
    ask(connection)
    fake_host.drop_connections(unnoticed=True)
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(connection))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(A_WHILE)
    assert len(answers) == 16
    assert fake_host.open_connections == 1


def test_a_request_does_not_wait_for_ever_while_another_opens(fake_host: FakeHost) -> None:
    connection = Connection(fake_host.uri)
    with fake_host.hang("open") as hang:
        first = threading.Thread(target=ask, args=[connection])
        first.start()
        assert hang.entered.wait(A_WHILE)
        with pytest.raises(LibvirtUnavailableError):
            ask(connection)
    first.join(A_WHILE)
    assert ask(connection)


def test_events_wake_before_and_after_a_lost_connection(fake_host: FakeHost) -> None:
    woken = threading.Event()
    connection = Connection(fake_host.uri)
    connection.subscribe(lambda _: woken.set())
    ask(connection)
    assert woken.wait(A_WHILE)
    woken.clear()
    fake_host.virsh_start("vm-off")
    assert woken.wait(A_WHILE)
    fake_host.drop_connections()
    ask(connection)
    settle(fake_host, connection)
    woken.clear()
    fake_host.virsh_destroy("vm-off")
    assert woken.wait(A_WHILE)


def settle(fake_host: FakeHost, connection: Connection) -> None:
    """Wait until the event loop is through with what happened so far."""
    done = threading.Event()
    connection.read(
        "nodeDeviceEventRegisterAny",
        lambda c: c.nodeDeviceEventRegisterAny(None, 0, lambda *_: done.set(), None),
    )
    fake_host.add_pci("0000:77:00.0")
    assert done.wait(A_WHILE)


def test_a_driver_without_events_and_keepalive_is_served(fake_host: FakeHost) -> None:
    for call in ("setKeepAlive", "registerCloseCallback", "nodeDeviceEventRegisterAny"):
        fake_host.refuse(call, libvirt.VIR_ERR_NO_SUPPORT)
    connection = Connection(fake_host.uri)
    connection.subscribe(lambda _: None)
    assert ask(connection)


def test_a_connection_without_its_rights_is_not_used(fake_host: FakeHost) -> None:
    fake_host.refuse("open", 45)
    connection = Connection(fake_host.uri)
    with pytest.raises(LibvirtDeniedError):
        ask(connection)


@pytest.mark.parametrize(
    ("code", "domain", "kind"),
    [
        (3, 0, NotSupportedError),
        (84, 0, NotSupportedError),
        (6, 20, LibvirtUnavailableError),
        (38, 7, LibvirtUnavailableError),
        (1, 7, LibvirtUnavailableError),
        (38, 22, LibvirtFailedError),
        (1, 10, LibvirtFailedError),
        (29, 0, LibvirtDeniedError),
        (88, 55, LibvirtDeniedError),
        (94, 46, LibvirtDeniedError),
        (67, 10, VfioUnavailableError),
        (74, 22, VfioUnavailableError),
        (39, 7, LibvirtFailedError),
        (12345, 0, LibvirtFailedError),
    ],
)
def test_errors_are_told_by_their_codes(
    fake_host: FakeHost,
    caplog: pytest.LogCaptureFixture,
    code: int,
    domain: int,
    kind: type[DeviceError],
) -> None:
    connection = Connection(fake_host.uri)
    fake_host.refuse("defineXML", code, domain)
    with caplog.at_level(logging.INFO), pytest.raises(DeviceError) as caught:
        connection.write("defineXML", lambda c: c.defineXML(""))
    assert type(caught.value) is kind
    assert "refused by the test" in caplog.text
    assert "refused by the test" not in caught.value.message


def test_each_call_is_observed(fake_host: FakeHost) -> None:
    seen: list[tuple[str, float, int | None]] = []
    clock = StoppedClock()
    connection = Connection(fake_host.uri, lambda *call: seen.append(call), clock)
    fake_host.refuse("getCapabilities", 88)
    with pytest.raises(LibvirtDeniedError):
        ask(connection)
    connection.read("numOfDevices", lambda c: c.numOfDevices(None, 0))
    assert seen == [
        ("open", 0.0, None),
        ("getCapabilities", 0.0, 88),
        ("numOfDevices", 0.0, None),
    ]


EVENTS = ("domainEventRegisterAny", "nodeDeviceEventRegisterAny")


def subscribed(fake_host: FakeHost, clock: StoppedClock | None = None) -> Connection:
    connection = Connection(fake_host.uri, monotonic=clock or StoppedClock())
    connection.subscribe(lambda _: None)
    return connection


@pytest.mark.parametrize("call", EVENTS)
@pytest.mark.parametrize(("code", "domain"), [(88, 55), (38, 7), (1, 7), (1, 0), (38, 0)])
def test_a_connection_that_does_not_announce_is_used_and_does_not_say_that_it_does(
    fake_host: FakeHost, call: str, code: int, domain: int
) -> None:
    fake_host.refuse(call, code, domain)
    connection = subscribed(fake_host)
    assert fake_host.uuid in ask(connection)
    of_domains = call == EVENTS[0]
    assert connection.announces("domain") is not of_domains
    assert connection.announces("node device") is of_domains
    assert set(connection.unannounced()) == {"domain" if of_domains else "node device"}
    assert (fake_host.calls["open"], connection.losses) == (1, 0)


def test_subscribing_to_a_connection_in_use_fails_no_more_than_opening_one(
    fake_host: FakeHost,
) -> None:
    connection = Connection(fake_host.uri)
    ask(connection)
    fake_host.refuse(EVENTS[1], 88)
    connection.subscribe(lambda _: None)
    assert [connection.announces(kind) for kind in ("domain", "node device")] == [True, False]


def test_a_connection_that_breaks_between_open_and_register_is_never_used(
    fake_host: FakeHost,
) -> None:
    clock = StoppedClock()
    connection = subscribed(fake_host, clock)
    fake_host.before_call = lambda call: (
        fake_host.drop_connections(unnoticed=True) if call == EVENTS[1] else None
    )
    with pytest.raises(LibvirtUnavailableError):
        ask(connection)
    assert not connection.announces("domain")
    assert fake_host.open_connections == 0
    fake_host.before_call = lambda _: None
    clock.now += 1.0
    assert fake_host.uuid in ask(connection)
    assert connection.announces("domain")


def test_what_was_read_before_the_events_were_registered_is_read_again(
    fake_host: FakeHost,
) -> None:
    connection = Connection(fake_host.uri)
    heard: list[tuple[str, bool]] = []
    connection.subscribe(
        lambda announcement: heard.append((announcement.kind, connection.announces("domain")))
    )
    fake_host.refuse(EVENTS[1], 88)
    ask(connection)
    assert heard == [("connection", False)]  # it is invalid before anybody relies on events


def test_events_that_were_refused_are_registered_once_libvirt_allows_it(
    fake_host: FakeHost,
) -> None:
    clock = StoppedClock()
    fake_host.refuse(EVENTS[1], 38, 7)
    connection = subscribed(fake_host, clock)
    ask(connection)
    fake_host.allow(EVENTS[1])
    ask(connection)
    assert not connection.announces("node device")
    clock.now += 30.0
    ask(connection)
    assert connection.announces("node device")
    assert not connection.unannounced()
    assert fake_host.calls["open"] == 1
