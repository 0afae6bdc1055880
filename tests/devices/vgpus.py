"""A host with two GPUs that are cut into vGPUs, and what tests ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hypeman_libvirt.devices.model import Device
from tests.fake_host import FakeHost
from tests.fake_machine import Mdev
from tests.fake_xml import references
from tests.world import OPERATOR, World, world_on

T4: Final = "0000:65:00.0"
OTHER: Final = "0000:67:00.0"
SMALL: Final = "GRID T4-1B"
LARGE: Final = "GRID T4-8Q"


def add_gpus(host: FakeHost) -> None:
    """Add a T4 of NUMA node 0 with room for 2 large vGPUs, and one of node 1 with room for 3."""
    for address, group, numa, large in ((T4, 70, 0, 2), (OTHER, 71, 1, 3)):
        host.add_pci(
            address,
            product="1eb8",
            product_name="TU104GL [Tesla T4]",
            driver="nvidia",
            group=group,
            numa=numa,
            vgpu=[("nvidia-222", SMALL, 16), ("nvidia-230", LARGE, large)],
        )


@contextmanager
def service_on(host: FakeHost, directory: Path) -> Iterator[World]:
    """Run a service on the host."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    opened = open_host(host.uri)
    with world_on(opened, directory) as world:
        yield world
    opened.close()


def create(world: World, name: str = "slice", **more: object) -> Device:
    """Make a large vGPU on the first GPU."""
    asked: dict[str, object] = {"parent": T4, "profile": LARGE, **more}
    profile = str(asked.pop("profile"))
    return world.service.create_vgpu(profile, name, {}, OPERATOR, **asked)  # type: ignore[arg-type]


def make_by_hand(host: FakeHost, uuid: str, parent: str = T4) -> Mdev:
    """Make one as another program does."""
    name = "pci_" + parent.replace(":", "_").replace(".", "_")
    mdev = host.define_mdev(
        f"<device><parent>{name}</parent><capability type='mdev'><type id='nvidia-230'/>"
        f"<uuid>{uuid}</uuid></capability></device>"
    )
    host.start_mdev(mdev)
    return mdev


def holds(host: FakeHost, domain: str, device: Device) -> tuple[bool, bool]:
    """Say whether a domain has a vGPU now, and whether it has it at its next start."""
    guest = host.guest(domain)
    uuid = str(device.registration.mdev)
    return uuid in references(guest.live), uuid in references(guest.config)
