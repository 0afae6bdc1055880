"""After anything that anybody does, and whatever fails on the way, the host is unharmed."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.model import Scope
from tests import fake_libvirt
from tests.effort import examples
from tests.fake_host import FakeHost
from tests.fake_xml import held
from tests.world import OPERATOR, World, world_on

GPU, AUDIO, ALONE, NIC, PORT = (
    "0000:41:00.0",
    "0000:41:00.1",
    "0000:a2:00.0",
    "0000:3b:00.0",
    "0000:a1:01.0",
)
DRIVERS = {
    GPU: "nvidia",
    AUDIO: "snd_hda_intel",
    ALONE: "nvidia",
    NIC: "mlx5_core",
    PORT: "pcieport",
}
DOMAINS = ("vm-off", "vm-on")

devices = st.sampled_from([GPU, AUDIO, ALONE, NIC])
scopes: st.SearchStrategy[Scope] = st.sampled_from(["device", "group"])
domains = st.sampled_from(DOMAINS)
calls = st.sampled_from(["detachFlags", "attachDeviceFlags", "detachDeviceFlags", "setMetadata"])
"""Those that may fail. Without reAttach, which is the way back when vfio-pci refuses a device."""


class Host(RuleBasedStateMachine):
    """Operators, virsh and faults, in any order, on a host with a GPU pair, a GPU and a NIC."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.host: FakeHost
        self.world: World

    @initialize()
    def start(self) -> None:
        from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
        from tests.conftest import seed_host  # noqa: PLC0415

        self.host = seed_host()
        fake_libvirt.serve(self.host)
        self.stack.callback(fake_libvirt.forget, self.host)
        host = open_host(self.host.uri)
        self.stack.callback(host.close)
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.world = self.stack.enter_context(world_on(host, directory))
        for address in (GPU, AUDIO, ALONE, NIC):
            self.world.service.register(address, None, {}, OPERATOR)
        self.registered = self.world.service.inventory.list_devices({})

    @rule(address=devices, scope=scopes)
    def bind(self, address: str, scope: Scope) -> None:
        with suppress(DeviceError):
            self.world.service.bind(address, scope, OPERATOR)

    @rule(address=devices, scope=scopes)
    def unbind(self, address: str, scope: Scope) -> None:
        with suppress(DeviceError):
            self.world.service.unbind(address, scope, OPERATOR)

    @rule(address=devices, scope=scopes, domain=domains)
    def attach(self, address: str, scope: Scope, domain: str) -> None:
        with suppress(DeviceError):
            self.world.service.attach(address, domain, scope, OPERATOR)

    @rule(address=devices)
    def detach(self, address: str) -> None:
        with suppress(DeviceError):
            self.world.service.detach(address, OPERATOR)

    @rule(domain=domains)
    def virsh_starts_or_destroys(self, domain: str) -> None:
        with suppress(fake_libvirt.libvirtError):
            if self.host.guest(domain).active:
                self.host.virsh_destroy(domain)
            else:
                self.host.virsh_start(domain)

    @rule(call=calls, times=st.integers(1, 2))
    def a_call_fails(self, call: str, times: int) -> None:
        self.host.refuse(call, 1, 10, times=times)

    @rule(address=st.sampled_from([GPU, AUDIO, ALONE]), refuses=st.booleans())
    def vfio_refuses(self, address: str, refuses: bool) -> None:
        self.host.pci(address).refused_by_vfio = refuses

    @rule(domain=domains, ignores=st.booleans())
    def guest_ignores_unplug(self, domain: str, ignores: bool) -> None:
        self.host.guest_ignores_unplug(domain, ignores=ignores)

    @invariant()
    def no_device_lost_its_driver(self) -> None:
        for address, driver in DRIVERS.items():
            assert self.host.driver(address) in (driver, "vfio-pci")

    @invariant()
    def no_critical_device_has_moved(self) -> None:
        assert self.host.driver(NIC) == "mlx5_core"
        assert self.host.driver(PORT) == "pcieport"
        assert self.host.pci(NIC).unbinds == 0

    @invariant()
    def no_two_domains_hold_one_device(self) -> None:
        definitions = [
            {*held(self.host.guest(name).config), *held(self.host.guest(name).live)}
            for name in DOMAINS
        ]
        assert not definitions[0] & definitions[1]

    @invariant()
    def the_registry_is_as_it_was(self) -> None:
        now = [each.registration for each in self.world.service.inventory.list_devices({})]
        assert now == [each.registration for each in self.registered]

    def teardown(self) -> None:
        self.stack.close()


@pytest.mark.usefixtures("fake_host")  # so that it runs on the fake alone
class TestHost(Host.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=examples(20), stateful_step_count=25, deadline=None)
