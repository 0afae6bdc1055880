"""The host inside the lab, as its kernel and virsh see it, and what people do there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar
from xml.etree import ElementTree as ET

from hypeman_lab import Lab

T = TypeVar("T")

NIC = "0000:01:00.0"
NVME = "0000:03:00.0"
BRIDGE = "0000:04:00.0"
BRIDGED = ("0000:05:01.0", "0000:05:02.0")
DRIVERLESS = "0000:06:00.0"
OTHER_DRIVERLESS = "0000:07:00.0"
REFUSED_GPU = "0000:81:00.0"
GPU = "0000:82:00.0"
AUDIO = "0000:82:00.1"
ROOT_DISK = "0000:00:02.0"
ROOT_PORT = "0000:00:08.0"
SHARE = "0000:00:03.0"
"""Brings the lab its commands: whoever takes it from its driver waits for ever."""
IDS = f"{GPU}=10de:2330:030200,{REFUSED_GPU}=10de:1b80:030000"
"""Two GPUs of NVIDIA's, on a driver called nvidia that tests can slow down.

vfio-pci takes the first. It refuses the second, because that one is a VGA device without being
able to take part in VGA arbitration.
"""

_DOMAIN = """\
<domain type='{type}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os>
  <features><acpi/></features>
  <devices>
    <controller type='pci' model='pcie-root'/>
    {ports}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='/var/lib/lab/{name}.serial'/></serial>
  </devices>
</domain>
"""
_KERNEL = """\
<kernel>/var/lib/lab/vmlinuz</kernel><initrd>/var/lib/lab/nested.cpio</initrd>\
<cmdline>console=ttyS0 quiet</cmdline>"""


class Guest:
    """The lab, by what tests look at and meddle with."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.at_boot = self.drivers()

    def drivers(self) -> dict[str, str | None]:
        """Return every PCI function and its driver, from sysfs."""
        found = self.lab.output(
            r"find /sys/bus/pci/devices/*/ -maxdepth 1 "
            r"\( -name class -printf '%h\n' -o -name driver -printf '%h %l\n' \)"
        )
        lines = sorted(line.split() for line in found.splitlines())
        return {_last(words[0]): _last(words[1]) if words[1:] else None for words in lines}

    def groups(self) -> dict[str, int]:
        """Return the IOMMU group of every PCI function that is in one, from sysfs."""
        found = self.lab.output("ls -d /sys/kernel/iommu_groups/*/devices/*")
        return {_last(path): int(path.split("/")[4]) for path in found.splitlines()}

    def virsh(self, command: str) -> str:
        return self.lab.output(f"virsh {command}")

    def define(self, name: str, *, answers: bool = False, ports: int = 6) -> str:
        """Define a domain and return its UUID.

        Without a kernel it never answers hot-unplug; with one it needs a /dev/kvm in the lab.
        """
        xml = _DOMAIN.format(
            name=name,
            type="kvm" if answers else "qemu",
            memory=256 if answers else 64,
            boot=_KERNEL if answers else "",
            ports="\n    ".join(["<controller type='pci' model='pcie-root-port'/>"] * ports),
        )
        self.lab.put(f"/var/lib/lab/{name}.xml", xml)
        self.virsh(f"define /var/lib/lab/{name}.xml")
        return self.virsh(f"domuuid {name}").strip()

    def start(self, name: str) -> None:
        self.lab.output(f"rm -f /var/lib/lab/{name}.serial")
        self.virsh(f"start {name}")

    def await_user_space(self, name: str) -> None:
        ready = f"grep -aq NESTED-READY /var/lib/lab/{name}.serial"
        until(lambda: self.lab.exec(ready).returncode == 0)

    def holds(self, group: int) -> bool:
        """Whether a QEMU inside has the IOMMU group open."""
        links = "for pid in $(pgrep qemu-system); do ls -l /proc/$pid/fd; done"
        return self.lab.exec(f"{links} | grep -w /dev/vfio/{group}").returncode == 0

    def guest_addresses(self, name: str) -> list[str]:
        """Return where a domain's passed-through functions are in the guest, as libvirt says."""
        xml = ET.fromstring(self.virsh(f"dumpxml {name}"))  # noqa: S314 - of the lab's libvirt
        places = [each.attrib for each in xml.iterfind("devices/hostdev/address")]
        keys = ("bus", "slot", "function")
        return [" ".join(f"{key}={place[key]}" for key in keys) for place in places]

    def hostdev(self, address: str, *, managed: str = "yes") -> str:
        """Write a file for `virsh attach-device` and return its path inside."""
        domain, bus, slot = address.partition(".")[0].split(":")
        source = f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{address[-1]}'"
        path = f"/var/lib/lab/{address}.xml"
        self.lab.put(
            path,
            f"<hostdev mode='subsystem' type='pci' managed='{managed}'>"
            f"<source><address {source}/></source></hostdev>",
        )
        return path

    def nvidia(self, parameter: str, value: int) -> None:
        """Set how the driver called nvidia behaves."""
        self.lab.write(f"/sys/module/vlab_pci/parameters/{parameter}", value)

    def restore(self) -> None:
        """Bring the host back to what it was at boot, whatever a test has left."""
        self.lab.output(
            "for name in $(virsh list --all --name); do "
            "virsh destroy $name; virsh undefine $name; done; "
            "cd /sys/module/vlab_pci/parameters && echo 0 > remove_ms && echo 0 > probe_err"
        )
        until(self._give_back)

    def _give_back(self) -> bool:
        """Give back what is not on the driver of the boot; return whether nothing was.

        What is on vfio-pci, libvirt gives back: of what it bound and others took away it goes on
        thinking that somebody wants it there, and leaves it there after the next domain.
        """
        drivers = self.drivers()
        moved = _moved(drivers, self.at_boot)
        for address in moved:
            if drivers.get(address) == "vfio-pci":
                self.lab.exec(f"virsh nodedev-reattach {node_name(address)}")
            else:
                self.lab.output(
                    f"cd /sys/bus/pci/devices/{address} && echo > driver_override; "
                    "if [ -e driver ]; then echo ${PWD##*/} > driver/unbind; fi; "
                    "echo ${PWD##*/} > /sys/bus/pci/drivers_probe"
                )
        return not moved


def node_name(address: str) -> str:
    """Return libvirt's name of a PCI function."""
    return f"pci_{address.replace(':', '_').replace('.', '_')}"


def until(condition: Callable[[], T], patience: float = 300.0) -> T:
    """Ask until the answer is yes, and return it; a busy machine takes its time."""
    give_up = time.monotonic() + patience
    while not (answer := condition()):
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.2)
    return answer


def _moved(now: dict[str, str | None], before: dict[str, str | None]) -> list[str]:
    return [address for address, driver in before.items() if now.get(address) != driver]


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
