"""Bodies of ``/resources`` and ``/capabilities``, as hypeman's SDKs know them.

What libvirt does not say is left out where the SDKs allow it, else 0.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.resources import reader
from hypeman_libvirt.resources.model import Guest, Network
from hypeman_libvirt.resources.reader import GpuMode
from hypeman_libvirt.version import __version__

ResourceType = Literal["cpu", "memory", "disk", "network"]

_NOT_OVERSUBSCRIBED: Final = 1.0
_GO_WORDS: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386"}
"""hypeman speaks of architectures as Go does.

Source: https://go.dev/doc/install/source#environment
"""


class ResourceOut(BaseModel):
    """One kind of resource. libvirt knows no oversubscription, so the limit is the capacity."""

    type: ResourceType
    capacity: int
    effective_limit: int
    allocated: int
    available: int
    oversub_ratio: float
    source: Literal["detected"] | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, kind: ResourceType, resource: reader.Resource) -> ResourceOut:
        """Describe it; without a source if libvirt does not say what there is."""
        return cls.model_validate(
            {
                "type": kind,
                "capacity": resource.capacity,
                "effective_limit": resource.capacity,
                "allocated": resource.allocated,
                "available": resource.available,
                "oversub_ratio": _NOT_OVERSUBSCRIBED,
                **({"source": "detected"} if resource.detected else {}),
            }
        )


class PassthroughGpuOut(BaseModel):
    """A GPU that an instance can have as a whole."""

    name: str
    available: bool


class GpuProfileOut(BaseModel):
    """A vGPU profile."""

    name: str
    framebuffer_mb: int
    available: int


class GpuOut(BaseModel):
    """GPUs as slots."""

    mode: GpuMode
    total_slots: int
    used_slots: int
    quarantined_slots: int
    allocatable_slots: int
    devices: list[PassthroughGpuOut] | SkipJsonSchema[None] = None
    profiles: list[GpuProfileOut] | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, gpu: reader.GpuResources) -> GpuOut:
        """Describe them; without profiles if no GPU offers any."""
        slots = {
            "mode": gpu.mode,
            "total_slots": gpu.total,
            "used_slots": gpu.used,
            "quarantined_slots": gpu.quarantined,
            "allocatable_slots": gpu.allocatable,
        }
        devices = [{"name": each.name, "available": each.available} for each in gpu.devices]
        profiles = [
            {"name": each.name, "framebuffer_mb": each.framebuffer, "available": each.available}
            for each in gpu.profiles
        ]
        lists = {"devices": devices, "profiles": profiles}
        return cls.model_validate({**slots, **{name: each for name, each in lists.items() if each}})


class AllocationOut(BaseModel):
    """What one instance has of the host."""

    instance_id: str
    instance_name: str
    cpu: int
    memory_bytes: int
    network_download_bps: int | SkipJsonSchema[None] = None
    network_upload_bps: int | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, guest: Guest) -> AllocationOut:
        """Describe it; without the limits that it does not have."""
        limits = {"network_download_bps": guest.download, "network_upload_bps": guest.upload}
        return cls.model_validate(
            {
                "instance_id": guest.instance,
                "instance_name": guest.name,
                "cpu": guest.cpus,
                "memory_bytes": guest.memory,
                **{name: limit for name, limit in limits.items() if limit is not None},
            }
        )


class InstanceOut(BaseModel):
    """A domain that libvirt knows, running or only defined."""

    instance_id: str
    instance_name: str
    state: str

    @classmethod
    def of(cls, domain: Domain) -> InstanceOut:
        """Describe it."""
        return cls(instance_id=domain.instance, instance_name=domain.name, state=domain.state)


class ResourcesOut(BaseModel):
    """Answer of ``GET /resources``."""

    cpu: ResourceOut
    memory: ResourceOut
    disk: ResourceOut
    network: ResourceOut
    gpu: GpuOut | None
    allocations: list[AllocationOut]
    instances: list[InstanceOut]

    @classmethod
    def of(cls, resources: reader.Resources) -> ResourcesOut:
        """Describe all of it."""
        return cls(
            cpu=ResourceOut.of("cpu", resources.cpu),
            memory=ResourceOut.of("memory", resources.memory),
            disk=ResourceOut.of("disk", resources.disk),
            network=ResourceOut.of("network", resources.network),
            gpu=GpuOut.of(resources.gpu) if resources.gpu else None,
            allocations=[AllocationOut.of(each) for each in resources.guests],
            instances=[InstanceOut.of(each) for each in resources.domains],
        )


class ServerOut(BaseModel):
    """This service."""

    version: str
    api_version: str


class HostOut(BaseModel):
    """The host that libvirt runs on; VFIO exists on Linux only."""

    os: Literal["linux"]
    arch: str


class DefaultRuntimeOut(BaseModel):
    """The hypervisor that is used unless a request names another."""

    name: str
    available: bool


class RuntimeOut(DefaultRuntimeOut):
    """A hypervisor, in libvirt's words."""

    features: list[Literal["gpu-passthrough"]]


class NetworkOut(BaseModel):
    """libvirt's default network: to hypeman, what guests reach through a tap is a bridge."""

    model: Literal["bridge"]
    guest_to_guest: bool
    gateway: str | SkipJsonSchema[None] = None
    subnet: str | SkipJsonSchema[None] = None

    @classmethod
    def of(cls, network: Network | None) -> NetworkOut:
        """Describe it; on a host without one, guests do not meet by default."""
        if network is None:
            return cls(model="bridge", guest_to_guest=False)
        if network.gateway is None or network.subnet is None:
            return cls(model="bridge", guest_to_guest=network.joins_guests)
        return cls(
            model="bridge",
            guest_to_guest=network.joins_guests,
            gateway=network.gateway,
            subnet=network.subnet,
        )


class ImagesOut(BaseModel):
    """Platforms that guests of the host can have; images themselves are not this service's."""

    default_platform: str
    platforms: list[str]


class CapabilitiesOut(BaseModel):
    """Answer of ``GET /capabilities``."""

    server: ServerOut
    host: HostOut
    default_runtime: DefaultRuntimeOut
    runtimes: list[RuntimeOut]
    network: NetworkOut
    images: ImagesOut
    features: list[Literal["devices"]]

    @classmethod
    def of(cls, capabilities: reader.Capabilities) -> CapabilitiesOut:
        """Describe the host, and of hypeman's features the one that this service has."""
        arch = _GO_WORDS.get(capabilities.platform.arch, capabilities.platform.arch)
        return cls(
            server=ServerOut(version=__version__, api_version=__version__),
            host=HostOut(os="linux", arch=arch),
            default_runtime=_default_runtime(capabilities.platform.hypervisors),
            runtimes=[
                RuntimeOut(
                    name=each,
                    available=True,
                    features=["gpu-passthrough"] if capabilities.passthrough else [],
                )
                for each in capabilities.platform.hypervisors
            ],
            network=NetworkOut.of(capabilities.platform.network),
            images=ImagesOut(default_platform=f"linux/{arch}", platforms=[f"linux/{arch}"]),
            features=["devices"],
        )


def _default_runtime(hypervisors: tuple[str, ...]) -> DefaultRuntimeOut:
    """Choose KVM where there is KVM, as virt-install does."""
    if not hypervisors:
        return DefaultRuntimeOut(name="kvm", available=False)
    return DefaultRuntimeOut(name="kvm" if "kvm" in hypervisors else hypervisors[0], available=True)
