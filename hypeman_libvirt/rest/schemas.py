"""Bodies on the wire, as api/openapi.yaml describes them; a test holds the two together.

What is optional in an answer is left out rather than null: `to_json` writes only what was set.
``host``, ``seen_at`` and ``claim`` are those that a hub adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from hypeman_libvirt.devices import errors, model, rules
from hypeman_libvirt.devices.domain import Assignment
from hypeman_libvirt.devices.model import (
    DeviceState,
    DeviceType,
    EventType,
    GroupStatus,
    Scope,
    Severity,
)
from hypeman_libvirt.devices.node_device import Framework
from hypeman_libvirt.devices.vgpu import Profile
from hypeman_libvirt.devices.virtual_functions import VirtualFunctions


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber: TypeAlias = Annotated[int, BeforeValidator(_whole)]
"""As JSON Schema has it: 2.0 is one."""


class RequestBody(BaseModel):
    """What a client sends: types are not guessed, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class CreateDevice(RequestBody):
    """Body of ``POST /devices``. What a name or a tag may be is the service's to say.

    One of the address, the UUID and the profile says which device it is.
    """

    pci_address: str = ""
    mdev_uuid: str = ""
    profile: str = Field(default="", min_length=1)
    parent: str | None = None
    numa_node: WholeNumber | None = Field(default=None, ge=0)
    persist: bool = False
    name: str | None = None
    tags: dict[str, str] | None = None
    bind: Scope | None = None
    require_clean: bool = False


class UpdateDevice(RequestBody):
    """Body of ``PATCH /devices/{id}``; what is absent or null stays as it is."""

    name: str | None = None
    tags: dict[str, str] | None = None


class MoveBody(RequestBody):
    """Body of move."""

    pci_address: str


class PassthroughBody(RequestBody):
    """What bind and attach both take."""

    scope: Scope = "device"
    force: bool = False


class BindBody(PassthroughBody):
    """Body of bind."""

    persist: bool = False


class UnbindBody(RequestBody):
    """Body of unbind."""

    scope: Scope = "device"


class AttachBody(PassthroughBody):
    """Body of attach; MAC and VLAN are of a network card's virtual function."""

    instance: str = Field(min_length=1)
    mac: str | None = None
    vlan: WholeNumber | None = None


class VirtualFunctionsBody(RequestBody):
    """Body of ``PUT /devices/{id}/virtual-functions``."""

    count: WholeNumber = Field(ge=0, le=65535)
    autoprobe: bool = False
    persist: bool = False


class ErrorDetailOut(BaseModel):
    """One of several reasons behind an error."""

    code: str
    message: str


class ErrorOut(BaseModel):
    """Body of every answer that is not a success."""

    code: str
    message: str
    details: list[ErrorDetailOut] | SkipJsonSchema[None] = None
    inner_error: ErrorDetailOut | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, error: errors.DeviceError) -> ErrorOut:
        """Say what went wrong, with the reasons if there are several."""
        if not error.details:
            return cls(code=error.code, message=error.message)
        details = [ErrorDetailOut(code=each.code, message=each.message) for each in error.details]
        return cls(code=error.code, message=error.message, details=details)


class StatusOut(BaseModel):
    """Answer of the health and readiness probes."""

    status: Literal["ok"]


class HealthOut(BaseModel):
    """Whether a device is offered to anybody, and why not."""

    status: Literal["ok", "quarantined"]
    reason: str | SkipJsonSchema[None] = None
    since: datetime | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, quarantine: model.Quarantine | None) -> HealthOut:
        """Say why it is offered to nobody, and since when."""
        if quarantine is None:
            return cls(status="ok")
        since = quarantine.since.astimezone(UTC).replace(microsecond=0)
        return cls(status="quarantined", reason=quarantine.reason, since=since)


_NO_GROUP: Final = -1
"""Of a device that never was in a group: the field is a number in every client, and 0 is a group.

Nothing registers such a device; older versions recovered some.
"""


