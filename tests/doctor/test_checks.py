"""Each question of the doctor, over facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.card import Verdict
from hypeman_libvirt.devices.domain import Assignment, Domain
from hypeman_libvirt.devices.errors import (
    DeviceError,
    LibvirtDeniedError,
    LibvirtFailedError,
    LibvirtUnavailableError,
)
from hypeman_libvirt.devices.host_identity import HostIdentity, MachineId
from hypeman_libvirt.devices.model import Device
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.doctor.checks import diagnose
from hypeman_libvirt.doctor.facts import (
    Facts,
    Finding,
    Libvirt,
    Machine,
    RegistryFacts,
    Secret,
    Socket,
    Unit,
)
from tests.registry.registrations import L4

UUID = "2f1c5a3e-8f7e-4a53-9f3c-0d6c7f6b7a10"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MACHINE = Machine("answers", "DMAR", 20, ["quiet", "intel_iommu=on"], "loaded")
HERE = MachineId("0123456789abcdef0123456789abcdef", "machine:3fb648ce")
LIBVIRT = Libvirt(
    HostIdentity("qemu:///system", UUID, UUID, HERE), "9.0.0", 30, 28, None, has_vfio=True
)
REMOTE = HostIdentity("qemu+tls://there/system", UUID, firmware_uuid="")
REGISTRY = RegistryFacts("/var/lib/libvirt/hypeman/registry.db", True, None, {}, NOW)
UNIT = Unit("hypeman-libvirt.service", "active", "running", "enabled", 0, "", "serving")
PACKAGED = "/etc/hypeman-libvirt/jwt-secret"
WELL = Facts(
    machine=MACHINE,
    libvirt=LIBVIRT,
    registry=REGISTRY,
    devices=(),
    asks_for_tokens=True,
    secret=Secret(PACKAGED, None),
    listen="127.0.0.1:8080",
    listens_locally=True,
    now=NOW,
    exposed=(),
    groups=(),
    noted=(),
    unknown_variables=(),
    unit=UNIT,
)
NODE = NodeDevice(
    node_name="pci_0000_a2_00_0",
    address=PciAddress.parse("0000:a2:00.0"),
    vendor_id="10de",
    device_id="27b8",
    class_code=0x030200,
    serial=L4.serial,
    driver="nvidia",
    iommu_group=82,
)

VM = Domain("7a3d5b1e-4c0f-4d86-9f0e-2b1c8d7e6f50", "vm", "shut off", active=False, persistent=True)
EXPECTED = Assignment(VM, NODE.address, live=False, persistent=True, managed=True)


def find(facts: Facts, question: str) -> Finding:
    (finding,) = [each for each in diagnose(facts) if each.id == question]
    return finding


def with_machine(**changes: object) -> Facts:
    return replace(WELL, machine=replace(MACHINE, **changes))  # type: ignore[arg-type]


def with_libvirt(**changes: object) -> Facts:
    return replace(WELL, libvirt=replace(LIBVIRT, **changes))  # type: ignore[arg-type]


def with_secret(file: str | None = None, problem: str = "too short", **more: bool) -> Facts:
    return replace(WELL, secret=Secret(file, problem, **more))


def with_unit(**changes: object) -> Facts:
    return replace(WELL, unit=replace(UNIT, **changes))  # type: ignore[arg-type]


FAILED = with_unit(active="failed", detail="failed", since="Tue 09:00", restarts=5)
LOOPING = with_unit(active="activating", detail="auto-restart", since="", last_line="no secret")


def test_a_healthy_host_has_nothing_to_mend() -> None:
    assert {(each.severity, each.cure) for each in diagnose(WELL)} == {("ok", None)}


def down(socket: Socket) -> Facts:
    return replace(with_machine(socket=socket), libvirt=LibvirtUnavailableError("no answer"))


@pytest.mark.parametrize(
    ("facts", "question", "found", "cure"),
    [
        (down("missing"), "libvirt", "not running", "systemctl enable --now libvirtd.socket"),
        (down("silent"), "libvirt", "not running", "systemctl enable --now libvirtd.socket"),
        (down("denied"), "libvirt", "may not open", "contrib/polkit"),
        (down("answers"), "libvirt", "does not serve", "journalctl"),
        (
            replace(WELL, libvirt=LibvirtDeniedError("refused")),
            "libvirt",
            "refused",
            "contrib/polkit",
        ),
        (
            replace(down("missing"), machine=None),
            "libvirt",
            "no answer",
            "virsh -c URI version",
        ),
        (
            replace(with_machine(iommu_table=None, groups=0), libvirt=replace(LIBVIRT, grouped=0)),
            "iommu",
            "firmware shows no IOMMU",
            "firmware setup",
        ),
        (
            replace(
                with_machine(groups=0, command_line=["quiet", "intel_iommu=off"]),
                libvirt=replace(LIBVIRT, grouped=0),
            ),
            "iommu",
            "turns the IOMMU off: intel_iommu=off",
            "/etc/default/grub",
        ),
        (
            replace(
                with_machine(groups=0, command_line=["quiet"]),
                libvirt=replace(LIBVIRT, grouped=0),
            ),
            "iommu",
            "the kernel does not use it",
            "add intel_iommu=on",
        ),
        (with_libvirt(grouped=0), "iommu", "libvirt names none", "restart libvirtd"),
        (with_machine(vfio="missing"), "vfio", "no vfio-pci", "apt-get install linux-image"),
        (with_libvirt(has_vfio=False), "vfio", "does not pass", "modprobe vfio-pci"),
        (
            with_libvirt(node_devices=LibvirtDeniedError("refused")),
            "node_devices",
            "node-device.read",
            "contrib/polkit",
        ),
        (
            with_libvirt(node_devices=LibvirtFailedError("dead")),
            "node_devices",
            "driver does not answer",
            "virtnodedevd",
        ),
        (with_libvirt(node_devices=0), "node_devices", "no PCI device", "apt-get install"),
        (
            with_libvirt(domains=LibvirtDeniedError("refused")),
            "domains",
            "domain.read",
            "contrib/polkit",
        ),
        (with_libvirt(domains=LibvirtFailedError("odd")), "domains", "odd", "virsh list"),
        (with_secret(problem="no secret"), "secret", "no secret", "export JWT_SECRET=$(openssl"),
        (with_secret(PACKAGED), "secret", "too short", f"openssl rand -hex 32 > {PACKAGED})"),
        (with_secret(PACKAGED, closed=True), "secret", "too short", "sudo hypeman-libvirt doctor"),
        (FAILED, "unit", "failing since Tue 09:00, 5 restart(s)", "journalctl -u hypeman-libvirt"),
        (LOOPING, "unit", "the last line of its log: no secret", "systemctl restart"),
        (with_unit(enabled="masked", active="inactive"), "unit", "masked", "systemctl unmask"),
        (
            replace(WELL, registry=replace(REGISTRY, problem="closed", closed=True)),
            "registry",
            "closed",
            "sudo hypeman-libvirt doctor",
        ),
        (
            replace(WELL, registry=replace(REGISTRY, problem="its disk is full")),
            "registry",
            "its disk is full",
            "setting",
        ),
        (
            replace(WELL, registry=replace(REGISTRY, newest=NOW + timedelta(hours=1))),
            "clock",
            "has been before",
            "timedatectl",
        ),
    ],
)
def test_an_error_names_its_cure(facts: Facts, question: str, found: str, cure: str) -> None:
    finding = find(facts, question)
    assert finding.severity == "error"
    assert found in finding.message
    assert cure in (finding.cure or "")


@pytest.mark.parametrize(
    ("facts", "question", "cure"),
    [
        (with_unit(active="inactive"), "unit", "systemctl enable --now hypeman-libvirt.service"),
        (with_unit(enabled="disabled"), "unit", "systemctl enable hypeman-libvirt.service"),
        (replace(WELL, unknown_variables=["X is no setting"]), "environment", "correct the name"),
        (replace(WELL, exposed=["/etc/secret"]), "files", "chmod 600 /etc/secret"),
        (replace(WELL, listen="0.0.0.0:80", listens_locally=False), "listen", "contrib/proxy"),
        (with_libvirt(version="8.0.0"), "libvirt", "apt-get upgrade"),
        (
            with_libvirt(unannounced={"domain": LibvirtDeniedError("no")}),
            "events",
            "hypeman-libvirt.rules",
        ),
        (
            with_libvirt(unannounced={"node device": LibvirtUnavailableError("no")}),
            "events",
            "virtnodedevd",
        ),
        (with_libvirt(identity=REMOTE), "host_uuid", "host_uuid_source"),
        (
            replace(WELL, registry=replace(REGISTRY, of_other_hosts={"old": 3})),
            "other_host",
            "registry adopt old",
        ),
        (replace(WELL, devices=[Device(L4, None, None)]), "devices", "devices delete l4-gpu"),
        (
            replace(WELL, devices=[Device(L4, replace(NODE, device_id="2204"), None)]),
            "devices",
            "register it anew",
        ),
    ],
)
def test_a_warning_names_its_cure(facts: Facts, question: str, cure: str) -> None:
    finding = find(facts, question)
    assert finding.severity == "warning"
    assert cure in (finding.cure or "")


def test_a_name_that_libvirt_could_give_another_device_is_told() -> None:
    registration = replace(L4, name="pci_0000_41_00_0")
    facts = replace(WELL, devices=[Device(registration, None, None)])
    messages = [each.message for each in diagnose(facts) if each.severity == "warning"]
    assert f"pci_0000_41_00_0 is the name of the device at {L4.pci_address}" in messages[0]


def test_a_device_that_lost_its_driver_is_an_error() -> None:
    lost = Device(L4, replace(NODE, driver=None), None)
    finding = find(replace(WELL, devices=[lost]), "devices")
    assert (finding.severity, "was on nvidia" in finding.message) == ("error", True)
    assert "drivers_probe" in (finding.cure or "")


def test_a_device_that_never_had_a_driver_has_lost_none() -> None:
    driverless = Device(replace(L4, host_driver=None), replace(NODE, driver=None), None)
    assert find(replace(WELL, devices=[driverless]), "devices").severity == "ok"


@pytest.mark.parametrize(
    ("identity", "key"),
    [
        (replace(REMOTE, firmware_uuid=None), UUID),
        (replace(REMOTE, firmware_uuid=UUID), UUID),
        (replace(REMOTE, machine=HERE), HERE.key),
        (HostIdentity("test:///demo.xml", None), "test:///demo.xml"),
    ],
)
def test_what_registrations_belong_to_lasts(identity: HostIdentity, key: str) -> None:
    finding = find(with_libvirt(identity=identity), "host_uuid")
    assert (finding.severity, finding.message) == ("ok", f"registrations belong to {key}")


def test_a_remote_host_without_groups_gets_the_general_cure() -> None:
    facts = replace(with_libvirt(grouped=0), machine=None)
    assert "intel_iommu=on" in (find(facts, "iommu").cure or "")


@pytest.mark.parametrize("error", [LibvirtUnavailableError("x"), LibvirtDeniedError("x")])
def test_nothing_is_asked_of_a_libvirt_that_does_not_answer(error: DeviceError) -> None:
    asked = [each.id for each in diagnose(replace(WELL, libvirt=error))]
    of_the_service = ["unit", "secret", "environment", "files", "listen"]
    assert asked == [*of_the_service, "clock", "registry", "libvirt"]


@pytest.mark.parametrize("closed", [False, True])
def test_where_a_packaged_secret_is_no_other_one_is_proposed(closed: bool) -> None:
    cure = find(with_secret(PACKAGED, closed=closed), "secret").cure or ""
    assert "JWT_SECRET" not in cure
    assert "jwt_secret_file" not in cure


def test_without_systemd_nobody_asks_for_a_unit() -> None:
    assert "unit" not in {each.id for each in diagnose(replace(WELL, unit=None))}


@pytest.mark.parametrize(
    ("verdict", "cure"),
    [
        (Verdict("moved", candidates=[NODE.address]), "devices move l4-gpu --pci-address ADDRESS"),
        (Verdict("changed"), "devices delete l4-gpu"),
    ],
)
def test_a_card_in_doubt_is_told_with_the_domains_that_expect_it(
    verdict: Verdict, cure: str
) -> None:
    doubtful = Device(L4, NODE, None, verdict)
    facts = replace(WELL, devices=[doubtful], expecting={L4.id: [EXPECTED]})
    finding = find(facts, "devices")
    assert finding.severity == "warning"
    assert "it is in the definition of domain vm " in finding.message
    assert cure in (finding.cure or "")


@pytest.mark.parametrize(
    ("limited", "said"), [(True, "guest agent"), (False, "access_drivers = [")]
)
def test_what_libvirt_lets_the_service_do_is_said(limited: bool, said: str) -> None:
    machine = replace(MACHINE, limits_rights=limited)
    (finding,) = [each for each in diagnose(replace(WELL, machine=machine)) if each.id == "rights"]
    assert finding.severity == "ok"
    assert said in finding.message


def test_others_may_connect_over_tls() -> None:
    facts = replace(WELL, listen="0.0.0.0:80", listens_locally=False, speaks_tls=True)
    (finding,) = [each for each in diagnose(facts) if each.id == "listen"]
    assert finding.severity == "ok"
