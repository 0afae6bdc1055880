"""What the use cases need of the world, and who implements it.

``hypeman_libvirt.host`` implements HostView, Host and HostChanges, ``hypeman_libvirt.registry``
Registry, HostDrivers and Locks, ``hypeman_libvirt.helper`` RootHelper.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.domain import (
    Assignment,
    Domain,
    GuestInterface,
    MetadataEntry,
    Usage,
)
from hypeman_libvirt.devices.host_identity import HostIdentity
from hypeman_libvirt.devices.model import Change, Quarantine, Registration
from hypeman_libvirt.devices.node_device import (
    HostUse,
    MediatedDevice,
    NetworkLink,
    NodeDevice,
)
from hypeman_libvirt.devices.surroundings import GuestMachine, Hardware

Clock: TypeAlias = Callable[[], datetime]
"""Now, in UTC."""

NewId: TypeAlias = Callable[[], str]
"""A new CUID2."""

OnChange: TypeAlias = Callable[[Change], None]
"""Is called with every change that was made, in the thread that made it."""

AssignmentsByDevice: TypeAlias = Mapping[HostDeviceId, Sequence[Assignment]]
"""Which domains have which device, running ones first; a free device has no entry or an empty one.
"""


class HostView(Protocol):
    """The libvirt host for reads that decide over no change: lists, metrics, events and the page.

    It may be a cache. Whatever decides over a change takes a Host, which this is not.

    Raises: every method LibvirtUnavailableError, LibvirtDeniedError, NotSupportedError,
    LibvirtFailedError.
    """

    def key(self) -> str:
        """Return what registrations are keyed by; see HostIdentity."""

    def ping(self) -> None:
        """Raise if libvirt does not answer."""

    def node_device(self, device: HostDeviceId) -> NodeDevice | None:
        """Look up a PCI function, or a mediated device that is active; None when there is none."""

    def node_device_named(self, node_name: str) -> NodeDevice | None:
        """Look up a PCI function by libvirt's name; None when there is none."""

    def list_node_devices(self) -> Sequence[NodeDevice]:
        """List every PCI function, by address. One that vanishes meanwhile is left out."""

    def list_hardware(self) -> Sequence[NodeDevice]:
        """List every PCI function, by address, to know cards by: drivers may have changed since.

        The very same object as before while no function has come or gone.
        """

    def list_mdevs(self) -> Sequence[MediatedDevice]:
        """List mediated devices, active or only defined, by UUID; whoever made them."""

    def list_assignments(self) -> AssignmentsByDevice:
        """Say which domains have which device, running ones first."""

    def list_domains(self) -> Sequence[Domain]:
        """List all domains, active or not."""

    def list_host_uses(self, endpoints: Collection[NodeDevice]) -> Sequence[HostUse]:
        """Say what the host itself does with these endpoints."""

    def has_vfio(self) -> bool | None:
        """Whether the hypervisor can pass PCI devices through; None where it does not say."""

    def hostdev_xml(
        self, devices: Sequence[HostDeviceId], unmanaged: Collection[HostDeviceId] = ()
    ) -> str:
        """Return the element for ``virsh attach-device``, or several in one document.

        ``managed='no'`` for those that stay on their driver, ``managed='yes'`` for all others.
        """

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, from any thread, after each change that libvirt announces."""


class RemovalWatch(Protocol):
    """What libvirt announces of one domain's devices that are unplugged."""

    def wait(self, seconds: float) -> Literal["removed", "failed"] | None:
        """Return the next DEVICE_REMOVED or DEVICE_REMOVAL_FAILED; None when none came in time.

        Source: https://libvirt.org/html/libvirt-libvirt-domain.html, VIR_DOMAIN_EVENT_ID_*.
        """


