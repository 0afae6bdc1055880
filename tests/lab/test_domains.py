"""Into domains and out of them: what holds a device is what libvirt and the kernel say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypeman_lab import Lab

from tests.lab.guest import AUDIO, DRIVERLESS, GPU, OTHER_DRIVERLESS, Guest, until
from tests.lab.service import Service, serving

pytestmark = pytest.mark.lab


@pytest.fixture
def impatient(
    lab: Lab, guest: Guest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service that gives guests no time; it comes after the guest, which tidies up."""
    del guest
    directory = tmp_path_factory.mktemp("impatient")
    with serving(lab.uri, directory, operation_timeout=300, release_timeout=0.1) as service:
        yield service


def test_a_running_guest_takes_a_card_with_all_its_functions_and_gives_it_back(
    guest: Guest, service: Service
) -> None:
    service.register(GPU, "gpu")
    uuid = guest.define("work", answers=True)
    guest.start("work")
    guest.await_user_space("work")

    attached = service.attach("gpu", "work", scope="group")
    assert (attached["attached_to"], attached["bound_to_vfio"]) == (uuid, True)
    assert guest.holds(attached["iommu_group"])
    assert guest.virsh("dumpxml work").count("<hostdev ") == 2
    assert guest.virsh("dumpxml work --inactive").count("<hostdev ") == 2
    assert "gpu" in guest.virsh("metadata work urn:hypeman:libvirt:devices:1")

    assert service.detach("gpu")["attached_to"] is None
    assert "<hostdev" not in guest.virsh("dumpxml work")
    assert not guest.holds(attached["iommu_group"])
    assert guest.drivers() == guest.at_boot


def test_a_guest_that_does_not_let_go_keeps_the_device_until_it_ends(
    guest: Guest, impatient: Service
) -> None:
    impatient.register(DRIVERLESS, "edu")
    uuid = guest.define("work")
    guest.start("work")
    impatient.attach("edu", "work")

    code, message = impatient.refusal("POST", "/devices/edu/detach", 504)
    assert code == "guest_did_not_release"
    assert "work" in message
    now = impatient.get("edu")
    assert (now["attached_to"], now["bound_to_vfio"]) == (uuid, True)
    assert guest.holds(now["iommu_group"])

    guest.virsh("destroy work")
    until(lambda: not impatient.get("edu")["bound_to_vfio"])
    assert impatient.get("edu")["attached_to"] is None


def test_what_a_running_domain_uses_stays_where_it_is(guest: Guest, service: Service) -> None:
    service.register(DRIVERLESS, "edu")
    guest.define("first")
    guest.define("second")
    service.attach("edu", "first")
    guest.start("first")

    for action, body in (
        ("unbind", {}),
        ("attach", {"instance": "second"}),
    ):
        code, message = service.refusal("POST", f"/devices/edu/{action}", 409, **body)
        assert code == "in_use"
        assert "first" in message
    code, _ = service.refusal("DELETE", "/devices/edu", 409)
    assert code == "in_use"
    assert guest.lab.driver(DRIVERLESS) == "vfio-pci"


def test_a_device_of_a_definition_is_not_given_to_another(guest: Guest, service: Service) -> None:
    service.register(DRIVERLESS, "edu")
    guest.define("first")
    guest.define("second")
    service.attach("edu", "first")
    code, message = service.refusal("POST", "/devices/edu/attach", 409, instance="second")
    assert code == "in_use"
    assert "first" in message
    assert "<hostdev" not in guest.virsh("dumpxml second")


def test_a_device_that_was_bound_beforehand_stays_on_vfio(guest: Guest, service: Service) -> None:
    service.register(DRIVERLESS, "bound")
    service.register(OTHER_DRIVERLESS, "other")
    guest.define("work")
    service.bind("bound")
    service.attach("bound", "work")
    service.attach("other", "work")
    guest.start("work")
    guest.virsh("destroy work")
    until(lambda: not service.get("other")["bound_to_vfio"])
    assert service.get("bound")["bound_to_vfio"]
    assert guest.lab.driver(DRIVERLESS) == "vfio-pci"


def test_a_card_held_by_a_domain_keeps_its_audio_function(guest: Guest, service: Service) -> None:
    service.register(GPU, "gpu")
    service.register(AUDIO, "audio")
    guest.define("work")
    service.attach("gpu", "work", scope="group")
    guest.start("work")
    code, message = service.refusal("POST", "/devices/audio/unbind", 409)
    assert code == "in_use"
    assert "work" in message
    code, _ = service.refusal("POST", "/devices/gpu/detach", 501)
    assert code == "not_supported"
    assert guest.holds(service.get("gpu")["iommu_group"])
