"""The host of the model: every kind of assignment and of use, on fake libvirt and fake sysfs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lxml.etree import _Element as Element

from hypeman_libvirt.host.usage.local_host import LocalHost
from hypeman_libvirt.host.usage.rtnetlink import Interface
from tests.fake_host import FakeHost, Guest
from tests.fake_xml import passed_through, references, source_of
from tests.host.fake_sysfs import FakeSysfs

ROOT, UPLINK = "0000:00:02.0", "0000:5e:00.1"
PF, VF1, VF2 = "0000:3b:00.0", "0000:3b:00.1", "0000:3b:00.2"
GPU, AUDIO, VGPU = "0000:41:00.0", "0000:41:00.1", "0000:a2:00.0"
NVME, USB, PORT = "0000:03:00.0", "0000:06:00.0", "0000:5e:00.0"
CARDS: Final = (GPU, AUDIO, VGPU, NVME, USB, PF, VF1, VF2, PORT, UPLINK, ROOT)
CRITICAL: Final = frozenset({ROOT, UPLINK, PF})
"""What the host lives on: its root disk, its default route, and the address of the PF."""
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    **{each: (each,) for each in CARDS},
    **dict.fromkeys((GPU, AUDIO), (GPU, AUDIO)),
    **dict.fromkeys((PORT, UPLINK), (PORT, UPLINK)),
}
MDEV: Final = "c2177883-f1bb-47f0-914d-32a22e3a8804"
DISK: Final = "/dev/nvme0n1p2"
MAC: Final = "52:54:00:11:22:33"

_FACTS: Final = {  # vendor, product, class, driver, group
    ROOT: ("1af4", "1042", "010000", "virtio-pci", 2),
    GPU: ("10de", "2330", "030200", "nvidia", 25),
    AUDIO: ("10de", "22a3", "040300", "snd_hda_intel", 25),
    VGPU: ("10de", "27b8", "030200", "nvidia", 82),
    NVME: ("144d", "a80a", "010802", "nvme", 13),
    USB: ("1912", "0014", "0c0330", "xhci_hcd", 14),
    PF: ("15b3", "101d", "020000", "mlx5_core", 30),
    VF1: ("15b3", "101e", "020000", "mlx5_core", 31),
    VF2: ("15b3", "101e", "020000", "mlx5_core", 32),
    PORT: ("8086", "1563", "020000", "ixgbe", 40),
    UPLINK: ("8086", "1563", "020000", "ixgbe", 40),
}
DRIVERS: Final = {address: facts[3] for address, facts in _FACTS.items()}


def _pci(address: str) -> str:
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    return f"<address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>"


def hostdev(address: str) -> str:
    """Describe a device that a domain has, managed."""
    return (
        "<hostdev mode='subsystem' type='pci' managed='yes'>"
        f"<source>{_pci(address)}</source></hostdev>"
    )


ELEMENTS: Final[Mapping[str, str]] = {
    "block": f"<disk type='block'><source dev='{DISK}'/><target dev='vda'/></disk>",
    "nvme": (
        "<disk type='nvme'><source type='pci' managed='yes' namespace='1'>"
        f"{_pci(NVME)}</source><target dev='vdb'/></disk>"
    ),
    "mdev": (
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
        f"<source><address uuid='{MDEV}'/></source></hostdev>"
    ),
    "usb": (
        "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source>"
        "</hostdev>"
    ),
    "interface": (
        f"<interface type='hostdev' managed='yes'><mac address='{MAC}'/>"
        f"<source>{_pci(VF1)}</source></interface>"
    ),
    **{address: hostdev(address) for address in CARDS if address != ROOT},
}
"""What a domain may be defined with, by a name for the model."""


def domain_xml(name: str, number: int, devices: tuple[str, ...]) -> str:
    """Describe a domain that has these elements."""
    ports = "".join(
        f"<controller type='pci' index='{index}' model='pcie-root-port'>"
        f"<address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x{index - 1}'/>"
        "</controller>"
        for index in range(1, 7)
    )
    elements = "".join(ELEMENTS[each] for each in devices)
    return (
        f"<domain type='kvm'><name>{name}</name>"
        f"<uuid>6f1d0c52-7b3e-4a80-9d1f-2c4b8e6a905{number}</uuid>"
        "<os><type machine='q35'>hvm</type></os><devices>"
        f"<controller type='pci' index='0' model='pcie-root'/>{ports}{elements}</devices></domain>"
    )


class ModelSysfs:
    """The kernel's side of the host: one for a whole run; only what lies on a card changes."""

    def __init__(self, directory: Path) -> None:
        """Write it below the directory."""
        self._sysfs = sysfs = FakeSysfs(directory)
        paths = {
            address: sysfs.add_pci(
                address, vendor_id=vendor, device_id=product, below=_above(address)
            )
            for address, (vendor, product, *_) in _FACTS.items()
            if address != ROOT
        }
        self._nvme = sysfs.add_partition(sysfs.add_nvme(0, paths[NVME]), "nvme0n1p2")
        usb = f"{paths[USB]}/usb1/1-1"
        for name, text in (("busnum", "1"), ("devnum", "2"), ("idVendor", "0951")):
            sysfs.write(f"{usb}/{name}", text)
        sysfs.write(f"{paths[VGPU]}/{MDEV}/mdev_type", "")
        self._links = {
            NVME: [
                (f"/sys/class/block/{each}", f"/sys/class/block/{each}")
                for each in ("nvme0n1", "nvme0n1p2")
            ],
            USB: [("/sys/bus/usb/devices/1-1", usb)],
            VGPU: [(f"/sys/bus/mdev/devices/{MDEV}", f"{paths[VGPU]}/{MDEV}")],
        }
        self._links[NVME] = [(link, _target(directory, link)) for link, _ in self._links[NVME]]
        for address in (USB, VGPU):
            for link, target in self._links[address]:
                sysfs.link(link, target)
        for index, address in enumerate((PF, VF1, VF2, PORT, UPLINK), 2):
            addresses = ("192.0.2.7",) if address == PF else ()
            interface = Interface(
                index, _net(address), addresses=addresses, has_default_route=address == UPLINK
            )
            sysfs.add_interface(interface, paths[address])
        self.local = LocalHost(directory, sysfs.read_interfaces)
        self._directory = directory
        self._shown: tuple[object, ...] = ()

    def follow(self, host: FakeHost) -> None:
        """Show what is there now: what lies on a function goes with its driver."""
        now = (host, host.pci(NVME).driver, host.pci(USB).driver, MDEV in host.mdevs)
        if now == self._shown:
            return
        self._shown = now
        there = {
            NVME: host.is_there(DISK),
            USB: host.is_there("usb 1:2"),
            VGPU: MDEV in host.mdevs,
        }
        for address, shown in there.items():
            for link, target in self._links[address]:
                path = self._directory / link.lstrip("/")
                if path.is_symlink() and not shown:
                    path.unlink()
                elif shown and not path.is_symlink():
                    self._sysfs.link(link, target)


