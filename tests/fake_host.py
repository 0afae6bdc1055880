"""The machine behind ``tests.fake_libvirt`` as libvirt sees it: node devices and domains.

It does what libvirt 9.0 on a real host was seen to do, the ugly parts included: a return of 0
after which a device has no driver, an unplug that the guest ignores, a start that fails late.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Unpack

from lxml.etree import _Element as Element

from tests.fake_errors import (
    ARGUMENT_UNSUPPORTED,
    CONFIG_UNSUPPORTED,
    DEVICE_MISSING,
    FROM_DOMAIN,
    FROM_HOSTDEV,
    FROM_NODEDEV,
    FROM_QEMU,
    FROM_RPC,
    INTERNAL,
    OPERATION_FAILED,
    OPERATION_INVALID,
    SYSTEM,
    failure,
    libvirtError,
)
from tests.fake_files import FilesOnDisk
from tests.fake_machine import TEST_POOL, Machine, Mdev, Pci
from tests.fake_xml import (
    DomainFacts,
    address_of,
    assign_slots,
    assigned,
    domain_element,
    held,
    hostdev_element,
    is_managed,
    leaf,
    on_vfio,
    parse,
    parse_domain,
    passed_through,
    references,
    shares_slot,
    show,
    source_of,
    without,
)

Firmware = Literal["uuid", "empty", "unreadable"]
"""Whether its SMBIOS has the host's UUID, has none, or cannot be read by libvirt."""
RUNNING: Final = 1
SHUTOFF: Final = 5
KNOWS_PROVIDERS: Final = 9_007_000
"""The libvirt that knows VFIO providers other than vfio-pci; an older one takes devices from them
for a managed hostdev, and both cannot bring them back."""
_PCIE_ROOT: Final = "devices/controller[@model='pcie-root']"


@dataclass
class Guest:
    """A domain: its definition, its live XML while it runs, and how its guest behaves."""

    uuid: str
    name: str
    config: Element | None
    live: Element | None = None
    state: int = SHUTOFF
    ignores_unplug: bool = False
    refuses_unplug: bool = False
    detached_by_libvirt: set[str] = field(default_factory=set)

    @property
    def active(self) -> bool:
        return self.live is not None