class DeviceOut(BaseModel):
    """A registered device, its fields in the order of hypeman's example."""

    id: str
    bound_to_vfio: bool
    created_at: datetime
    device_id: str
    iommu_group: int
    pci_address: str
    type: DeviceType
    vendor_id: str
    attached_to: str | None
    name: str
    tags: dict[str, str] | SkipJsonSchema[None] = None
    state: DeviceState
    candidates: list[str] | SkipJsonSchema[None] = None
    topology: str | SkipJsonSchema[None] = None
    moved_from: str | SkipJsonSchema[None] = None
    health: HealthOut
    require_clean: bool | SkipJsonSchema[None] = None
    attached_domain: str | SkipJsonSchema[None] = None
    parent: str | SkipJsonSchema[None] = None
    profile: str | SkipJsonSchema[None] = None
    mdev_uuid: str | SkipJsonSchema[None] = None
    persistent: bool | SkipJsonSchema[None] = None
    host: str | SkipJsonSchema[None] = None
    seen_at: datetime | SkipJsonSchema[None] = None
    claim: str | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, device: model.Device) -> DeviceOut:
        """Describe a device by what is at its address now, else by its registration."""
        registration = device.registration
        hardware = device.node or registration
        group = hardware.iommu_group
        if group is None:
            group = registration.iommu_group
        if group is None:
            group = _NO_GROUP
        tags = {"tags": dict(registration.tags)} if registration.tags else {}
        return cls.model_validate(
            {
                "id": registration.id,
                "bound_to_vfio": device.node is not None and rules.is_on_vfio(device.node),
                "created_at": registration.created_at.astimezone(UTC).replace(microsecond=0),
                "device_id": hardware.device_id,
                "iommu_group": group,
                "pci_address": str(registration.pci_address),
                "type": rules.class_type(hardware.class_code),
                "vendor_id": hardware.vendor_id,
                "attached_to": _instance(device.assignment),
                "name": registration.name,
                **tags,
                "state": rules.device_state(device),
                **_place(device),
                "health": HealthOut.of(device.quarantine),
                **({"require_clean": True} if registration.require_clean else {}),
                **_domain(device.assignment),
                **_slice(device),
                **({"persistent": True} if registration.persistent else {}),
            }
        )


def _slice(device: model.Device) -> dict[str, object]:
    """Say what a device is a slice of; nothing of one that is none."""
    registration, node = device.registration, device.node
    if registration.vgpu is None:
        return {}
    parent = registration.pci_address
    if registration.mdev is None:
        parent = (node and node.physical_function) or parent
    facts: dict[str, object] = {"parent": str(parent), "profile": registration.vgpu.profile}
    if registration.mdev is not None:
        facts["mdev_uuid"] = str(registration.mdev)
    facts["persistent"] = registration.vgpu.persist
    if node is not None and node.mdev is not None:
        facts["persistent"] = node.mdev.autostart
    return facts


def _place(device: model.Device) -> dict[str, object]:
    """Say where the card is beyond its address, as far as that is known."""
    registration, verdict = device.registration, device.verdict
    fingerprint = registration.fingerprint
    known = {
        "candidates": [str(each) for each in verdict.candidates] if verdict else [],
        "topology": device.node.topology if device.node else fingerprint and fingerprint.topology,
        "moved_from": registration.moved_from and str(registration.moved_from),
    }
    return {key: value for key, value in known.items() if value}


class FunctionFactsOut(BaseModel):
    """A PCI function of the host, registered or not."""

    pci_address: str
    vendor_id: str
    device_id: str
    vendor_name: str | SkipJsonSchema[None] = None
    device_name: str | SkipJsonSchema[None] = None
    iommu_group: int | None
    current_driver: str | None
    type: DeviceType
    class_: str | None = Field(alias="class")
    numa_node: int | None
    registered_as: str | None
    attached_to: str | None
    attached_domain: str | SkipJsonSchema[None] = None

    @classmethod
    def facts(cls, function: model.AvailableDevice | model.GroupMember) -> dict[str, object]:
        """Collect what libvirt, the registry and the domains say of it."""
        node = function.node
        names = {"vendor_name": node.vendor_name, "device_name": node.device_name}
        return {
            "pci_address": str(node.address),
            "vendor_id": node.vendor_id,
            "device_id": node.device_id,
            **{key: name for key, name in names.items() if name is not None},
            "iommu_group": node.iommu_group,
            "current_driver": node.driver,
            "type": rules.device_type(node),
            "class": None if node.class_code is None else f"0x{node.class_code:06x}",
            "numa_node": node.numa_node,
            "registered_as": function.registration and function.registration.name,
            "attached_to": _instance(function.assignment),
            **_domain(function.assignment),
        }


class FunctionOut(FunctionFactsOut):
    """A PCI function in an IOMMU group."""

    iommu_group: int


class AvailableDeviceOut(FunctionOut):
    """An assignable device of the host."""

    iommu_group_members: list[str]
    health: HealthOut
    mdev_uuid: str | SkipJsonSchema[None] = None
    mdev_type: str | SkipJsonSchema[None] = None
    host: str | SkipJsonSchema[None] = None
    seen_at: datetime | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, available: model.AvailableDevice) -> AvailableDeviceOut:
        """Describe it, with the addresses that share its group."""
        members = [str(address) for address in available.node.group_addresses]
        mdev, slice_ = available.node.mdev, {}
        if mdev is not None:
            slice_ = {"mdev_uuid": str(mdev.uuid), "mdev_type": mdev.type_id}
        return cls.model_validate(
            {
                **cls.facts(available),
                "iommu_group_members": members,
                "health": HealthOut.of(available.quarantine),
                **slice_,
            }
        )


