"""A GPU whose driver makes vGPUs of its virtual functions, as NVIDIA's does since Linux 6.8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import DeviceError, HelperFailedError, InUseError
from tests.fake_helper import FakeRootHelper
from tests.fake_host import FakeHost
from tests.host.fake_sysfs import FakeSysfs

GPU: Final = "0000:b1:00.0"
FUNCTIONS: Final = tuple(f"0000:b1:00.{number}" for number in range(4, 7))
SMALL, LARGE = "NVIDIA L40S-1B", "NVIDIA L40S-4Q"
TYPES: Final = {1145: SMALL, 1155: LARGE}
_BELOW: Final = "/sys/devices/pci0000:b1"
_ROOM: Final = 2
_HEAD: Final = "ID    : vGPU Name\n"


class VendorGpu(FakeRootHelper):
    """The GPU, in libvirt and in sysfs, and the helper that writes the types.

    It has room for two vGPUs, of one type at a time. ``answers`` is what a write of a type becomes,
    ``refusal`` what requests answer instead.
    """

    def __init__(self, host: FakeHost, sysfs: FakeSysfs) -> None:
        super().__init__(host)
        self._sysfs = sysfs
        self.open: set[str] = set()
        self.refusal: DeviceError | None = None
        self.answers: Callable[[int], int] = lambda vgpu_type: vgpu_type
        self._add(GPU, "nvidia", max_vfs=16)
        for number, address in enumerate(FUNCTIONS):
            self._add(address, "nvidia", physical_function=GPU, group=91 + number)
            host.provides_vfio(address)
            self._sysfs.write(f"{_BELOW}/{address}/vfio-dev/vfio{number}/dev", "243:0\n")
            self.vgpu_types[PciAddress.parse(address)] = 0
        self.show()

    def set_vgpu_type(self, device: PciAddress, vgpu_type: int) -> None:
        if self.refusal is not None:
            raise self.refusal
        if str(device) in self.open:
            raise InUseError(f"a process has {device} open")
        if vgpu_type and vgpu_type not in self._creatable(device):
            raise HelperFailedError(f"{device} cannot be of type {vgpu_type} now")
        super().set_vgpu_type(device, vgpu_type)
        self.vgpu_types[device] = self.answers(vgpu_type)
        self.show()

    def show(self) -> None:
        """Write what sysfs says of every virtual function."""
        for device, vgpu_type in self.vgpu_types.items():
            directory = f"{_BELOW}/{device}/nvidia"
            types = "".join(f"{each}  : {TYPES[each]}\n" for each in self._creatable(device))
            self._sysfs.write(f"{directory}/creatable_vgpu_types", _HEAD + types)
            self._sysfs.write(f"{directory}/current_vgpu_type", f"{vgpu_type}\n")

    def _creatable(self, device: PciAddress) -> list[int]:
        """List the types that fit: none on a function that has one, one type at a time."""
        living = [each for each in self.vgpu_types.values() if each]
        if self.vgpu_types[device] or len(living) >= _ROOM:
            return []
        return [each for each in TYPES if {*living} <= {each}]

    def _add(self, address: str, driver: str, **facts: object) -> None:
        facts.setdefault("group", 90)
        self._host.add_pci(
            address,
            product="26b9",
            product_name="AD102GL [L40S]",
            driver=driver,
            **facts,  # type: ignore[arg-type]
        )
        self._sysfs.add_pci(address, vendor_id="10de", device_id="26b9", below=_BELOW)
