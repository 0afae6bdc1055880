"""The host as a whole, as hypeman's tooling asks for it."""

from __future__ import annotations

import libvirt

from hypeman_libvirt import __version__
from tests.api.client import Api, code_of
from tests.fake_host import FakeHost

GPU = "0000:a2:00.0"


def test_what_the_host_has_and_who_took_it(api: Api, fake_host: FakeHost) -> None:
    fake_host.pools = [("dir", 100, 60, 40)]
    answer = api.get("/resources").json
    assert answer["cpu"] == {
        "type": "cpu",
        "capacity": 64,
        "effective_limit": 64,
        "allocated": 1,
        "available": 63,
        "oversub_ratio": 1.0,
        "source": "detected",
    }
    assert (answer["memory"]["capacity"], answer["memory"]["allocated"]) == (
        256 * 1024**3,
        32 << 20,
    )
    assert (answer["disk"]["capacity"], answer["disk"]["available"]) == (100, 40)
    (allocation,) = answer["allocations"]
    assert allocation == {
        "instance_id": fake_host.guest("vm-on").uuid,
        "instance_name": "vm-on",
        "cpu": 1,
        "memory_bytes": 32 << 20,
    }


def test_every_domain_is_an_instance_running_or_only_defined(api: Api, fake_host: FakeHost) -> None:
    instances = api.get("/resources").json["instances"]
    assert [(each["instance_name"], each["state"]) for each in instances] == [
        ("vm-off", "shut off"),
        ("vm-on", "running"),
    ]
    assert [each["instance_id"] for each in instances] == [
        fake_host.guest("vm-off").uuid,
        fake_host.guest("vm-on").uuid,
    ]


def test_a_gpu_is_no_longer_available_once_it_is_attached(api: Api) -> None:
    free = {"name": "AD104GL [L4]", "available": True}
    assert free in api.get("/resources").json["gpu"]["devices"]
    api.post("/devices", {"pci_address": GPU, "name": "l4"})
    api.post("/devices/l4/attach", {"instance": "vm-on"})
    gpu = api.get("/resources").json["gpu"]
    assert (gpu["mode"], gpu["total_slots"], gpu["used_slots"]) == ("passthrough", 2, 1)
    assert {**free, "available": False} in gpu["devices"]


def test_vgpu_profiles_are_listed(api: Api, fake_host: FakeHost) -> None:
    fake_host.vanish(GPU)
    fake_host.vanish("0000:41:00.0")
    vgpu = [("nvidia-222", "GRID T4-1B", 16)]
    fake_host.add_pci("0000:65:00.0", driver="nvidia", group=65, vgpu=vgpu)
    api.post("/devices", {"profile": "GRID T4-1B"})
    assert api.get("/resources").json["gpu"] == {
        "mode": "vgpu",
        "total_slots": 16,
        "used_slots": 0,
        "quarantined_slots": 0,
        "allocatable_slots": 16,
        "profiles": [{"name": "GRID T4-1B", "framebuffer_mb": 1024, "available": 15}],
    }


def test_without_a_gpu_there_is_none(api: Api, fake_host: FakeHost) -> None:
    fake_host.vanish(GPU)
    fake_host.vanish("0000:41:00.0")
    assert api.get("/resources").json["gpu"] is None


def test_what_libvirt_does_not_say_has_no_source(api: Api, fake_host: FakeHost) -> None:
    fake_host.refuse("listAllStoragePools", libvirt.VIR_ERR_ACCESS_DENIED)
    answer = api.get("/resources").json
    assert (answer["disk"]["capacity"], "source" in answer["disk"]) == (0, False)
    assert (answer["network"]["capacity"], "source" in answer["network"]) == (0, False)


def test_what_the_host_can_do(api: Api) -> None:
    assert api.get("/capabilities").json == {
        "server": {"version": __version__, "api_version": __version__},
        "host": {"os": "linux", "arch": "amd64"},
        "default_runtime": {"name": "kvm", "available": True},
        "runtimes": [
            {"name": "kvm", "available": True, "features": ["gpu-passthrough"]},
            {"name": "qemu", "available": True, "features": ["gpu-passthrough"]},
        ],
        "network": {"model": "bridge", "guest_to_guest": False},
        "images": {"default_platform": "linux/amd64", "platforms": ["linux/amd64"]},
        "features": ["devices"],
    }


def test_the_default_network_is_libvirts(api: Api, fake_host: FakeHost) -> None:
    address = "<ip address='10.1.0.1' prefix='16'/>"
    fake_host.networks["default"] = f"<network><forward mode='nat'/>{address}</network>"
    assert api.get("/capabilities").json["network"] == {
        "model": "bridge",
        "guest_to_guest": True,
        "gateway": "10.1.0.1",
        "subnet": "10.1.0.0/16",
    }
    fake_host.networks["default"] = "<network><forward mode='bridge'/></network>"
    network = api.get("/capabilities").json["network"]
    assert network == {"model": "bridge", "guest_to_guest": True}


def test_without_an_iommu_no_runtime_passes_devices_through(api: Api, fake_host: FakeHost) -> None:
    fake_host.iommu = False
    runtimes = api.get("/capabilities").json["runtimes"]
    assert [each["features"] for each in runtimes] == [[], []]


def test_an_architecture_without_a_hypervisor_has_no_runtime(api: Api, fake_host: FakeHost) -> None:
    fake_host.hypervisors = []
    answer = api.get("/capabilities").json
    assert (answer["runtimes"], answer["default_runtime"]["available"]) == ([], False)


def test_while_libvirt_is_down_nothing_is_told(api: Api, fake_host: FakeHost) -> None:
    fake_host.down()
    for path in ("/resources", "/capabilities"):
        assert code_of(api.get(path)) == (503, "libvirt_unavailable")
