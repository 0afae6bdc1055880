"""The lab that is running."""

import re
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from hypeman_lab import image, machine
from hypeman_lab.channel import Channel
from hypeman_lab.errors import LabError
from hypeman_lab.process import child
from hypeman_lab.qmp import Qmp

LIBVIRT_PORT = 16509
_NVME_SIZE = 64 << 20  # bytes
_ONE_ID = r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]=[0-9a-f]{4}:[0-9a-f]{4}:[0-9a-f]{6}"
_IDS = re.compile(rf"({_ONE_ID}(,{_ONE_ID})*)?")
_SYSFS = "/sys/bus/pci/devices"


@dataclass(kw_only=True)
class Lab:
    """A booted lab, as long as the `with` block lasts; every boot starts from the same disk.

    Attributes:
        libvirt: `stable` or `backports`: whose libvirt and QEMU are inside.
        ids: other ids for devices, `ADDRESS=VENDOR:DEVICE:CLASS,…` in hex; class 03 of vendor 10de
            also gets a driver called `nvidia`, whose parameters are in
            `/sys/module/vlab_pci/parameters`.
        kvm_inside: whether the guest has a (slow, emulated) /dev/kvm.
        iommu: whether the guest has an IOMMU.
        plugged: more devices, as QEMU's `-device` takes them: what is plugged in at this boot.
        uuid: of the machine, in its firmware; without one libvirt makes one up at each boot.
        port: where its libvirtd answers on 127.0.0.1; by default a free one is chosen.
        forwards: more TCP ports inside to be reached from outside; see `ports`.
        boot_timeout: seconds.
        ports: each port inside and where it is on 127.0.0.1.
        share: the directory that the guest sees as /share.
    """

    libvirt: str = "stable"
    ids: str = ""
    kvm_inside: bool = False
    iommu: bool = True
    plugged: Sequence[str] = ()
    uuid: str = ""
    port: int | None = None
    forwards: Sequence[int] = ()
    boot_timeout: float = 300.0
    ports: dict[int, int] = field(init=False, default_factory=dict)
    share: Path = field(init=False)

    def __post_init__(self) -> None:
        """Refuse ids that the lab would not understand."""
        if not _IDS.fullmatch(self.ids):
            raise LabError(
                f"ids are ADDRESS=VENDOR:DEVICE:CLASS,… in lower-case hex, not {self.ids!r}"
            )

    def __enter__(self) -> Self:
        """Build the image if there is none, boot it and wait until libvirtd answers.

        Raises:
            LabError: it can not be built or does not boot.
        """
        directory = image.build(self.libvirt)
        with ExitStack() as undo:
            self._boot(directory, undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the virtual machine and remove its directory."""
        self._undo.close()

    def _boot(self, directory: Path, undo: ExitStack) -> None:
        run_directory = Path(undo.enter_context(TemporaryDirectory(prefix="hypeman-lab-")))
        self.share = run_directory / "share"
        self.share.mkdir()
        nvme = run_directory / "nvme.raw"
        with nvme.open("wb") as file:
            file.truncate(_NVME_SIZE)
        self.ports = {LIBVIRT_PORT: self.port or _free_port()}
        self.ports |= {inner: _free_port() for inner in self.forwards}
        ours, theirs = (undo.enter_context(end) for end in socket.socketpair())
        command = machine.command(
            directory,
            self.share,
            nvme,
            monitor=theirs.fileno(),
            ports=self.ports,
            ids=self.ids,
            kvm_inside=self.kvm_inside,
            iommu=self.iommu,
            plugged=self.plugged,
            uuid=self.uuid,
        )
        self._console = run_directory / "console.log"
        qemu = child(command, log=self._console, pass_fds=[theirs.fileno()])
        self._process = undo.enter_context(qemu)
        theirs.close()  # so that ours ends when QEMU does
        self._channel = Channel(self.share, self.alive)
        ours.settimeout(self.boot_timeout)
        try:
            self._qmp = Qmp(ours)
            self._channel.wait_ready(self.boot_timeout)
        except (LabError, OSError) as error:
            raise LabError(f"{error}; the end of its console:\n{self.console(40)}") from None

    @property
    def uri(self) -> str:
        """The URI of the libvirtd inside, for use outside."""
        return f"qemu+tcp://127.0.0.1:{self.ports[LIBVIRT_PORT]}/system"

    def alive(self) -> bool:
        """Tell whether the virtual machine still runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until the virtual machine ends."""
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return self._process.pid

    def console(self, lines: int) -> str:
        """Return the last lines of what its kernel and QEMU said."""
        return "\n".join(self._console.read_text(errors="replace").splitlines()[-lines:])

    def exec(self, command: str, *, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a bash command in the guest, as root.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds; the command goes on running.
            LabError: the guest is gone.
        """
        try:
            return self._channel.run(command, timeout)
        except LabError as error:
            raise LabError(f"{error}; the end of its console:\n{self.console(60)}") from None

    def output(self, command: str, *, timeout: float = 120.0) -> str:
        """Run a bash command in the guest and return what it printed, without the last newline.

        Raises:
            LabError: it failed.
        """
        result = self.exec(command, timeout=timeout)
        if result.returncode:
            raise LabError(f"{command!r} failed with status {result.returncode}: {result.stderr}")
        return result.stdout.rstrip("\n")

    def put(self, path: str, text: str) -> None:
        """Write a file in the guest, with the directories above it."""
        source = self.share / "put"
        source.write_text(text)
        self.output(f"install -D -m 644 /share/put {shlex.quote(path)}")

    def copy(self, source: Path, path: str, *, timeout: float = 600.0) -> None:
        """Copy a file or a directory with all that is in it to `path` in the guest.

        A thousand files take the emulated machine minutes while the real one is busy.
        """
        target = PurePosixPath(path)
        archive = self._channel.pack(source, target.name)
        parent = shlex.quote(str(target.parent))
        unpack = f"mkdir -p {parent} && tar -x -f {archive} -C {parent} && rm {archive}"
        self.output(unpack, timeout=timeout)

    def write(self, path: str, value: str | int, *, timeout: float = 120.0) -> None:
        """Write a value into a file of sysfs.

        Raises:
            LabError: the kernel refuses it.
        """
        self.output(f"printf %s {shlex.quote(str(value))} > {shlex.quote(path)}", timeout=timeout)

    def driver(self, address: str) -> str | None:
        """Return the driver of a PCI device, None for a device without one."""
        link = self.output(f"readlink {_SYSFS}/{address}/driver || test -d {_SYSFS}/{address}")
        return PurePosixPath(link).name or None

    def ifindex(self, address: str) -> int | None:
        """Return the number of a NIC's network interface; a new one means a new probe."""
        found = self.output(f"cat {_SYSFS}/{address}/{{,virtio*/}}net/*/ifindex 2>/dev/null || :")
        return int(found) if found else None

    def addresses(self) -> list[str]:
        """Return the addresses of all PCI devices, from sysfs."""
        return self.output(f"ls {_SYSFS}").split()

    def qmp(self, execute: str, **arguments: object) -> Any:  # noqa: ANN401 - any JSON value
        """Ask the QEMU around the guest; see Qmp.execute."""
        return self._qmp.execute(execute, **arguments)

    def hotplug(self, driver: str = "e1000e") -> str:
        """Plug a device into the empty root port and return its address, once the guest has it."""
        self.qmp("device_add", driver=driver, bus="rp11", id="hotplugged")
        self._wait(lambda: self._hotplugged() is not None, "the guest does not see the new device")
        return self._hotplugged() or ""

    def unplug(self) -> None:
        """Pull that device out again and come back when it is gone.

        A device that a domain holds goes when the domain lets go of it.
        """
        self.qmp("device_del", id="hotplugged")
        self._wait(lambda: not self._plugged(), "the guest does not let the device go")

    def stop_libvirtd(self, signal: str = "TERM") -> None:
        """End the libvirtd inside, its domains go on; `KILL` makes it a crash."""
        self.output(f"pkill -{signal} -x libvirtd; while pgrep -x libvirtd; do sleep 0.1; done")

    def start_libvirtd(self) -> None:
        """Start the libvirtd inside and come back when it answers."""
        self.output("lab-libvirtd")

    def restart_libvirtd(self, signal: str = "TERM") -> None:
        """Stop and start the libvirtd inside."""
        self.stop_libvirtd(signal)
        self.start_libvirtd()

    def _hotplugged(self) -> str | None:
        below = self.output(
            f"cd {_SYSFS}/{machine.HOTPLUG_PORT} && ls -d 0000:??:??.? 2>/dev/null || :"
        )
        return below or None

    def _plugged(self) -> bool:
        return any(
            item["name"] == "hotplugged"
            for item in self.qmp("qom-list", path="/machine/peripheral")
        )

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(otherwise)
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
