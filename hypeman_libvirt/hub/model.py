"""What a hub knows: hosts, what was found by a reference, claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

HostStatus: TypeAlias = Literal["up", "down", "drained", "gone"]
ClaimState: TypeAlias = Literal["reserved", "active", "releasing"]
ClaimStep: TypeAlias = Literal["reserved", "taking", "taken"]


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host of the fleet.

    Attributes:
        key: Of the libvirt host; see ``Host.key``.
        name: Unique among the hosts that are not gone.
        url: Of its agent.
        salt: Of its enrolment; the secret of its tokens is derived with it.
        version: Of its agent.
        seen_at: When its agent reported last; None before the first report.
        is_heard: That was so recently that the agent is taken for alive.
        agent_time: Seconds since 1970 by its own clock, when this record was read.
        problem: Code of what hinders its agent, such as ``libvirt_unavailable``.
        drained_at: Since when claims leave it alone.
        gone_at: Since when it belongs to the fleet no more.
        duplicate_at: When another machine reported as this host last.
    """

    key: str
    name: str
    url: str
    salt: str
    version: str
    seen_at: datetime | None
    is_heard: bool
    agent_time: float
    problem: str | None
    drained_at: datetime | None
    gone_at: datetime | None
    duplicate_at: datetime | None

    @property
    def status(self) -> HostStatus:
        """Say whether it is in use."""
        if self.gone_at is not None:
            return "gone"
        if not self.is_heard:
            return "down"
        return "drained" if self.drained_at is not None else "up"


@dataclass(frozen=True, slots=True)
class Position:
    """How far the reports of a host have come.

    Attributes:
        epoch: Of the agent's run; None before its first report.
        sequence: Of its last report.
        ended: Epochs that came before; an agent of one of them is another machine.
    """

    epoch: str | None
    sequence: int
    ended: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """A registered device of the fleet.

    Attributes:
        host: Key of its host.
        id: CUID2, as its agent made it.
    """

    host: str
    id: str


@dataclass(frozen=True, slots=True)
class Found:
    """A device that a reference names.

    Attributes:
        key: Of the device.
        host_name: Of its host.
        name: Its own.
        claim: Id of the claim that it belongs to.
        claimed_by: Subject of that claim.
        body: As its agent reported it.
        seen_at: When that was.
    """

    key: DeviceKey
    host_name: str
    name: str
    claim: str | None
    claimed_by: str | None
    body: str
    seen_at: datetime

    @property
    def qualified(self) -> str:
        """Return the reference that means this device alone."""
        return f"{self.name}@{self.host_name}"


@dataclass(frozen=True, slots=True)
class ClaimSpec:
    """So many devices that are alike.

    Attributes:
        count: How many, all or none.
        type: ``gpu`` or ``pci``.
        vendor_id: Four hex digits.
        device_id: Likewise.
        profile: Of vGPUs.
        tags: All of them.
        same_host: On one host.
        same_numa: At one NUMA node of one host.
        instance: The domain that is given the devices; they are on its host.
        expires_in: Seconds after which the claim ends by itself; None for never.
    """

    count: int
    type: str | None = None
    vendor_id: str | None = None
    device_id: str | None = None
    profile: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    same_host: bool = False
    same_numa: bool = False
    instance: str | None = None
    expires_in: int | None = None


@dataclass(frozen=True, slots=True)
class ClaimedDevice:
    """A device of a claim.

    Attributes:
        key: Of the device.
        host_name: Of its host.
        name: Its own.
        pci_address: Likewise.
        step: ``taking`` is written down before the agent is asked, so that it can be undone.
        was_bound: It was on vfio-pci before the claim, and stays there after it.
    """

    key: DeviceKey
    host_name: str
    name: str
    pci_address: str
    step: ClaimStep
    was_bound: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """Devices that nobody else gets.

    Attributes:
        id: CUID2.
        subject: Whose it is; None without auth.
        state: ``reserved`` while its devices are taken, then ``active``; ``releasing`` at its end.
        spec: What was asked for.
        created_at: UTC.
        expires_at: UTC; None for never.
        devices: In the order of hosts and names.
    """

    id: str
    subject: str | None
    state: ClaimState
    spec: ClaimSpec
    created_at: datetime
    expires_at: datetime | None
    devices: tuple[ClaimedDevice, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Devices that fit a claim, of one host, NUMA node or of all hosts.

    Attributes:
        host: Key; None for all of them together.
        host_name: Likewise.
        numa_node: None where it does not matter, or is not known.
        free: How many can be claimed now.
        attached: How many fit, but domains have them or members of their IOMMU groups.
        claimed: Likewise, but claims have them.
        elsewhere: Likewise, but their hosts are drained, down or have a problem.
        unfit: Likewise, but they are missing, changed or quarantined.
    """

    host: str | None
    host_name: str | None
    numa_node: int | None
    free: int
    attached: int
    claimed: int
    elsewhere: int
    unfit: int