class FakeHost(Machine):
    """A host that ``libvirt.open(host.uri)`` reaches while the object is not closed.

    The verbs that tests speak: ``add_pci``, ``add_child``, ``add_node``, ``add_domain``,
    ``vanish``, ``refuse``, ``allow``, ``hang``, ``drop_connections``, ``down``, ``up``,
    ``vfio_refuses``, ``driver_refuses``, ``is_conventional``, ``guest_ignores_unplug``,
    ``guest_refuses_unplug``, ``lose_reply``,
    ``set_driver`` (what a person does in sysfs), ``virsh_start``, ``virsh_destroy``,
    ``virsh_attach``, ``virsh_detach``, ``virsh_undefine``; and to look: ``driver``, ``pci``,
    ``guest``, ``calls``.
    """

    def __init__(self, uuid_: str | None = None, *, iommu: bool = True) -> None:
        """Make an empty host; without an IOMMU no device is in a group and VFIO does not work."""
        super().__init__(iommu=iommu)
        self.name = uuid.uuid4().hex
        self.uri = f"vz:///{self.name}"
        self.uuid = uuid_ or str(uuid.uuid4())
        self.firmware: Firmware = "uuid"
        self.is_up = True
        self.pci_work = threading.Lock()
        self.guests: dict[str, Guest] = {}
        self.names: dict[str, str] = {}  # of domains that are gone as well, for their events
        self._sessions: list[Callable[[bool], None]] = []
        self._next_domain_id = 0
        self._files: FilesOnDisk | None = None

    def keep_files(self, directory: Path, *, long_ago: bool = True) -> FilesOnDisk:
        """Keep each domain's files in the directory from now on, as the libvirt of a host does."""
        definitions, states = directory / "definitions", directory / "states"
        self._files = FilesOnDisk(definitions, states, long_ago=long_ago)
        for guest in self.guests.values():
            self.save(guest)
        return self._files

    def save(self, guest: Guest) -> None:
        """Replace a domain's files: libvirt does before its call returns, and before events."""
        if self._files is not None:
            there = guest.uuid in self.guests
            self._files.save(
                guest.name,
                defined=there and guest.config is not None,
                running=there and guest.active,
            )

    def add_domain(
        self,
        name: str,
        *,
        running: bool = False,
        persistent: bool = True,
        **facts: Unpack[DomainFacts],
    ) -> Guest:
        """Define a domain, and start it if it is to run."""
        xml = show(domain_element(name, **facts))
        return self.add_domain_xml(xml, running=running, persistent=persistent)

    def add_domain_xml(self, xml: str, *, running: bool = False, persistent: bool = True) -> Guest:
        """Define (or only start) the domain of an XML document."""
        guest = self.define(xml)
        if running:
            self.start(guest)
        if not persistent:
            guest.config = None
            self.save(guest)
        return guest

    def load(self, path: Path) -> None:
        """Take in a host that is written for libvirt's test driver."""
        document = parse(path.read_text())
        for device in document.iterfind("device"):
            self.add_node(show(device))
        self.networks |= {
            each.findtext("name") or "": show(each) for each in document.iterfind("network")
        }
        self.pools += [TEST_POOL for _ in document.iterfind("pool")]
        for domain in document.iterfind("domain"):
            off = domain.find("{http://libvirt.org/schemas/domain/test/1.0}runstate")
            if off is not None:
                domain.remove(off)
            self.add_domain_xml(show(domain), running=off is None)

    def switch_iommu_off(self) -> None:
        """Start the host anew without an IOMMU: no device is in a group any more."""
        self.iommu = False
        for device in self.functions():
            device.leave_group()

    def guest(self, name: str) -> Guest:
        """Return a domain by name."""
        return next(guest for guest in self.guests.values() if guest.name == name)

    def drop_connections(self, *, unnoticed: bool = False) -> None:
        """Break every connection; unnoticed: no close callback, and isAlive() stays 1."""
        with self.lock:
            sessions, self._sessions = self._sessions, []
        for drop in sessions:
            drop(unnoticed)

    def down(self) -> None:
        """Stop the daemon: connections break, new ones are refused."""
        self.is_up = False
        self.drop_connections()

    def up(self) -> None:
        """Start the daemon again: it makes a UUID up where it reads none from the firmware."""
        if self.firmware != "uuid":
            self.uuid = str(uuid.uuid4())
        self.is_up = True

    def guest_ignores_unplug(self, name: str, *, ignores: bool = True) -> None:
        """Let the guest not answer unplug requests."""
        self.guest(name).ignores_unplug = ignores

    def guest_refuses_unplug(self, name: str, *, refuses: bool = True) -> None:
        """Let the guest answer unplug requests with a no, which libvirt announces."""
        self.guest(name).refuses_unplug = refuses

    def virsh_start(self, name: str) -> None:
        """Start a domain as ``virsh start`` does."""
        self.start(self.guest(name))

    def virsh_destroy(self, name: str) -> None:
        """Stop a domain as ``virsh destroy`` does."""
        self.stop(self.guest(name))

    def virsh_attach(
        self, name: str, address: str, *, live: bool = True, config: bool = True
    ) -> None:
        """Attach a device, managed, as ``virsh attach-device`` does."""
        self.attach(self.guest(name), show(hostdev_element(address, managed=True)), live, config)

    def virsh_detach(
        self, name: str, address: str, *, live: bool = True, config: bool = True
    ) -> None:
        """Detach a device as ``virsh detach-device`` does."""
        self.detach(self.guest(name), show(hostdev_element(address, managed=True)), live, config)

    def virsh_undefine(self, name: str) -> None:
        """Forget a definition as ``virsh undefine`` does."""
        self.undefine(self.guest(name))

    def join(self, drop: Callable[[bool], None]) -> None:
        """Take a new connection in, or refuse it while the daemon is down."""
        self.enter("open")
        if not self.is_up:
            raise failure(SYSTEM, FROM_RPC, "Failed to connect socket: Connection refused")
        with self.lock:
            self._sessions.append(drop)

    def leave(self, drop: Callable[[bool], None]) -> None:
        """Forget a connection that was closed."""
        with self.lock:
            if drop in self._sessions:
                self._sessions.remove(drop)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._sessions)

    def take_to_vfio(self, device: Pci) -> None:
        """virNodeDeviceDetachFlags."""
        if not self.iommu:
            raise failure(ARGUMENT_UNSUPPORTED, FROM_NODEDEV, "host does not support VFIO")
        self._refuse_if_in_use(device)
        self._detach(device)

    def give_back(self, device: Pci) -> None:
        """virNodeDeviceReAttach: also bounces a device that is on its host driver."""
        self._refuse_if_in_use(device)
        self._reattach(device)
        if self._group_in_use(device):
            device.driver = None
            raise failure(SYSTEM, FROM_NODEDEV, "failed to bind: group in use")

    def define(self, xml: str) -> Guest:
        """virDomainDefineXML."""
        element = parse_domain(xml)
        key = element.findtext("uuid") or str(uuid.uuid4())
        name = element.findtext("name") or ""
        if element.find("uuid") is None:
            leaf(element, "uuid", key)
        assign_slots(element, hotplug=False)
        with self.lock:
            guest = self.guests.setdefault(key, Guest(key, name, element))
            guest.config = element
            self.names[key] = name
        self.save(guest)
        self.notify("lifecycle", (guest.uuid, 0, 0))
        return guest

    def remove_mdev(self, mdev: Mdev) -> None:
        """virNodeDeviceDestroy: one that a domain runs with stays."""
        if any(mdev.uuid in references(guest.live) for guest in self.guests.values()):
            raise failure(INTERNAL, FROM_NODEDEV, "Unable to destroy: device in use")
        self.end_mdev(mdev)

    def start(self, guest: Guest) -> None:
        """virDomainCreate: libvirt binds managed devices and undoes it when one fails."""
        if guest.active:
            raise failure(OPERATION_INVALID, FROM_DOMAIN, "domain is already running")
        live = deepcopy(guest.config)
        assert live is not None
        with self.pci_work:
            self._refuse_if_gone(references(live))
            guest.detached_by_libvirt = self._prepare(passed_through(live))
        with self.lock:
            self._next_domain_id += 1
            live.set("id", str(self._next_domain_id))
            guest.live, guest.state = live, RUNNING
        self.save(guest)
        self.notify("lifecycle", (guest.uuid, 2, 0))

    def stop(self, guest: Guest) -> None:
        """virDomainDestroy: only what libvirt itself detached goes back to its driver."""
        if not guest.active:
            raise failure(OPERATION_INVALID, FROM_DOMAIN, "domain is not running")
        with self.pci_work, self.lock:
            guest.live, guest.state = None, SHUTOFF
            self._release(guest, guest.detached_by_libvirt)
            if guest.config is None:
                del self.guests[guest.uuid]
        self.save(guest)
        self.notify("lifecycle", (guest.uuid, 5, 0))

    def undefine(self, guest: Guest) -> None:
        """virDomainUndefine: a running domain stays, as a transient one."""
        with self.lock:
            guest.config = None
            if not guest.active:
                del self.guests[guest.uuid]
        self.save(guest)
        self.notify("lifecycle", (guest.uuid, 1, 0))

    def attach(self, guest: Guest, xml: str, live: bool, config: bool) -> None:
        """virDomainAttachDeviceFlags."""
        self.check_affected(guest, live, config)
        hostdev = parse(xml)
        pci = hostdev.get("type") != "mdev"
        config_after = self._with(guest.config, hostdev, hotplug=False) if config else None
        if live:
            _refuse_other_function(hostdev)
            if pci:
                self._refuse_conventional(hostdev, guest)
            live_after = self._with(guest.live, hostdev, hotplug=True)
            with self.pci_work:
                if pci:
                    guest.detached_by_libvirt |= self._prepare([hostdev])
                else:
                    self._refuse_if_gone([source_of(hostdev)])
            guest.live = live_after
            self.save(guest)
            self.notify("device_added", (guest.uuid, f"hostdev_{source_of(hostdev)}"))
        if config_after is not None:
            guest.config = config_after
            self.save(guest)

    def detach(self, guest: Guest, xml: str, live: bool, config: bool) -> None:
        """virDomainDetachDeviceFlags: returns 0 also when the guest does not let go."""
        self.check_affected(guest, live, config)
        address = source_of(parse(xml))
        for affected, definition in ((config, guest.config), (live, guest.live)):
            if affected and address not in map(source_of, assigned(definition)):
                raise failure(DEVICE_MISSING, FROM_QEMU, f"device not found: {address}")
        if live and shares_slot(guest.live, address):
            raise failure(OPERATION_FAILED, FROM_QEMU, "cannot hot unplug a multifunction device")
        if live and guest.refuses_unplug:
            self.notify("device_removal_failed", (guest.uuid, f"hostdev_{address}"))
        elif live and not guest.ignores_unplug:
            guest.live = without(guest.live, address)
            with self.pci_work:
                self._release(guest, guest.detached_by_libvirt & {address})
            self.save(guest)
            self.notify("device_removed", (guest.uuid, f"hostdev_{address}"))
        if config:
            guest.config = without(guest.config, address)
            self.save(guest)

    def _user_of(self, address: str) -> Guest | None:
        return next((g for g in self.guests.values() if address in held(g.live)), None)

    def _refuse_if_in_use(self, device: Pci) -> None:
        user = self._user_of(device.address)
        if user is not None:
            raise failure(
                OPERATION_INVALID,
                FROM_HOSTDEV,
                f"PCI device {device.address} is in use by driver QEMU, domain {user.name}",
            )

    def _group_in_use(self, device: Pci) -> bool:
        siblings = (other for other in self.functions() if other.group == device.group)
        return device.group is not None and any(self._user_of(s.address) for s in siblings)

    def _prepare(self, wanted: list[Element]) -> set[str]:
        """Bring the devices of a domain onto VFIO; return those that libvirt detached itself."""
        detached: list[Pci] = []
        try:
            for hostdev in wanted:
                device = self._find_for_domain(source_of(hostdev))
                self._refuse_if_in_use(device)
                if not self._is_ready(device, hostdev):
                    self._detach_for_domain(device, hostdev)
                    detached.append(device)
            for hostdev in wanted:
                self._refuse_if_not_viable(self._find_for_domain(source_of(hostdev)))
        except libvirtError:
            for device in detached:
                self._reattach(device)
            raise
        return {device.address for device in detached}

    def _refuse_if_gone(self, wanted: Iterable[str]) -> None:
        """Start no domain on a disk or a mediated device that is not there, or is another's."""
        for each in wanted:
            if each in self.mdevs.keys() | self.gone_mdevs:
                if each not in self.mdevs:
                    raise failure(DEVICE_MISSING, FROM_HOSTDEV, f"no mediated device {each}")
                if any(each in references(guest.live) for guest in self.guests.values()):
                    raise failure(OPERATION_INVALID, FROM_HOSTDEV, f"{each} is in use")
            elif not self.is_there(each):
                raise failure(SYSTEM, FROM_QEMU, f"cannot access {each}")

    def _find_for_domain(self, address: str) -> Pci:
        if not self.iommu:
            raise failure(CONFIG_UNSUPPORTED, FROM_QEMU, "host doesn't support passthrough")
        try:
            device = self.pci(address)
        except KeyError:
            raise failure(INTERNAL, FROM_QEMU, "the cause is unknown") from None
        if device.is_bridge:
            raise failure(INTERNAL, FROM_QEMU, f"{address} is a non-endpoint device")
        return device

    def _is_ready(self, device: Pci, hostdev: Element) -> bool:
        """Whether libvirt takes a device as it is: from 9.7 on, unmanaged, also on a provider."""
        leaves = self.libvirt >= KNOWS_PROVIDERS and hostdev.get("managed") != "yes"
        return device.driver == "vfio-pci" or (leaves and device.is_left_on_provider)

    def _detach_for_domain(self, device: Pci, hostdev: Element) -> None:
        if not is_managed(hostdev):
            raise failure(
                OPERATION_INVALID,
                FROM_HOSTDEV,
                f"Unmanaged PCI device {device.address} is not on VFIO",
            )
        if device.is_left_on_provider:
            device.host_driver = "vfio-pci" if self.libvirt >= KNOWS_PROVIDERS else None
            device.vfio_driver = "vfio-pci"
            self._lose_driver(device)
        self._detach(device)

    def _refuse_if_not_viable(self, device: Pci) -> None:
        for other in self.functions():
            same = other.group == device.group and device.group is not None
            free = on_vfio(other.driver or "vfio-pci") or other.is_left_on_provider
            if same and not other.is_bridge and not free:
                raise failure(INTERNAL, FROM_QEMU, f"group {device.group} is not viable")
        if not (on_vfio(device.driver) or device.is_left_on_provider):
            raise failure(INTERNAL, FROM_QEMU, "failed to open the VFIO device")

    def _release(self, guest: Guest, addresses: Iterable[str]) -> None:
        released = set(addresses)
        guest.detached_by_libvirt -= released
        for device in list(self.functions()):
            if device.address in released:
                self._reattach(device)

    def _refuse_conventional(self, hostdev: Element, guest: Guest) -> None:
        """Hot-plug conventional PCI below a root port only when told which, as libvirt does."""
        device = self._find_for_domain(source_of(hostdev))
        q35 = guest.live is not None and guest.live.find(_PCIE_ROOT) is not None
        if device.conventional and q35 and hostdev.find("address[@type='pci']") is None:
            raise failure(INTERNAL, FROM_DOMAIN, "internal error: No more available PCI slots")

    def check_affected(self, guest: Guest, live: bool, config: bool) -> None:
        if live and not guest.active:
            raise failure(OPERATION_INVALID, FROM_DOMAIN, "domain is not running")
        if config and guest.config is None:
            raise failure(OPERATION_INVALID, FROM_DOMAIN, "cannot modify a transient domain")

    def _with(self, definition: Element | None, hostdev: Element, *, hotplug: bool) -> Element:
        assert definition is not None
        address = source_of(hostdev)
        if address in held(definition) | references(definition):
            raise failure(OPERATION_INVALID, FROM_DOMAIN, f"{address} is already in the domain")
        after = deepcopy(definition)
        devices = after.find("devices")
        assert devices is not None
        devices.append(deepcopy(hostdev))
        assign_slots(after, hotplug=hotplug)
        return after


def _refuse_other_function(hostdev: Element) -> None:
    """Hot-plug function 0 only, as libvirt does."""
    address = hostdev.find("address[@type='pci']")
    if address is not None and not address_of(address).endswith(".0"):
        raise failure(INTERNAL, FROM_DOMAIN, "Only PCI device addresses with function=0")
