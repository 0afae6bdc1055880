"""A host's ``/sys`` and ``/proc`` in a directory, told in verbs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from hypeman_libvirt.host.usage.rtnetlink import Interface

VIRTUAL = "/sys/devices/virtual"
FILESYSTEMS = (
    "nodev\tsysfs\nnodev\ttmpfs\nnodev\toverlay\nnodev\tzfs\nnodev\tnfs4\n\text4\n\txfs\n\tbtrfs\n"
)
TARGET = "21000024ff7ee5a4"
"""A port of an NVMe target, and its node."""
SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


class FakeSysfs:
    """Starts as a host whose root lies on a disk of its own, at 0000:00:02.0."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._numbers = count(1)
        self._devices: dict[str, str] = {}
        self.interfaces: list[Interface] = []
        self.write("/proc/filesystems", FILESYSTEMS)
        self.write("/proc/swaps", SWAPS)
        self.write("/proc/self/mountinfo", "")
        self.link("/proc/self/ns/pid", "pid:[4026531836]")
        self.mount("/proc", "proc", "proc")
        self.add_disk("vda", self.add_pci("0000:00:02.0", device_id="1042") + "/virtio1/block")
        self.mount("/", self.add_partition("vda", "vda3"))

    def read_interfaces(self) -> Sequence[Interface]:
        return self.interfaces

    def write(self, path: str, text: str) -> None:
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link; one to another file of the host is relative, as in sysfs."""
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if target.startswith("/"):
            target = os.path.relpath(self._place(target), place.parent)
        place.symlink_to(target)

    def add_pci(
        self, address: str, *, vendor_id: str = "1af4", device_id: str, below: str | None = None
    ) -> str:
        path = f"{below or '/sys/devices/pci0000:00'}/{address}"
        self.write(f"{path}/vendor", f"0x{vendor_id}\n")
        self.write(f"{path}/device", f"0x{device_id}\n")
        return path

    def add_disk(self, name: str, directory: str) -> str:
        path = f"{directory}/{name}"
        self.write(f"{path}/dev", f"254:{next(self._numbers)}\n")
        self._place(f"{path}/holders").mkdir()
        self._place(f"{path}/slaves").mkdir()
        self.link(f"/sys/class/block/{name}", path)
        self._devices[name] = path
        return name

    def add_partition(self, disk: str, name: str) -> str:
        self.add_disk(name, self._devices[disk])
        self.write(f"{self._devices[name]}/partition", "1\n")
        return name

    def stack(self, name: str, on: Sequence[str], label: str = "") -> str:
        """Make a device of others, as device mapper, md and bcache do."""
        self.add_disk(name, f"{VIRTUAL}/block")
        for lower in on:
            self.link(f"{self._devices[name]}/slaves/{lower}", self._devices[lower])
            self.link(f"{self._devices[lower]}/holders/{name}", self._devices[name])
        if label:
            self.write(f"{self._devices[name]}/dm/name", f"{label}\n")
        return name

    def add_nvme(self, number: int, pci: str) -> str:
        """Add a controller and its namespace, which multipath puts below the subsystem."""
        subsystem = f"{VIRTUAL}/nvme-subsystem/nvme-subsys{number}"
        self.write(f"{pci}/nvme/nvme{number}/state", "live\n")
        self.link(f"{subsystem}/nvme{number}", f"{pci}/nvme/nvme{number}")
        return self.add_disk(f"nvme{number}n1", subsystem)

    def add_hba(self, host: int, pci: str, port: str) -> None:
        """Add a port of Fibre Channel, as the transport class of the kernel shows it."""
        directory = f"{pci}/host{host}/fc_host/host{host}"
        self.write(f"{directory}/port_name", f"0x{port}\n")
        self.link(f"/sys/class/fc_host/host{host}", directory)

    def add_nvme_over_fc(self, number: int, port: str) -> str:
        """Add a controller that is reached by a port of ours, and its namespace."""
        controller = f"{VIRTUAL}/nvme-fabrics/ctl/nvme{number}"
        subsystem = f"{VIRTUAL}/nvme-subsystem/nvme-subsys{number}"
        self.write(f"{controller}/transport", "fc\n")
        addresses = f"traddr=nn-0x{TARGET}:pn-0x{TARGET},host_traddr=nn-0x{port}:pn-0x{port}\n"
        self.write(f"{controller}/address", addresses)
        self.link(f"{subsystem}/nvme{number}", controller)
        return self.add_disk(f"nvme{number}n1", subsystem)

    def record(self, disk: str, *lines: str) -> None:
        """Let udev know of a block device, in lines such as ``E:ID_FS_TYPE=ext4``."""
        self.write(f"/run/udev/data/b{self.number(disk)}", "\n".join(["I:1", *lines, ""]))

    def label_zfs(self, disk: str, pool: str | None) -> None:
        label = [] if pool is None else [f"E:ID_FS_LABEL={pool}"]
        self.record(disk, "E:ID_FS_TYPE=zfs_member", *label)

    def set_up_loop(self, name: str, path: str) -> str:
        self.add_disk(name, f"{VIRTUAL}/block")
        self.write(f"{self._devices[name]}/loop/backing_file", f"{path}\n")
        return name

    def add_share(self, driver: str, pci: str, number: int, tag: str | None = None) -> str:
        """Add a device by which a hypervisor shares a directory; 9p shows its tag itself."""
        device = f"{pci}/virtio{number}"
        self.write(f"{device}/features", "1\n")
        if tag is not None:
            self.write(f"{device}/mount_tag", f"{tag}\0\n")
        self.link(f"/sys/bus/virtio/drivers/{driver}/virtio{number}", device)
        return device

    def mount(
        self,
        point: str,
        source: str,
        kind: str = "ext4",
        number: str | None = None,
        options: str = "rw",
    ) -> None:
        """Mount a block device by name, or whatever the source says."""
        if source in self._devices:
            number = number or self.number(source)
            source = f"/dev/{source}"
        line = (
            f"27 1 {number or '0:40'} / {point} rw,relatime shared:1 - {kind} {source} {options}\n"
        )
        self._append("/proc/self/mountinfo", line)

    def swap_on(self, path: str, kind: str = "partition") -> None:
        self._append("/proc/swaps", f"{path}\t{kind}\t1000\t0\t-2\n")

    def add_interface(self, interface: Interface, pci: str | None = None) -> None:
        directory = f"{pci or VIRTUAL}/net/{interface.name}"
        self.write(f"{directory}/ifindex", str(interface.index))
        self.link(f"/sys/class/net/{interface.name}", directory)
        self.interfaces.append(interface)

    def number(self, name: str) -> str:
        return self._place(f"{self._devices[name]}/dev").read_text(encoding="utf-8").strip()

    def vanish(self, path: str) -> None:
        self._place(path).unlink()

    def _append(self, path: str, text: str) -> None:
        self.write(path, self._place(path).read_text(encoding="utf-8") + text)

    def _place(self, path: str) -> Path:
        return self.root / path.lstrip("/")
