"""NVMe controllers of this host, and the hardware by which it reaches them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hypeman_libvirt.host.usage.sysfs import LocalFiles

_SUBSYSTEM: Final = re.compile(r"(/sys/devices/virtual/nvme-subsystem/[^/]+)/")
_FABRICS: Final = re.compile(r"(/sys/devices/virtual/nvme-fabrics/ctl/[^/]+)/")
_CONTROLLER: Final = re.compile(r"nvme\d+")
_HOST_PORT: Final = re.compile(r"host_traddr=nn-0x[0-9a-f]+:pn-(0x[0-9a-f]+)")
_FC_HOSTS: Final = "/sys/class/fc_host"


def list_controllers(files: LocalFiles, disk: str) -> Sequence[str]:
    """Return directories of the controllers of a disk that has no hardware above it in sysfs.

    With multipath those are all controllers of the subsystem, linked there; over fabrics the one
    that the disk lies below. Empty for any other disk.

    Source: the kernel's nvme_init_subsystem() and nvmf_create_ctrl().
    """
    subsystem, fabrics = _SUBSYSTEM.match(disk), _FABRICS.match(disk)
    if subsystem is not None:
        names = filter(_CONTROLLER.fullmatch, files.names(subsystem[1]))
        return [files.resolve(f"{subsystem[1]}/{name}") for name in names]
    return [] if fabrics is None else [fabrics[1]]


def list_adapters(files: LocalFiles, controller: str) -> Sequence[str]:
    """Return where the controller is reached: its own directory, or over FC that of the HBA.

    An FC controller that names no port of ours may be behind any. Over TCP and RDMA the address
    of the network interface says that the host uses it.

    Source: the kernel's nvmf_get_address() and Documentation/ABI/testing/sysfs-class-fc_host.
    """
    if files.text(f"{controller}/transport") != "fc":
        return [controller]
    port = _HOST_PORT.search(files.text(f"{controller}/address"))
    hosts = {
        files.resolve(f"{_FC_HOSTS}/{name}"): files.text(f"{_FC_HOSTS}/{name}/port_name")
        for name in files.names(_FC_HOSTS)
    }
    places = [place for place, name in hosts.items() if port is not None and name == port[1]]
    return places or list(hosts)
