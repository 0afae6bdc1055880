"""A host's sysfs in a directory, with a kernel that answers what is written into it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

NIC, GPU, VF = "0000:3b:00.0", "0000:a2:00.0", "0000:a2:00.4"
ROOT_PORT = "/sys/devices/pci0000:3a/0000:3a:01.0"


class FakeKernel:
    """Starts with a NIC of eight virtual functions, a GPU, and a vGPU's virtual function."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.writes: list[tuple[str, str]] = []
        self.most = 64  # virtual functions that the driver really makes
        self.types_read_back: dict[str, str] = {}
        self.refused: dict[str, int] = {}  # file: errno
        (root / "etc/udev/rules.d").mkdir(parents=True)
        (root / "proc").mkdir()
        self.add(
            NIC,
            ROOT_PORT,
            {
                "vendor": "0x15b3",
                "device": "0x101d",
                "sriov_totalvfs": "8",
                "sriov_numvfs": "0",
                "sriov_drivers_autoprobe": "1",
            },
            driver="mlx5_core",
        )
        self.add(GPU, "/sys/devices/pci0000:a0", {"vendor": "0x10de", "device": "0x27b8"})
        self.add(
            VF,
            "/sys/devices/pci0000:a0",
            {
                "vendor": "0x10de",
                "device": "0x27b8",
                "nvidia/creatable_vgpu_types": "ID    : vGPU Name\n1155  : NVIDIA L4-2Q\n"
                "1156  : NVIDIA L4-4Q",
                "nvidia/current_vgpu_type": "0",
            },
            driver="nvidia",
            group="97",
        )
        self._link(f"/sys/devices/pci0000:a0/{VF}/physfn", f"/sys/devices/pci0000:a0/{GPU}")

    def add(
        self,
        address: str,
        below: str,
        files: Mapping[str, str],
        driver: str | None = None,
        group: str | None = None,
    ) -> None:
        directory = f"{below}/{address}"
        for name, text in files.items():
            place = self._place(f"{directory}/{name}")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text + "\n")
        self._place(f"{directory}/config").write_bytes(bytes(range(256)) * 16)
        self._link(f"/sys/bus/pci/devices/{address}", directory)
        if driver is not None:
            self._link(f"{directory}/driver", f"/sys/bus/pci/drivers/{driver}")
        if group is not None:
            self._link(f"{directory}/iommu_group", f"/sys/kernel/iommu_groups/{group}")

    def open(self, pid: int, name: str, node: str) -> None:
        """Let a process have a file of ``/dev`` open."""
        files = self.root / "proc" / str(pid) / "fd"
        files.mkdir(parents=True)
        (files / "7").symlink_to(node)
        (files.parent / "comm").write_text(name + "\n")

    def text(self, address: str, name: str) -> str:
        return (self.root / "sys/bus/pci/devices" / address / name).read_text().strip()

    def virtual_functions(self, address: str) -> list[str]:
        directory = self.root / "sys/bus/pci/devices" / address
        return sorted(each.name for each in directory.iterdir() if each.name.startswith("virtfn"))

    def write(self, path: Path, text: str) -> None:
        """Do what the kernel does when this is written."""
        if not path.is_file() or path.is_symlink():
            raise OSError(errno.ENOENT, "No such file or directory")
        self.writes.append((path.name, text))
        if path.name in self.refused:
            raise OSError(self.refused[path.name], os.strerror(self.refused[path.name]))
        if path.name == "sriov_numvfs":
            self._write_count(path, int(text))
        elif path.name == "current_vgpu_type":
            path.write_text(self.types_read_back.get(text, text) + "\n")
        else:
            path.write_text(text + "\n")

    def _write_count(self, path: Path, count: int) -> None:
        before = int(path.read_text())
        if before == count:
            return
        if before and count:
            raise OSError(errno.EBUSY, "Device or resource busy")
        if count > self.most:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        for old in path.parent.glob("virtfn*"):
            address = old.readlink().name
            self._place(f"/sys/bus/pci/devices/{address}").unlink()
            old.unlink()
        for number in range(count):
            address = f"{path.parent.name[:-4]}{2 + number // 8:02x}.{number % 8}"
            below = "/" + str(path.parent.parent.relative_to(self.root))
            if not self._place(f"{below}/{address}").exists():
                self.add(
                    address,
                    below,
                    {"vendor": "0x15b3", "device": "0x101e"},
                    group=str(200 + number),
                )
            else:
                self._link(f"/sys/bus/pci/devices/{address}", f"{below}/{address}")
            (path.parent / f"virtfn{number}").symlink_to(f"../{address}")
        path.write_text(f"{count}\n")

    def _link(self, path: str, target: str) -> None:
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(self._place(target), place.parent))

    def _place(self, path: str) -> Path:
        return self.root / path.lstrip("/")
