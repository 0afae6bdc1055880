"""What can be seen of the host when the service runs on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.usage.block_devices import BlockDevices
from hypeman_libvirt.host.usage.network import LocalNetwork
from hypeman_libvirt.host.usage.rtnetlink import Interface, read_interfaces
from hypeman_libvirt.host.usage.storage import LocalStorage, read_storage
from hypeman_libvirt.host.usage.sysfs import LocalFiles


def is_local(uri: str) -> bool:
    """Whether a connection's URI speaks of the host that the service runs on.

    A socket of one's own choosing may be the end of a tunnel, and test hosts are made up.

    Source: https://libvirt.org/uri.html
    """
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    chosen = "socket" in parse_qs(parts.query)
    return not (parts.netloc or chosen or driver in {"", "test"}) and transport in {"", "unix"}


@dataclass(frozen=True, slots=True)
class LocalHostSnapshot:
    """The host at one moment.

    Attributes:
        files: Its ``/sys`` and ``/proc``.
        storage: What lies on its disks; None where its mounts cannot be seen.
        network: What its interfaces are for; None where they cannot be seen.
    """

    files: LocalFiles
    storage: LocalStorage | None
    network: LocalNetwork | None

    def has(self, device: NodeDevice) -> bool:
        """Whether the device is in this host's sysfs, so that libvirt speaks of this host."""
        facts = [self.files.text(f"{device.path}/{name}") for name in ("vendor", "device")]
        return facts == [f"0x{device.vendor_id}", f"0x{device.device_id}"]


class LocalHost:
    """The host that the service runs on."""

    def __init__(
        self,
        root: Path = Path("/"),
        read_interfaces: Callable[[], Sequence[Interface]] = read_interfaces,
    ) -> None:
        """Take the place of ``/sys`` and ``/proc``, and who to ask for the interfaces."""
        self.root = root
        self.files = LocalFiles(root)
        self._read_interfaces = read_interfaces

    def read(self) -> LocalHostSnapshot:
        """Read the host as it is now."""
        storage = read_storage(self.files, BlockDevices(self.files))
        return LocalHostSnapshot(self.files, storage, self._read_network())

    def _read_network(self) -> LocalNetwork | None:
        try:
            return LocalNetwork(self._read_interfaces(), self.files)
        except OSError:
            return None