class HostChanges(Protocol):
    """Changes on the host, over a connection of their own.

    Each call may block for as long as libvirt does: a host driver can hang in unbind. A return
    says only that libvirt reported success; the caller reads the driver or the domain again. An
    error does not say that nothing has happened: the reply may be what was lost.

    Raises: every method LibvirtUnavailableError, LibvirtDeniedError, NotSupportedError,
    InUseError, VfioUnavailableError, LibvirtFailedError.
    """

    def bind(self, address: PciAddress) -> None:
        """Bind the device to vfio-pci, in place of its host driver."""

    def unbind(self, address: PciAddress) -> None:
        """Unbind the device from vfio-pci and let the host driver probe it.

        On a device that is on its host driver this unbinds and probes it again: never do that.
        """

    def attach(
        self,
        domain: Domain,
        devices: Sequence[HostDeviceId],
        unmanaged: Collection[HostDeviceId] = (),
        interface: GuestInterface | None = None,
    ) -> None:
        """Attach those devices that the domain lacks: live and persistent, as the domain is.

        ``managed='no'`` for those that stay on their driver, ``managed='yes'`` for all others.
        With an interface each is one of the guest's, and libvirt sets MAC and VLAN on the card.
        Several PCI functions become functions of one guest slot. If one fails, those that this
        call has given are taken out again before the error leaves.

        Raises:
            NoFreeSlotError: The domain has no free PCI slot.
        """

    def detach(self, domain: Domain, devices: Sequence[HostDeviceId]) -> None:
        """Detach the devices, both from the live domain and from its definition.

        Returns once libvirt took the request; the guest may not have let go yet. If one fails,
        the very elements that this call has taken are put back before the error leaves.
        """

    def move_devices(self, domain: Domain, moves: Mapping[PciAddress, PciAddress]) -> None:
        """Replace addresses of hostdevs and interfaces in the domain's definition, in one step.

        Nothing else of the elements changes. A running domain keeps what it has.

        Args:
            domain: It has a definition.
            moves: The new address of each device, by the old one; one that is not there is nothing.
        """

    def write_metadata(self, domain: Domain, entries: Sequence[MetadataEntry]) -> None:
        """Make the entries our metadata of the domain; none removes it. Others' stays."""

    def make_mdev(
        self, mdev: MdevUuid, parent: PciAddress, type_id: str, *, autostart: bool
    ) -> None:
        """Define a mediated device and start it; what of it is done already is left as it is.

        Args:
            mdev: The UUID that it gets.
            parent: The PCI function that it is a slice of.
            type_id: The kernel's name of its type.
            autostart: Start it with the host, too.
        """

    def remove_mdev(self, mdev: MdevUuid) -> None:
        """End a mediated device and its definition, as far as it is there.

        Raises:
            InUseError: A process on the host has it open.
        """


