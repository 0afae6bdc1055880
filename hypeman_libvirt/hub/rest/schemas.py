"""Bodies of hosts and claims, as api/openapi.yaml describes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema
from sqlalchemy import Row

from hypeman_libvirt.devices.model import DeviceType
from hypeman_libvirt.hub import model
from hypeman_libvirt.hub.model import ClaimState, HostStatus
from hypeman_libvirt.rest.schemas import RequestBody

_HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{4}$")]


class InviteBody(RequestBody):
    """Body of ``POST /hosts``."""

    name: _HostName
    adopt: bool = False
    expires_in: int = Field(default=3600, ge=1, le=7 * 86400)


class InvitedOut(BaseModel):
    """Answer to it."""

    name: str
    token: str


class UpdateHost(RequestBody):
    """Body of ``PATCH /hosts/{name}``."""

    drained: bool


class FleetHostOut(BaseModel):
    """A host of the fleet."""

    key: str
    name: str
    status: HostStatus
    url: str
    version: str
    seen_at: datetime | None
    problem: str | SkipJsonSchema[None] = None
    drained_at: datetime | SkipJsonSchema[None] = None
    gone_at: datetime | SkipJsonSchema[None] = None
    duplicate_at: datetime | SkipJsonSchema[None] = None

    @classmethod
    def facts(cls, host: model.HostRecord) -> dict[str, Any]:
        """Collect what is known of a host; what there is nothing of is left out."""
        optional = ("problem", "drained_at", "gone_at", "duplicate_at")
        given = {name: getattr(host, name) for name in optional}
        return {
            "key": host.key,
            "name": host.name,
            "status": host.status,
            "url": host.url,
            "version": host.version,
            "seen_at": _utc(host.seen_at),
            **{name: _utc(value) for name, value in given.items() if value is not None},
        }

    @classmethod
    def of(cls, host: model.HostRecord) -> FleetHostOut:
        """Describe a host."""
        return cls.model_validate(cls.facts(host))


class HostDeviceOut(BaseModel):
    """A device of a host, and who has it."""

    id: str
    name: str
    pci_address: str
    attached_to: str | None
    claim: str | None
    claimed_by: str | None


class FleetHostDetailOut(FleetHostOut):
    """A host with its devices, also one that is gone."""

    devices: list[HostDeviceOut]

    @classmethod
    def with_devices(cls, host: model.HostRecord, devices: list[Row[Any]]) -> FleetHostDetailOut:
        """Describe a host with what was last seen there."""
        described = [
            HostDeviceOut(
                id=each.id,
                name=each.name,
                pci_address=each.pci_address,
                attached_to=each.attached_to,
                claim=each.claim,
                claimed_by=each.subject,
            )
            for each in devices
        ]
        return cls.model_validate({**cls.facts(host), "devices": described})


class ClaimBody(RequestBody):
    """Body of ``POST /devices/claims``."""

    count: int = Field(default=1, ge=1, le=256)
    type: DeviceType | None = None
    vendor_id: _Hex | None = None
    device_id: _Hex | None = None
    profile: str | None = Field(default=None, max_length=128)
    tags: dict[str, str] | None = None
    same_host: bool = False
    same_numa: bool = False
    instance: str | None = Field(default=None, min_length=1, max_length=512)
    expires_in: int | None = Field(default=None, ge=1, le=366 * 86400)

    def spec(self) -> model.ClaimSpec:
        """Return what is asked for."""
        return model.ClaimSpec(**{**self.model_dump(), "tags": self.tags or {}})


class ClaimedDeviceOut(BaseModel):
    """A device of a claim."""

    id: str
    name: str
    host: str
    pci_address: str


class ClaimOut(BaseModel):
    """A claim."""

    id: str
    state: ClaimState
    subject: str | None
    count: int
    instance: str | SkipJsonSchema[None] = None
    created_at: datetime
    expires_at: datetime | None
    devices: list[ClaimedDeviceOut]

    @classmethod
    def of(cls, claim: model.Claim) -> ClaimOut:
        """Describe a claim."""
        instance = {"instance": claim.spec.instance} if claim.spec.instance else {}
        return cls.model_validate(
            {
                "id": claim.id,
                "state": claim.state,
                "subject": claim.subject,
                "count": claim.spec.count,
                **instance,
                "created_at": _utc(claim.created_at),
                "expires_at": _utc(claim.expires_at),
                "devices": [
                    {
                        "id": each.key.id,
                        "name": each.name,
                        "host": each.host_name,
                        "pci_address": each.pci_address,
                    }
                    for each in claim.devices
                ],
            }
        )


def _utc(value: Any) -> Any:  # noqa: ANN401 - a moment, or what is none
    return value.astimezone(UTC) if isinstance(value, datetime) else value
