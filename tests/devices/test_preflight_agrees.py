"""Preflight says what bind and attach answer, on any host that can be built."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.model import Preflight, Scope
from tests import fake_libvirt
from tests.effort import examples
from tests.fake_host import FakeHost
from tests.fake_xml import PciFacts
from tests.world import OPERATOR, World, world_on

FUNCTIONS: Final = ("0000:41:00.0", "0000:41:00.1", "0000:41:00.2")
OTHER: Final = "0000:a2:00.0"
CODES: Final = {
    "endpoint": {"identity_changed", "not_assignable"},
    "iommu": {"iommu_unavailable"},
    "identity": {"identity_changed"},
    "critical": {"critical_device"},
    "in_use": {"in_use"},
    "sriov": {"sriov_active", "vfio_unavailable"},
    "group": {"iommu_group_conflict"},
    "vfio": {"vfio_unavailable", "not_supported"},
}
"""What an operation may answer that a check has stopped."""

Where = Literal["live", "defined", "both"]


@dataclass(frozen=True)
class Function:
    """One function of the group: what it is, which driver has it, and which domain."""

    driver: str | None
    class_code: str
    assignment: tuple[str, Where] | None
    link_up: bool
    virtual_functions: bool


@dataclass(frozen=True)
class State:
    """A host, and what is asked of it."""

    functions: tuple[Function, ...]
    instance: str
    scope: Scope
    purpose: Literal["attach", "bind"]
    event: Literal["none", "vanished", "replaced"]
    iommu: bool
    libvirt: int


functions = st.builds(
    Function,
    driver=st.sampled_from(["nvidia", "vfio-pci", "mlx5_vfio_pci", None]),
    class_code=st.sampled_from(["030200", "040300", "020000", "060400"]),
    assignment=st.none()
    | st.tuples(
        st.sampled_from(["vm-on", "vm-2"]),
        st.sampled_from(["live", "defined", "both"]),
    )
    | st.tuples(st.just("vm-off"), st.just("defined")),
    link_up=st.booleans(),
    virtual_functions=st.booleans(),
)
states = st.builds(
    State,
    functions=st.lists(functions, min_size=1, max_size=3).map(tuple),
    instance=st.sampled_from(["vm-on", "vm-off"]),
    scope=st.sampled_from(["device", "group"]),
    purpose=st.sampled_from(["attach", "bind"]),
    event=st.sampled_from(["none", "none", "none", "vanished", "replaced"]),
    iommu=st.booleans() | st.just(True),
    libvirt=st.sampled_from([9_000_000, 11_003_000]),
)


def build(state: State) -> FakeHost:
    """Make the host before anything is assigned on it: registered devices are endpoints."""
    host = FakeHost()
    host.libvirt = state.libvirt
    for number, function in enumerate(state.functions):
        class_code = "030200" if number == 0 else function.class_code
        facts: PciFacts = {"class_code": class_code, "group": 41}
        if class_code == "060400":
            facts["bridge"] = True
        if function.virtual_functions:
            facts["max_vfs"] = 2
        host.add_pci(FUNCTIONS[number], driver=function.driver, host_driver="nvidia", **facts)
        if function.virtual_functions:
            host.add_pci(
                f"0000:42:0{number}.0",
                class_code=class_code,
                group=50 + number,
                physical_function=FUNCTIONS[number],
            )
        if class_code == "020000" and function.driver == "nvidia":
            link: Literal["up", "down"] = "up" if function.link_up else "down"
            host.add_child(FUNCTIONS[number], "net", f"ens{number}", link=link)
    for name in ("vm-on", "vm-2"):
        host.add_domain(name, running=True, root_ports=8)
    host.add_domain("vm-off", root_ports=8)
    return host


def assign(host: FakeHost, state: State) -> None:
    """Give functions to domains as virsh does, where libvirt lets it."""
    for number, function in enumerate(state.functions):
        if function.assignment is not None:
            name, where = function.assignment
            with suppress(fake_libvirt.libvirtError):
                host.virsh_attach(
                    name, FUNCTIONS[number], live=where != "defined", config=where != "live"
                )


def happen(host: FakeHost, state: State) -> None:
    """Take the registered function away, or put another card into its place."""
    if state.event != "none":
        host.vanish(FUNCTIONS[0])
    if state.event == "replaced":
        host.add_pci(FUNCTIONS[0], product="2684", driver="nvidia", group=41)
    host.iommu = state.iommu


def ask(world: World, state: State) -> Preflight:
    return world.service.preflight.of_device(
        FUNCTIONS[0], state.instance, state.scope, state.purpose
    )


def do(world: World, state: State) -> str | None:
    """Do it, and return the code of the refusal."""
    try:
        if state.purpose == "attach":
            world.service.attach(FUNCTIONS[0], state.instance, state.scope, OPERATOR)
        else:
            world.service.bind(FUNCTIONS[0], state.scope, OPERATOR)
    except DeviceError as error:
        return error.code
    return None


@pytest.mark.usefixtures("fake_host")  # so that it runs on the fake alone
@settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(state=states)
def test_preflight_is_ready_if_and_only_if_the_operation_succeeds(state: State) -> None:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    with ExitStack() as stack:
        host = build(state)
        fake_libvirt.serve(host)
        stack.callback(fake_libvirt.forget, host)
        opened = open_host(host.uri)
        stack.callback(opened.close)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = stack.enter_context(world_on(opened, directory))
        world.service.register(FUNCTIONS[0], None, {}, OPERATOR)
        assign(host, state)
        happen(host, state)
        preflight = ask(world, state)
        code = do(world, state)
        errors = [check.id for check in preflight.checks if check.severity == "error"]
        event(code or "done")
        assert preflight.ready == (code is None), (errors, code)
        if code is not None:
            assert code in CODES[errors[0]], (errors, code)
        else:
            assert ask(world, state).ready
            assert do(world, state) is None
