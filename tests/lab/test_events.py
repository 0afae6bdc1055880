"""Events say what has happened to devices, whoever did it."""

from __future__ import annotations

import pytest

from tests.lab.guest import DRIVERLESS, Guest, node_name
from tests.lab.service import Service

pytestmark = pytest.mark.lab


def test_the_services_own_doings_are_told(guest: Guest, service: Service) -> None:
    guest.define("work")
    with service.events() as events:
        service.register(DRIVERLESS, "edu")
        assert next(events) == ("registered", DRIVERLESS)
        service.bind("edu")
        assert next(events) == ("bound", DRIVERLESS)
        service.attach("edu", "work")
        assert next(events) == ("attached", DRIVERLESS)
        service.detach("edu")
        assert next(events) == ("detached", DRIVERLESS)
        service.unbind("edu")
        assert next(events) == ("unbound", DRIVERLESS)
        service.hypeman.devices.delete("edu")
        assert next(events) == ("unregistered", DRIVERLESS)


def test_what_virsh_and_hands_do_is_told(guest: Guest, service: Service) -> None:
    service.register(DRIVERLESS, "edu")
    guest.define("work")
    hostdev = guest.hostdev(DRIVERLESS)
    with service.events() as events:
        guest.virsh(f"nodedev-detach {node_name(DRIVERLESS)}")
        assert next(events) == ("bound", DRIVERLESS)
        guest.virsh(f"attach-device work {hostdev} --config")
        assert next(events) == ("attached", DRIVERLESS)
        guest.virsh("undefine work")
        assert next(events) == ("detached", DRIVERLESS)
        guest.virsh(f"nodedev-reattach {node_name(DRIVERLESS)}")
        assert next(events) == ("unbound", DRIVERLESS)
        address = guest.lab.hotplug()
        try:
            assert next(events) == ("appeared", address)
        finally:
            guest.lab.unplug()
        assert next(events) == ("vanished", address)