def build_host(sysfs: ModelSysfs) -> FakeHost:
    """Make the host with all its cards, without domains."""
    host = FakeHost()
    for address, (vendor, product, class_code, driver, group) in _FACTS.items():
        facts: dict[str, object] = {"vendor": vendor, "product": product, "group": group}
        facts |= {"class_code": class_code}
        facts |= {"max_vfs": 2} if address == PF else {}
        facts |= {"physical_function": PF} if address in {VF1, VF2} else {}
        facts |= {"vgpu": [("nvidia-47", "L4-1", 3)]} if address == VGPU else {}
        host.add_pci(address, driver=driver, **facts)  # type: ignore[arg-type]
    host.pci(ROOT).element.find("path").text = f"/sys/devices/pci0000:00/{ROOT}"  # type: ignore[union-attr]
    for address in (PF, VF1, VF2, PORT, UPLINK):
        host.add_child(address, "net", _net(address))
    host.add_child(NVME, "block", "nvme0n1")
    host.lying_on = {DISK: NVME, "usb 1:2": USB}
    host.mdevs = {MDEV: VGPU}
    sysfs.follow(host)
    return host


def _net(address: str) -> str:
    return f"en{address[5:7]}{address[-1]}"


def _above(address: str) -> str:
    return f"/sys/devices/pci{address[:-5]}"


def _target(directory: Path, link: str) -> str:
    place = directory / link.lstrip("/")
    return "/" + str(place.resolve().relative_to(directory.resolve()))


@dataclass(frozen=True)
class Scene:
    """The host at one moment, as the model sees it.

    Attributes:
        drivers: Of each function that is there.
        moves: How often a host driver lost or took each function.
        live: What each running domain has, and as which element.
        defined: What each definition has.
        broken: What of ``live`` does not work.
    """

    drivers: Mapping[str, str | None]
    moves: Mapping[str, tuple[int, int]]
    live: Mapping[str, Mapping[str, str]]
    defined: Mapping[str, Mapping[str, str]]
    broken: frozenset[tuple[str, str]]


def see(host: FakeHost) -> Scene:
    """Read the fake itself, not through libvirt."""
    live = {each.name: _devices(each.live) for each in host.guests.values() if each.active}
    return Scene(
        {each.address: each.driver for each in host.functions()},
        {each.address: (each.unbinds, each.probes) for each in host.functions()},
        live,
        {
            each.name: _devices(each.config)
            for each in host.guests.values()
            if each.config is not None
        },
        frozenset(
            (name, each) for name, has in live.items() for each in has if not _works(host, each)
        ),
    )


def _devices(definition: Element | None) -> Mapping[str, str]:
    found = {source_of(each): _describe(each) for each in passed_through(definition)}
    return found | dict.fromkeys(references(definition), "reference")


def _describe(element: Element) -> str:
    mac = element.find("mac")
    return str(element.tag) if mac is None else f"{element.tag!s} with MAC {mac.get('address')}"


def _works(host: FakeHost, held: str) -> bool:
    if not held.startswith("0000:"):
        return host.is_there(held)
    try:
        return "vfio" in (host.driver(held) or "")
    except KeyError:
        return False


def find(host: FakeHost, name: str) -> Guest | None:
    """Return a domain by name; None without such a domain."""
    return next((each for each in host.guests.values() if each.name == name), None)
