"""Advice about many GPUs, each on a host and in a domain that are built for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from hypeman_libvirt.devices.model import Check, Scope
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World, world_on

GIB = 1 << 30
GPU, TWIN, SWITCH, OTHER = "0000:51:00.0", "0000:52:00.0", "0000:53:00.0", "0000:51:00.1"
UUID = "8a1f0c52-7b3e-4a80-9d1f-2c4b8e6a9053"
Ask = Callable[..., Check]


class Host:
    """A host on which the service runs, with what its kernel shows of each function."""

    def __init__(self, fake: FakeHost, root: Path) -> None:
        self.fake = fake
        self.root = root

    def add(
        self,
        address: str,
        *,
        bars: Sequence[int] = (),
        reset: str | None = "flr bus",
        class_code: str = "030200",
        group: int | None = None,
    ) -> None:
        """Plug a function in: its 64-bit prefetchable BARs in bytes, and how it is reset."""
        group = int(address[5:7], 16) if group is None else group
        self.fake.add_pci(
            address, product="2330", class_code=class_code, driver="nvidia", group=group
        )
        directory = self.root / f"sys/devices/pci{address[:-5]}/{address}"
        directory.mkdir(parents=True)
        (directory / "vendor").write_text("0x10de\n")
        (directory / "device").write_text("0x2330\n")
        lines = [
            f"0x{1 << 40:016x} 0x{(1 << 40) + size - 1:016x} 0x000000000014220c" for size in bars
        ]
        small = "0x00000000f0000000 0x00000000f0ffffff 0x0000000000040200"
        (directory / "resource").write_text("\n".join([small, *lines, *["0x0 0x0 0x0"] * 8]))
        if reset is not None:
            (directory / "reset_method").write_text(reset + "\n")

    def define(self, body: str = "", *, memory: int = 64, machine: str = "pc-q35-7.2") -> None:
        """Define the domain ``guest``; ``memory`` in GiB."""
        body += "" if "<devices>" in body else "<devices/>"
        self.fake.add_domain_xml(
            f"<domain type='kvm'><name>guest</name><uuid>{UUID}</uuid>"
            f"<memory unit='GiB'>{memory}</memory><os><type machine='{machine}'>hvm</type></os>"
            f"{body}</domain>"
        )


@pytest.fixture
def host(fake_host: FakeHost, tmp_path: Path) -> Host:
    return Host(fake_host, tmp_path / "root")


@pytest.fixture
def world(host: Host, tmp_path: Path) -> Iterator[World]:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.host.usage.local_host import LocalHost  # noqa: PLC0415

    with ExitStack() as stack:
        opened = open_host(host.fake.uri, local_host=LocalHost(host.root))
        stack.callback(opened.close)
        yield stack.enter_context(world_on(opened, tmp_path))


@pytest.fixture
def ask(world: World) -> Ask:
    """Returns one piece of advice about a device, for the domain ``guest``."""

    def ask(
        what: str,
        address: str = GPU,
        scope: Scope = "device",
        instance: str | None = "guest",
    ) -> Check:
        report = world.service.preflight.of_address(address, instance, scope)
        (check,) = [each for each in report.checks if each.id == what]
        assert check.severity != "error"  # nothing of it stops an attach
        assert (check.hint is None) is (check.severity == "ok")
        return check

    return ask


@pytest.mark.parametrize(
    ("reset", "bus_alone", "severity"),
    [
        ("flr bus", True, "ok"),
        ("pm", True, "ok"),
        ("", True, "warning"),
        ("bus", True, "ok"),
        ("bus", False, "warning"),
        ("flr bus", False, "ok"),
        (None, False, "ok"),
    ],
)
def test_what_cannot_be_reset_alone(
    host: Host, ask: Ask, reset: str | None, bus_alone: bool, severity: str
) -> None:
    host.define()
    host.add(GPU, reset=reset)
    if not bus_alone:
        sibling = host.root / f"sys/devices/pci{GPU[:-5]}/{OTHER}"
        sibling.mkdir()
    found = ask("reset")
    assert found.severity == severity
    if severity == "warning":
        assert (OTHER if reset else "no way to reset") in found.message


def test_a_bus_that_goes_whole_is_reset_whole(host: Host, ask: Ask) -> None:
    host.define()
    host.add(GPU, reset="bus", group=51)
    host.add(OTHER, reset="bus", group=51)
    directory = host.root / f"sys/devices/pci{GPU[:-5]}"
    (directory / OTHER).mkdir(exist_ok=True)
    assert ask("reset").severity == "warning"
    assert ask("reset", scope="group").severity == "ok"


VIOMMU = (
    "<memtune><hard_limit unit='GiB'>65</hard_limit></memtune>"
    "<devices><iommu model='intel'/></devices>"
)
PASSTHROUGH = "<cpu mode='host-passthrough'><maxphysaddr mode='passthrough'/></cpu>"
HOLE = (
    "<devices><controller type='pci' index='0' model='pcie-root'>"
    "<pcihole64 unit='GiB'>{}</pcihole64></controller></devices>"
)


@pytest.mark.parametrize(
    ("bars", "body", "memory", "found"),
    [
        ([16 * GIB, 32 << 20], "", 64, None),
        ([64 * GIB, 32 << 20], "", 64, "need 128 GiB, and the guest has 32 GiB"),
        ([64 * GIB], HOLE.format(64), 64, None),
        ([64 * GIB], HOLE.format(32), 64, "need 64 GiB, and the guest has 32 GiB"),
        ([64 * GIB], PASSTHROUGH, 64, None),
        ([128 * GIB], HOLE.format(512), 1000, "into 40 address bits"),
        ([128 * GIB], HOLE.format(512) + PASSTHROUGH, 1000, None),
        (
            [64 * GIB],
            HOLE.format(64) + "<cpu><maxphysaddr mode='emulate' bits='36'/></cpu>",
            16,
            "into 36 address bits",
        ),
        ([], "", 64, None),
    ],
)
def test_bars_that_do_not_fit_into_the_guest(
    host: Host, ask: Ask, bars: Sequence[int], body: str, memory: int, found: str | None
) -> None:
    host.define(body, memory=memory)
    host.add(GPU, bars=bars)
    check = ask("mmio")
    assert check.severity == ("ok" if found is None else "warning")
    assert (found or "") in check.message


def test_the_hosts_own_address_bits_are_read(host: Host, ask: Ask) -> None:
    host.define(HOLE.format(512) + PASSTHROUGH, memory=600)
    host.add(GPU, bars=[128 * GIB])
    (host.root / "proc").mkdir()
    (host.root / "proc/cpuinfo").write_text("address sizes\t: 40 bits physical, 48 bits virtual\n")
    assert "into 40 address bits" in ask("mmio").message


def test_what_the_guest_has_already_counts(host: Host, ask: Ask) -> None:
    host.define()
    host.add(GPU, bars=[16 * GIB])
    host.add(TWIN, bars=[16 * GIB])
    assert ask("mmio").severity == "ok"
    host.fake.virsh_attach("guest", TWIN, live=False)
    assert ask("mmio").severity == "ok"  # 32 GiB of 32
    host.add("0000:54:00.0", bars=[16 * GIB])
    host.fake.virsh_attach("guest", "0000:54:00.0", live=False)
    assert "3 function(s) need 48 GiB" in ask("mmio").message


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("", None),
        ("<memtune><hard_limit unit='GiB'>65</hard_limit></memtune>", None),
        ("<memtune><hard_limit unit='GiB'>64</hard_limit></memtune>", "may lock 64 GiB, and VFIO"),
        (VIOMMU, None),
    ],
)
def test_a_limit_that_is_lower_than_what_vfio_locks(
    host: Host, ask: Ask, body: str, found: str | None
) -> None:
    host.define(body)
    host.add(GPU)
    check = ask("memlock")
    assert check.severity == ("ok" if found is None else "warning")
    assert (found or "") in check.message


def test_with_an_iommu_of_its_own_each_device_locks_all_memory(host: Host, ask: Ask) -> None:
    host.define(VIOMMU)
    host.add(GPU)
    host.add(TWIN)
    host.fake.virsh_attach("guest", TWIN, live=False)
    assert "VFIO locks 129 GiB" in ask("memlock").message


def test_gpus_on_nvswitches_go_together(host: Host, ask: Ask) -> None:
    host.define()
    host.add(GPU)
    assert ask("nvswitch").severity == "ok"  # no NVSwitch on this host
    host.add(TWIN)
    host.add(SWITCH, class_code="068000")
    for address in (GPU, SWITCH):
        found = ask("nvswitch", address)
        assert found.severity == "warning"
        assert TWIN in found.message
        assert "Fabric Manager" in (found.hint or "")
    for address in (TWIN, SWITCH, "0000:41:00.0", "0000:a2:00.0"):
        host.fake.virsh_attach("guest", address, live=False)
    assert ask("nvswitch").severity == "ok"


def test_a_card_of_another_vendor_is_no_matter_of_nvswitches(host: Host, ask: Ask) -> None:
    host.define()
    host.add(SWITCH, class_code="068000")
    assert ask("nvswitch", "0000:3b:00.0").severity == "ok"


def test_before_a_bind_only_its_own_advice_is_given(host: Host, world: World) -> None:
    host.add(GPU, reset="")
    world.service.register(GPU, "gpu", {}, OPERATOR)
    checks = world.service.preflight.of_device("gpu", purpose="bind").checks
    assert [each.id for each in checks][-1] == "reset"
    assert {"mmio", "memlock", "nvswitch"}.isdisjoint(each.id for each in checks)


def test_without_a_domain_nothing_is_said_of_one(host: Host, ask: Ask) -> None:
    host.add(GPU, bars=[64 * GIB])
    assert ask("mmio", instance=None).severity == "ok"
    assert ask("memlock", instance=None).severity == "ok"