class Host(Protocol):
    """The libvirt host itself, for whatever decides over a change: nothing here may be stale.

    Reads are retried once.

    Raises: every method LibvirtUnavailableError, LibvirtDeniedError, NotSupportedError,
    LibvirtFailedError.
    """

    def key(self) -> str:
        """Return what registrations are keyed by; see HostIdentity."""

    def identity(self) -> HostIdentity:
        """Say which host it is, as of the connection of this moment."""

    def version(self) -> str:
        """Return libvirt's version, such as ``9.0.0``."""

    def ping(self) -> None:
        """Raise if libvirt does not answer."""

    def node_device(self, device: HostDeviceId) -> NodeDevice | None:
        """Look up a PCI function, or a mediated device that is active; None when there is none."""

    def node_device_named(self, node_name: str) -> NodeDevice | None:
        """Look up a PCI function by libvirt's name; None when there is none."""

    def read_node_devices(self) -> Sequence[NodeDevice]:
        """Read every PCI function, by address: only together they say which card is which."""

    def read_mdevs(self) -> Sequence[MediatedDevice]:
        """Read every mediated device, active or only defined, by UUID."""

    def read_assignments(self, devices: Collection[HostDeviceId]) -> AssignmentsByDevice:
        """Say which domains have any of these devices, running ones first.

        The one question whose answer takes all domains; an operation asks it once.
        """

    def read_usage(
        self, devices: Collection[HostDeviceId], endpoints: Collection[NodeDevice]
    ) -> Usage:
        """Say also what the host itself does with these endpoints, of the same domains."""

    def read_link(self, device: NodeDevice) -> NetworkLink | None:
        """Return the network interface of a function; None where it has none that is seen."""

    def read_domain_assignments(self, domain: Domain) -> Sequence[Assignment]:
        """Say what this one domain has, without asking for others; empty when it is gone."""

    def answers(self, node: NodeDevice) -> bool | None:
        """Whether a device answers on the bus; None where nobody can say, as of a remote host."""

    def read_hardware(self, node: NodeDevice) -> Hardware | None:
        """Read what the kernel shows of a function; None where it is not this kernel's."""

    def read_guest_machine(self, domain: Domain) -> GuestMachine | None:
        """Read what the domain's definition says of its machine; None when it is gone."""

    def find_domain(self, instance: str) -> Domain | None:
        """Look up a domain by UUID, name or instance id, in this order."""

    def list_domains(self) -> Sequence[Domain]:
        """List all domains, active or not."""

    def has_vfio(self) -> bool | None:
        """Whether the hypervisor can pass PCI devices through; None where it does not say."""

    def read_metadata(self, domain: Domain) -> Sequence[MetadataEntry]:
        """Return our entries in the domain's metadata; empty without."""

    def watch_removal(self, domain: Domain) -> AbstractContextManager[RemovalWatch]:
        """Listen for unplugged devices of the domain; enter it before the detach."""

    def changes(self) -> AbstractContextManager[HostChanges]:
        """Open a connection of its own for changes, and close it again."""


class RootHelper(Protocol):
    """The few changes of the host that only root can make, and that libvirt does not make.

    A return says that the kernel was asked and said so afterwards; the caller reads libvirt again.

    Raises: every method NotSupportedError where no helper can be asked, with what to run by hand;
    HelperFailedError, BusyError, OperationTimeoutError; DeviceNotFoundError where it names one.
    """

    def set_virtual_functions(self, device: PciAddress, count: int, *, autoprobe: bool) -> None:
        """Enable exactly so many virtual functions, through 0 where the kernel wants it.

        Args:
            device: The physical function.
            count: 0 for none.
            autoprobe: Whether host drivers take them.

        Raises:
            BadRequestError: It cannot have so many.
            InUseError: A process has one that would go.
        """

    def set_vgpu_type(self, device: PciAddress, vgpu_type: int) -> None:
        """Make a vGPU of the vendor's type on a virtual function; 0 takes it away.

        On failure the function has no type.

        Raises:
            InUseError: A process has it, or it is a vGPU of another type.
        """

    def write_boot_rule(self, rule: BootRule) -> None:
        """Have the host do this at boot, in place of an earlier rule of the address.

        Raises:
            IdentityChangedError: Other hardware than the rule says is there now.
        """

    def forget_boot_rule(self, device: PciAddress) -> None:
        """Remove the boot rule of an address, if there is one."""

    def list_boot_rules(self) -> Sequence[BootRule]:
        """List the boot rules, by address."""

    def read_config_space(self, device: PciAddress) -> bytes:
        """Read the whole config space, 4096 bytes with PCI Express; others see 64."""

    def run_release_hook(self, device: PciAddress) -> None:
        """Run the operator's program for a device that a guest had, and wait for its end."""


class HostDrivers(Protocol):
    """Which driver each device had before the service bound it; stored across restarts.

    Raises: every method RegistryUnavailableError.
    """

    def note_host_driver(self, host: str, device: HostDeviceId, driver: str | None) -> None:
        """Store the driver that the device has; None where it has none."""

    def host_driver(self, host: str, device: HostDeviceId) -> str | None:
        """Return the driver that was noted; None without a note, too."""

    def forget_host_driver(self, host: str, device: HostDeviceId) -> None:
        """Forget the note: the device is back on its host driver."""


