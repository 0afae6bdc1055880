"""What libvirt says of the host as a whole: frozen facts, each with its unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoragePool:
    """A storage pool that is active.

    Attributes:
        kind: libvirt's word, such as ``dir`` or ``logical``.
        capacity: Bytes, as of its last refresh; the next two likewise.
        allocation: Bytes.
        available: Bytes.
    """

    kind: str
    capacity: int
    allocation: int
    available: int


@dataclass(frozen=True, slots=True)
class Guest:
    """What an active domain has of the host.

    Attributes:
        name: Of the domain.
        instance: What ``attached_to`` says of a device that it holds.
        cpus: Virtual CPUs.
        memory: Bytes.
        download: Bytes per second towards the guest, over all its interfaces; None without limit.
        upload: Bytes per second from the guest; likewise.
    """

    name: str
    instance: str
    cpus: int
    memory: int
    download: int | None = None
    upload: int | None = None


@dataclass(frozen=True, slots=True)
class HostResources:
    """What libvirt says that the host has. None stands for what it does not say.

    Attributes:
        cpus: Logical CPUs that are online.
        memory: Bytes.
        pools: Storage pools that are active.
        link_speed: Bytes per second, of all physical network interfaces whose link is up.
        guests: Active domains by name.
    """

    cpus: int
    memory: int
    pools: Sequence[StoragePool] | None
    link_speed: int | None
    guests: Sequence[Guest]


@dataclass(frozen=True, slots=True)
class Network:
    """The network that guests are on unless they name another.

    Attributes:
        joins_guests: They can talk to each other.
        gateway: The host's address on it; None if it has none.
        subnet: Such as ``192.168.122.0/24``; None likewise.
    """

    joins_guests: bool
    gateway: str | None = None
    subnet: str | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    """What libvirt says of the host's kind.

    Attributes:
        arch: The kernel's word, such as ``x86_64``.
        hypervisors: libvirt's domain types for that architecture, such as ``kvm``, by name.
        network: None where libvirt has none named ``default``, or the service may not read it.
    """

    arch: str
    hypervisors: tuple[str, ...]
    network: Network | None = None
