"""Bodies of ``/devices/topology`` and ``/devices/history``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.history import MinuteOfOperations, PastChange
from hypeman_libvirt.devices.model import Event, GroupReport, GroupStatus
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.topology import HostFunction, Topology
from hypeman_libvirt.rest.schemas import EventOut, FunctionFactsOut, HealthOut


class LinkOut(BaseModel):
    """Speed in GT/s per lane and width in lanes: as they are, and what the function can do."""

    speed: float
    width: int
    max_speed: float
    max_width: int


class HostUseOut(BaseModel):
    """Something that the host itself does with a function."""

    what: str
    known: bool


class UserOut(BaseModel):
    """A domain that has something which lives on a function."""

    domain: str
    via: str


class ProfileOut(BaseModel):
    """A vGPU profile that a function offers, and how many more of it fit."""

    type_id: str
    name: str
    available: int


class HostFunctionOut(FunctionFactsOut):
    """A PCI function of the host, bridges and those without an IOMMU group included."""

    assignable: bool
    node_name: str
    parent: str | None
    physical_function: str | SkipJsonSchema[None] = None
    virtual_functions: list[str] | SkipJsonSchema[None] = None
    max_virtual_functions: int | SkipJsonSchema[None] = None
    link: LinkOut | SkipJsonSchema[None] = None
    vgpu_profiles: list[ProfileOut] | SkipJsonSchema[None] = None
    topology: str | SkipJsonSchema[None] = None
    mdev_uuid: str | SkipJsonSchema[None] = None
    mdev_type: str | SkipJsonSchema[None] = None
    health: HealthOut
    host_uses: list[HostUseOut]
    users: list[UserOut]

    @classmethod
    def of(cls, function: HostFunction) -> HostFunctionOut:
        """Describe it."""
        node = function.member.node
        return cls.model_validate(
            {
                **cls.facts(function.member),
                "assignable": rules.is_endpoint(node),
                "node_name": node.node_name,
                "parent": function.parent and str(function.parent),
                **({} if node.mdev else _slices(node)),
                **_mdev(node),
                "health": HealthOut.of(function.quarantine),
                **_link(node),
                **({"topology": node.topology} if node.topology else {}),
                "host_uses": [
                    HostUseOut(what=each.what, known=each.known) for each in function.uses
                ],
                "users": [
                    UserOut(domain=each.domain.name, via=each.via or each.kind)
                    for each in function.users
                ],
            }
        )


class GroupSummaryOut(BaseModel):
    """An IOMMU group without its members."""

    iommu_group: int
    viable: bool
    reason: str | None
    status: GroupStatus

    @classmethod
    def of(cls, group: GroupReport) -> GroupSummaryOut:
        """Describe it."""
        return cls(
            iommu_group=group.number,
            viable=group.viable,
            reason=group.reason,
            status=group.status,
        )


class DomainOut(BaseModel):
    """A libvirt domain that could be given a device."""

    uuid: str
    name: str
    state: str
    instance: str

    @classmethod
    def of(cls, domain: Domain) -> DomainOut:
        """Describe it."""
        return cls(uuid=domain.uuid, name=domain.name, state=domain.state, instance=domain.instance)


class TopologyOut(BaseModel):
    """The host as a picture."""

    functions: list[HostFunctionOut]
    iommu_groups: list[GroupSummaryOut]
    domains: list[DomainOut]

    @classmethod
    def of(cls, topology: Topology) -> TopologyOut:
        """Describe it."""
        return cls(
            functions=[HostFunctionOut.of(each) for each in topology.functions],
            iommu_groups=[GroupSummaryOut.of(each) for each in topology.groups],
            domains=sorted(map(DomainOut.of, topology.domains), key=lambda each: each.name),
        )


class PastChangeOut(BaseModel):
    """A change that the service made; ``by`` is the subject of the token."""

    at: datetime
    action: str
    by: str | None
    forced: bool
    id: str
    name: str
    pci_address: str
    current_driver: str | None
    attached_domain: str | None

    @classmethod
    def of(cls, change: PastChange) -> PastChangeOut:
        """Describe it."""
        device = change.device
        return cls(
            at=change.at.astimezone(UTC),
            action=change.action,
            by=change.subject,
            forced=change.forced,
            id=device.registration.id,
            name=device.registration.name,
            pci_address=str(device.registration.pci_address),
            current_driver=device.node.driver if device.node else None,
            attached_domain=device.assignment.domain.name if device.assignment else None,
        )


class MinuteOut(BaseModel):
    """How often an operation succeeded and failed in one minute."""

    minute: datetime
    operation: str
    successes: int
    failures: int

    @classmethod
    def of(cls, counted: MinuteOfOperations) -> MinuteOut:
        """Describe it."""
        return cls(
            minute=counted.minute.astimezone(UTC),
            operation=counted.operation,
            successes=counted.successes,
            failures=counted.failures,
        )


class HistoryOut(BaseModel):
    """What happened since the service was started, as far as it is remembered."""

    changes: list[PastChangeOut]
    events: list[EventOut]
    operations: list[MinuteOut]

    @classmethod
    def of(
        cls,
        changes: Iterable[PastChange],
        events: Iterable[Event],
        operations: Iterable[MinuteOfOperations],
    ) -> HistoryOut:
        """Describe it, the oldest first."""
        return cls(
            changes=list(map(PastChangeOut.of, changes)),
            events=list(map(EventOut.of, events)),
            operations=list(map(MinuteOut.of, operations)),
        )


def _slices(node: NodeDevice) -> dict[str, object]:
    known: dict[str, object] = {
        "physical_function": node.physical_function and str(node.physical_function),
        "virtual_functions": [str(each) for each in node.virtual_functions],
        "max_virtual_functions": node.max_virtual_functions,
        "vgpu_profiles": [
            ProfileOut(type_id=each.type_id, name=each.name, available=each.available)
            for each in node.vgpu_profiles
        ],
    }
    return {key: value for key, value in known.items() if value}


def _mdev(node: NodeDevice) -> dict[str, str]:
    if node.mdev is None:
        return {}
    return {"mdev_uuid": str(node.mdev.uuid), "mdev_type": node.mdev.type_id}


def _link(node: NodeDevice) -> dict[str, LinkOut]:
    status, most = node.link_status, node.link_capability
    if status is None or most is None:
        return {}
    return {
        "link": LinkOut(
            speed=status.speed, width=status.width, max_speed=most.speed, max_width=most.width
        )
    }