class BootRules(Protocol):
    """What the host is to do with functions at boot, as it was asked for; stored across restarts.

    A rule follows the card of a registration, as ``Registry.place`` writes it down.

    Raises: every method RegistryUnavailableError.
    """

    def put_boot_rule(self, host: str, rule: BootRule) -> None:
        """Store a rule, in place of an earlier one of the address."""

    def boot_rule(self, host: str, device: PciAddress) -> BootRule | None:
        """Return the rule of an address; None without one."""

    def list_boot_rules(self, host: str) -> Sequence[BootRule]:
        """List the rules, by address."""

    def forget_boot_rule(self, host: str, device: PciAddress) -> None:
        """Remove the rule of an address, if there is one."""


class Quarantines(Protocol):
    """Which devices are offered to nobody, registered or not; stored across restarts.

    Raises: every method RegistryUnavailableError.
    """

    def quarantine(self, host: str, device: HostDeviceId, quarantine: Quarantine) -> None:
        """Store a quarantine; one that has begun already stays as it is."""

    def list_quarantines(self, host: str) -> Mapping[HostDeviceId, Quarantine]:
        """List those of a host, also those that begin after a use."""

    def end_quarantine(self, host: str, device: HostDeviceId) -> bool:
        """End a quarantine; False when there was none."""


class Registry(HostDrivers, BootRules, Quarantines, Protocol):
    """Names of devices, stored across restarts. Safe between threads and processes.

    Raises: every method RegistryUnavailableError.
    """

    @property
    def is_on_this_machine(self) -> bool:
        """Whether it is a file, and not a database that machines share."""

    def ping(self) -> None:
        """Raise if the registry does not answer."""

    def add(self, registration: Registration) -> None:
        """Store a registration; on return it survives a power loss.

        Raises:
            ConflictError: Name, address or id is taken (by another's name or id, too).
        """

    def find(self, host: str, reference: str) -> Registration | None:
        """Look up by exact id, then by exact name."""

    def find_by_device(self, host: str, device: HostDeviceId) -> Registration | None:
        """Look up by PCI address, or by the UUID of a mediated device."""

    def list_registrations(self, host: str, tags: Mapping[str, str]) -> Sequence[Registration]:
        """List in the order of registration those that carry all the tags."""

    def place(self, placed: Sequence[tuple[Registration, Registration]]) -> int:
        """Write down where cards are now and what is known of them; all of it or nothing.

        A registration that still has one of the addresses, and whose card is elsewhere, loses it.

        Args:
            placed: Each registration as it was read, and as it is now.

        Returns:
            How many were still as they were read; the others were left as they are.
        """

    def list_hosts(self) -> Sequence[str]:
        """List what hosts registrations are keyed by."""

    def adopt(self, old_host: str, new_host: str) -> int:
        """Make the registrations of one host those of another; all of them or none.

        Returns:
            How many there were.

        Raises:
            ConflictError: The other host has a name or an address already.
        """

    def remove(self, host: str, registration_id: str) -> bool:
        """Remove a registration; False when there was none."""

    def relabel(self, registration: Registration) -> bool:
        """Store another name and other tags of a registration; False when there is none.

        Raises:
            ConflictError: The name is another device's, or its id.
        """


class Held(AbstractContextManager["Held"], Protocol):
    """Locks that are held; leaving the context releases them."""

    def release(self) -> None:
        """Let go of all of them, from any thread; a second time does nothing."""


class Locks(Protocol):
    """Locks that are held across threads and processes; a holder that is killed frees its own."""

    def hold(self, keys: Collection[str]) -> Held:
        """Take all of the locks or none, without waiting.

        Args:
            keys: Such as ``group 25``, ``device 0000:a2:00.0``, ``domain UUID`` or ``mdev UUID``.

        Raises:
            BusyError: Another operation holds one of them.
        """
