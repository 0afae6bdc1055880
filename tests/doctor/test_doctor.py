"""The command on five broken hosts, and on one that is well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hypeman_libvirt.cli.main import cli
from hypeman_libvirt.cli.world import CommandWorld, Run
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.registry import SqlRegistry
from tests.devices.test_recovery import DAMAGED
from tests.fake_host import FakeHost
from tests.world import OPERATOR, world_on

L4 = "0000:a2:00.0"


class Doctor:
    """Runs the command on a fake host with a registry of its own."""

    def __init__(self, host: FakeHost, directory: Path) -> None:
        self.registry = directory / "registry.db"
        self._machine = directory / "machine"
        self.systemd: Run = lambda _: None
        (self._machine / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
        self._environment = {
            "HYPEMAN_LIBVIRT_URI": host.uri,
            "HYPEMAN_LIBVIRT_REGISTRY": str(self.registry),
            "JWT_SECRET": "s" * 64,
        }

    def run(self, *arguments: str, **environment: str | None) -> tuple[int, str]:
        done = CliRunner().invoke(
            cli,
            ["doctor", *arguments],
            env={**self._environment, **environment},
            obj=CommandWorld(self._machine, self.systemd),
        )
        return done.exit_code, done.stdout

    def findings(self) -> dict[str, tuple[str, Any]]:
        _, printed = self.run("--json")
        return {each["id"]: (each["severity"], each["cure"]) for each in json.loads(printed)}


@pytest.fixture
def doctor(fake_host: FakeHost, tmp_path: Path) -> Doctor:
    return Doctor(fake_host, tmp_path)


def register(host: LibvirtHost, directory: Path) -> None:
    with world_on(host, directory) as world:
        world.service.register(L4, "l4-gpu", {}, OPERATOR)


def test_a_host_that_is_well(doctor: Doctor, libvirt_host: LibvirtHost, tmp_path: Path) -> None:
    register(libvirt_host, tmp_path)
    status, printed = doctor.run()
    assert status == 0, printed
    assert "OK       libvirt: libvirt 9.0.0 answers" in printed
    assert "1 registered device(s) are as they should be" in printed


def test_libvirt_is_down(doctor: Doctor, fake_host: FakeHost) -> None:
    fake_host.down()
    status, printed = doctor.run()
    assert status == 2
    assert "ERROR    libvirt: libvirt is not running" in printed
    assert "cure: systemctl enable --now libvirtd.socket" in printed


def test_libvirt_lets_nobody_in(doctor: Doctor, fake_host: FakeHost) -> None:
    fake_host.refuse("open", 45)
    severity, cure = doctor.findings()["libvirt"]
    assert severity == "error"
    assert "contrib/polkit" in cure


def test_polkit_hides_node_devices(doctor: Doctor, fake_host: FakeHost) -> None:
    fake_host.refuse("listAllDevices", 88)
    severity, cure = doctor.findings()["node_devices"]
    assert severity == "error"
    assert "contrib/polkit" in cure


def test_the_node_device_driver_is_dead(doctor: Doctor, fake_host: FakeHost) -> None:
    fake_host.refuse("listAllDevices", 38)
    severity, cure = doctor.findings()["node_devices"]
    assert severity == "error"
    assert "virtnodedevd" in cure


def test_there_is_no_secret(doctor: Doctor) -> None:
    status, printed = doctor.run(JWT_SECRET=None)
    assert status == 2
    assert "ERROR    secret" in printed


def test_others_can_read_the_secret(doctor: Doctor, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 64)
    secret.chmod(0o644)
    _, printed = doctor.run(JWT_SECRET=None, HYPEMAN_LIBVIRT_JWT_SECRET_FILE=str(secret))
    assert f"chmod 600 {secret}" in " ".join(printed.split())


def test_the_registry_is_damaged(doctor: Doctor) -> None:
    doctor.registry.write_text("no database at all, and longer than a header " * 50)
    assert doctor.findings()["registry"][0] == "error"


def test_the_registry_is_not_made_by_looking(doctor: Doctor) -> None:
    assert doctor.findings()["registry"][0] == "ok"
    assert not doctor.registry.exists()


def test_a_device_has_lost_its_driver(
    doctor: Doctor, fake_host: FakeHost, libvirt_host: LibvirtHost, tmp_path: Path
) -> None:
    register(libvirt_host, tmp_path)
    fake_host.set_driver(L4, None)
    severity, cure = doctor.findings()["devices"]
    assert severity == "error"
    assert cure.startswith(f"echo {L4} > /sys/bus/pci/drivers_probe")


def test_what_a_uuid_that_is_gone_had_is_adopted(
    doctor: Doctor, fake_host: FakeHost, libvirt_host: LibvirtHost, tmp_path: Path
) -> None:
    register(libvirt_host, tmp_path)
    old, fake_host.uuid = fake_host.uuid, "11111111-2222-4333-8444-555555555555"
    status, printed = doctor.run()
    assert status == 1
    assert f"registry adopt {old}" in printed
    arguments = ["registry", "adopt", old, "--registry", str(doctor.registry)]
    done = CliRunner().invoke(cli, [*arguments, "--uri", fake_host.uri])
    assert (done.exit_code, done.stdout[:1]) == (0, "1")
    assert doctor.run()[0] == 0
    registry = SqlRegistry(doctor.registry)
    assert registry.find(fake_host.uuid, "l4-gpu") is not None
    registry.close()


def test_events_that_libvirt_refuses_are_a_warning(doctor: Doctor, fake_host: FakeHost) -> None:
    assert doctor.findings()["events"][0] == "ok"
    fake_host.refuse("nodeDeviceEventRegisterAny", 88)
    severity, cure = doctor.findings()["events"]
    assert severity == "warning"
    assert "hypeman-libvirt.rules" in cure


def test_a_damaged_note_is_named_and_hides_no_other(
    doctor: Doctor, fake_host: FakeHost, libvirt_host: LibvirtHost, tmp_path: Path
) -> None:
    assert "notes" not in doctor.findings()
    with world_on(libvirt_host, tmp_path) as world:
        world.service.register(L4, "l4-gpu", {}, OPERATOR)
        world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    fake_host.virsh_detach("vm-off", L4, live=False)
    fake_host.add_domain_xml(DAMAGED.format("a-first"))
    _, printed = doctor.run()
    assert "the metadata of a-first cannot be read" in printed
    assert "the metadata of vm-off names l4-gpu" in printed
    assert "virsh metadata a-first" in doctor.findings()["notes"][1]


@pytest.mark.testdriver
def test_what_libvirt_refuses_is_a_finding_and_nothing_on_stderr(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/nobody"
    inherited = {name: value for name, value in os.environ.items() if "LIBVIRT_LOG" not in name}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "hypeman_libvirt", "doctor", "--uri", uri],
        env=inherited | {"HYPEMAN_LIBVIRT_REGISTRY": str(tmp_path / "registry.db")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "ERROR    libvirt: " in done.stdout
    assert done.stderr == ""
