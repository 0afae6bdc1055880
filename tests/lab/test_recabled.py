"""Real restarts of a machine whose cards are plugged in otherwise each time.

The service reaches its libvirt from outside, so that no serial number of these cards can be read:
what identifies them is their slot, and their MAC address is what only this test looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import pytest
from hypeman_lab import Lab
from hypeman_lab.machine import root_port

from tests.lab.guest import GPU, until
from tests.lab.service import PATIENCE, Service, serving

pytestmark = pytest.mark.lab

UUID: Final = "3d2b1c5a-3e8f-4a53-9f3c-0d6c7f6b7a10"
"""In the machine's firmware, as a real one has it."""
ONE, OTHER, ON_BOARD = (f"52:54:00:aa:{each}" for each in ("01:01", "01:02", "00:01"))
FIRST_SLOT, SECOND_SLOT = root_port(12, "13.0"), root_port(13, "14.0")
ONE_MORE_BRIDGE: Final = root_port(20, "07.0")
"""Before all others, so that each bus behind them gets the next number."""

Running: TypeAlias = tuple[Lab, Service]


class Boots:
    """Boots the machine, each time with the same registry, and the service beside it."""

    def __init__(self, image: str, directory: Path) -> None:
        self._image = image
        self._directory = directory

    @contextmanager
    def __call__(self, *plugged: str) -> Iterator[Running]:
        with (
            Lab(libvirt=self._image, plugged=plugged, uuid=UUID, boot_timeout=PATIENCE) as lab,
            serving(
                lab.uri,
                self._directory,
                operation_timeout=PATIENCE,
                release_timeout=PATIENCE,
            ) as service,
        ):
            yield lab, service


def card(mac: str, port: int) -> str:
    return f"e1000e,bus=rp{port},mac={mac}"


def cards(lab: Lab) -> dict[str, str]:
    """Return the address of each network card on its host driver, by MAC address."""
    found = lab.output(
        "cd /sys/bus/pci/devices; for each in */net/*/address; do "
        "echo ${each%%/*} $(cat $each); done"
    )
    return {mac: address for address, mac in (line.split() for line in found.splitlines())}


def states(service: Service) -> dict[str, tuple[str, str]]:
    listed = service.answer("GET", "/devices", 200)
    return {each["name"]: (each["state"], each["pci_address"]) for each in listed}


def refused(service: Service, names: Sequence[str]) -> None:
    for name in names:
        code, _ = service.refusal("POST", f"/devices/{name}/bind", 409)
        assert code == "identity_changed", name


def show(what: str, seen: Mapping[str, tuple[str, str]]) -> None:
    print(f"{what}: " + ", ".join(f"{name} {' '.join(seen[name])}" for name in sorted(seen)))  # noqa: T201


def test_each_registration_means_its_card_after_a_restart(image: str, tmp_path: Path) -> None:
    boot = Boots(image, tmp_path)
    both = (FIRST_SLOT, SECOND_SLOT)
    with boot(*both, card(ONE, 12), card(OTHER, 13)) as (lab, service):
        at = cards(lab)
        for mac, name in ((ON_BOARD, "nic"), (ONE, "left"), (OTHER, "right")):
            service.register(at[mac], name)
        service.register(GPU, "gpu")
        show("registered", states(service))
        assert {state for state, _ in states(service).values()} == {"present"}

    with boot(ONE_MORE_BRIDGE, *both, card(ONE, 12), card(OTHER, 13)) as (lab, service):
        now = cards(lab)
        assert {now[mac] for mac in (ON_BOARD, ONE, OTHER)}.isdisjoint({at[ON_BOARD]})
        expected = {
            "nic": ("present", now[ON_BOARD]),
            "left": ("present", now[ONE]),
            "right": ("present", now[OTHER]),
            "gpu": ("present", GPU),
        }
        until(lambda: service.get("left").get("moved_from") == at[ONE])
        show("one bridge more", states(service))
        assert states(service) == expected
        service.bind("left")
        assert lab.driver(now[ONE]) == "vfio-pci"
        assert {lab.driver(now[mac]) for mac in (ON_BOARD, OTHER)} == {"e1000e"}

    with boot(*both, card(ONE, 12)) as (lab, service):
        now = cards(lab)
        until(lambda: states(service)["left"][0] == "moved")
        show("one card taken out", states(service))
        seen = states(service)
        assert {seen[name][0] for name in ("nic", "left", "right")} == {"moved"}
        assert seen["gpu"] == ("present", GPU)
        candidates = service.get("left")["candidates"]
        assert candidates == sorted([now[ON_BOARD], now[ONE]])
        refused(service, ("nic", "left", "right"))
        assert {lab.driver(now[mac]) for mac in (ON_BOARD, ONE)} == {"e1000e"}
        service.answer("POST", "/devices/left/move", 200, pci_address=now[ONE])
        service.bind("left")
        assert lab.driver(now[ONE]) == "vfio-pci"
        assert lab.driver(now[ON_BOARD]) == "e1000e"

    with boot(*both, "edu,bus=rp12", card(OTHER, 13)) as (lab, service):
        now = cards(lab)
        until(lambda: states(service)["left"][0] in {"moved", "changed"})
        show("a foreign card in its slot", states(service))
        refused(service, ("left",))
        assert lab.driver(now[OTHER]) == "e1000e"
