"""The virtual machine as QEMU's command line: every device of the lab and its address."""

from collections.abc import Mapping, Sequence
from pathlib import Path

HOTPLUG_PORT = "0000:00:12.0"
# no_timer_check: on a busy machine the kernel takes a late timer for a broken one and panics.
_KERNEL_ARGUMENTS = (
    "console=ttyS0 loglevel=4 intel_iommu=on iommu=pt mitigations=off nokaslr audit=0 nowatchdog"
    " no_timer_check random.trust_cpu=on cryptomgr.notests panic=1"
)

# Each virtual function takes two queues and one interrupt of the flexible ones.
_SRIOV = "sriov_max_vfs=15,sriov_vq_flexible=30,sriov_vi_flexible=15,max_ioqpairs=34,msix_qsize=20"


def root_port(number: int, slot: str, bus: str = "pcie.0") -> str:
    """Describe a root port `rpN`, behind which one card can be plugged in."""
    return f"pcie-root-port,id=rp{number},bus={bus},chassis={number},slot={number},addr={slot}"


# The order is the numbering of the buses: rp1 leads to bus 01, rp6 to 04, rp11 to 0a.
_DEVICES = (
    root_port(1, "08.0"),
    "e1000e,bus=rp1,mac=52:54:00:aa:00:01",
    root_port(2, "09.0"),
    "virtio-net-pci,bus=rp2,iommu_platform=on,disable-legacy=on,mac=52:54:00:aa:00:02",
    # An NVMe controller whose virtual functions come with `echo 2 > …/sriov_numvfs`.
    root_port(3, "0a.0"),
    "nvme-subsys,id=nvmes",
    f"nvme,bus=rp3,serial=lab0,subsys=nvmes,{_SRIOV}",
    "nvme-ns,drive=nvme,nsid=1,shared=on",
    # The second socket: a root complex of its own, buses 80 and up, NUMA node 1.
    "pxb-pcie,id=pxb1,bus=pcie.0,addr=04.0,multifunction=on,bus_nr=128,numa_node=1",
    root_port(4, "00.0", "pxb1"),
    "bochs-display,bus=rp4",
    # A GPU with its audio function: one slot, one IOMMU group.
    root_port(5, "01.0", "pxb1"),
    "bochs-display,bus=rp5,addr=00.0,multifunction=on",
    "intel-hda,bus=rp5,id=hda,addr=00.1",
    "hda-output,bus=hda.0,audiodev=none",
    # Two conventional NICs behind a bridge: one IOMMU group for the three.
    root_port(6, "0d.0"),
    "pcie-pci-bridge,bus=rp6,id=bridge",
    "e1000,bus=bridge,addr=01.0,mac=52:54:00:aa:00:03",
    "rtl8139,bus=bridge,addr=02.0,mac=52:54:00:aa:00:04",
    # Linux has no driver for these two.
    root_port(7, "0e.0"),
    "edu,bus=rp7",
    root_port(8, "0f.0"),
    "pci-testdev,bus=rp8",
    root_port(9, "10.0"),
    "virtio-gpu-pci,bus=rp9,iommu_platform=on",
    root_port(10, "11.0"),
    "secondary-vga,bus=rp10",
    root_port(11, "12.0"),
)


def command(
    image: Path,
    share: Path,
    nvme: Path,
    *,
    monitor: int,
    ports: Mapping[int, int],
    ids: str = "",
    kvm_inside: bool = False,
    iommu: bool = True,
    plugged: Sequence[str] = (),
    uuid: str = "",
) -> list[str]:
    """Return the command line of QEMU.

    Args:
        image: directory that image.build made. Its disk stays as it is; writes go to a temporary
            file.
        share: directory that the guest sees as /share.
        nvme: what its NVMe stores.
        monitor: file descriptor of a connected socket, for QMP.
        ports: TCP ports inside the guest and where they are on 127.0.0.1 outside.
        ids: see Lab.
        kvm_inside: see Lab.
        iommu: see Lab.
        plugged: see Lab.
        uuid: see Lab.
    """
    # The CPU's SVM is emulated in software, hence a working /dev/kvm inside without any outside.
    cpu = "max,la57=off" if kvm_inside else "max,la57=off,svm=off"
    kernel = f"{_KERNEL_ARGUMENTS} LAB_IDS={ids}" if ids else _KERNEL_ARGUMENTS
    return [
        *("qemu-system-x86_64", "-name", "hypeman-lab", "-machine", "q35", "-cpu", cpu),
        *("-accel", "tcg,thread=multi,tb-size=512", "-m", "4096", "-smp", "2,sockets=2"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-kernel", f"{image}/vmlinuz", "-initrd", f"{image}/initramfs.cpio", "-append", kernel),
        *("-serial", "stdio"),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
        *(("-device", "intel-iommu,intremap=on") if iommu else ()),
        *_memory(),
        *_infrastructure(image, share, ports),
        *(("-uuid", uuid) if uuid else ()),
        *("-drive", f"if=none,id=nvme,file={nvme},format=raw,cache=unsafe"),
        *(word for device in (*_DEVICES, *plugged) for word in ("-device", device)),
    ]


def _memory() -> list[str]:
    """Two NUMA nodes of 2 GiB and one CPU each."""
    words = []
    for node in (0, 1):
        words += ["-object", f"memory-backend-ram,id=ram{node},size=2G"]
        words += ["-numa", f"node,nodeid={node},cpus={node},memdev=ram{node}"]
    return words


def _infrastructure(image: Path, share: Path, ports: Mapping[int, int]) -> list[str]:
    """What the lab itself lives on: its root disk, the shared directory, the way in."""
    forwards = [f"hostfwd=tcp:127.0.0.1:{outer}-:{inner}" for inner, outer in ports.items()]
    # restrict=on: the guest reaches nothing outside, only these forwards come in.
    network = ",".join(["user,id=net", "restrict=on", *forwards])
    disk = f"if=none,id=root,file={image}/disk.raw,format=raw,cache=unsafe,snapshot=on"
    return [
        *("-drive", disk, "-device", "virtio-blk-pci,drive=root,bus=pcie.0,addr=02.0"),
        *("-fsdev", f"local,id=share,path={share},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=share,mount_tag=share,bus=pcie.0,addr=03.0"),
        *("-netdev", network),
        # Second function of the slot of pxb1, so that it opens no IOMMU group: the GPU's is 25.
        *("-device", "virtio-net-pci,netdev=net,bus=pcie.0,addr=04.1,mac=52:54:00:aa:00:ff"),
        *("-audiodev", "none,id=none"),
    ]