class ProfileParentOut(BaseModel):
    """A GPU that offers a vGPU profile."""

    pci_address: str
    name: str
    available: int


class VgpuProfileOut(BaseModel):
    """A vGPU profile, over all GPUs that offer it."""

    name: str
    framebuffer_mb: int
    available: int
    framework: Framework
    parents: list[ProfileParentOut]

    @classmethod
    def of(cls, profile: Profile) -> VgpuProfileOut:
        """Describe it with its GPUs."""
        return cls(
            name=profile.name,
            framebuffer_mb=profile.framebuffer,
            available=profile.available,
            framework=profile.framework,
            parents=[
                ProfileParentOut(
                    pci_address=str(each.pci_address), name=each.name, available=each.available
                )
                for each in profile.parents
            ],
        )


class GroupMemberOut(FunctionOut):
    """A member of an IOMMU group."""

    assignable: bool

    @classmethod
    def of(cls, member: model.GroupMember) -> GroupMemberOut:
        """Describe it, and whether it is an endpoint."""
        facts = cls.facts(member)
        return cls.model_validate({**facts, "assignable": rules.is_endpoint(member.node)})


class VirtualFunctionOut(BaseModel):
    """A virtual function, and who has it."""

    pci_address: str
    driver: str | None
    registered_as: str | None
    attached_to: str | None


class VirtualFunctionsOut(BaseModel):
    """The virtual functions of a physical function."""

    count: int
    total: int
    autoprobe: bool | SkipJsonSchema[None] = None
    persistent: bool
    functions: list[VirtualFunctionOut]

    @classmethod
    def of(cls, report: VirtualFunctions) -> VirtualFunctionsOut:
        """Describe them; whether host drivers take new ones is seen on the host itself alone."""
        autoprobe = report.physical.autoprobe
        known = {} if autoprobe is None else {"autoprobe": autoprobe}
        return cls(
            count=len(report.functions),
            total=report.total,
            persistent=report.persistent,
            functions=[
                VirtualFunctionOut(
                    pci_address=str(each.node.address),
                    driver=each.node.driver,
                    registered_as=each.registration.name if each.registration else None,
                    attached_to=_instance(each.assignment),
                )
                for each in report.functions
            ],
            **known,
        )


class IommuGroupOut(BaseModel):
    """An IOMMU group, and whether a guest could be given it now."""

    iommu_group: int
    viable: bool
    reason: str | None
    status: GroupStatus
    members: list[GroupMemberOut]

    @classmethod
    def of(cls, report: model.GroupReport) -> IommuGroupOut:
        """Describe a group with its members."""
        return cls(
            iommu_group=report.number,
            viable=report.viable,
            reason=report.reason,
            status=report.status,
            members=[GroupMemberOut.of(member) for member in report.members],
        )


class CheckOut(BaseModel):
    """One question that preflight asked."""

    id: str
    severity: Severity
    message: str
    hint: str | None


class PreflightOut(BaseModel):
    """Would passthrough work?"""

    ready: bool
    checks: list[CheckOut]

    @classmethod
    def of(cls, preflight: model.Preflight) -> PreflightOut:
        """List the checks in their order."""
        checks = [
            CheckOut(id=each.id, severity=each.severity, message=each.message, hint=each.hint)
            for each in preflight.checks
        ]
        return cls(ready=preflight.ready, checks=checks)


class EventOut(BaseModel):
    """Data of one Server-Sent Event; `id` is the device's, as everywhere else."""

    type: EventType
    at: datetime
    pci_address: str
    id: str | None
    name: str | None
    current_driver: str | None
    attached_to: str | None
    mdev_uuid: str | SkipJsonSchema[None] = None
    host: str | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, event: model.Event) -> EventOut:
        """Describe what happened."""
        return cls(
            type=event.type,
            at=event.at.astimezone(UTC),
            pci_address=str(event.pci_address),
            id=event.device_id,
            name=event.name,
            current_driver=event.driver,
            attached_to=event.attached_to,
            **({"mdev_uuid": str(event.mdev)} if event.mdev else {}),
        )


def to_json(body: BaseModel | Sequence[BaseModel]) -> bytes:
    """Write a body, or an array of them, without the fields that were not set."""
    if isinstance(body, BaseModel):
        return _write(body)
    return b"[%b]" % b",".join(map(_write, body))


def _write(body: BaseModel) -> bytes:
    """Write with the model's own serializer: one for any model takes eight times as long."""
    return body.__pydantic_serializer__.to_json(body, by_alias=True, exclude_unset=True)


def _instance(assignment: Assignment | None) -> str | None:
    return assignment.domain.instance if assignment else None


def _domain(assignment: Assignment | None) -> dict[str, str]:
    return {"attached_domain": assignment.domain.name} if assignment else {}
