from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hypeman_libvirt.cli.main import cli
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.registry import SqlRegistry
from tests.devices.test_recovery import DAMAGED
from tests.fake_host import FakeHost
from tests.world import OPERATOR, world_on

GPU = "0000:a2:00.0"


@pytest.fixture
def registry(tmp_path: Path, libvirt_host: LibvirtHost) -> Path:
    """A registry with one device, which a domain holds."""
    with world_on(libvirt_host, tmp_path) as world:
        world.service.register(GPU, "l4-gpu", {"team": "ml"}, OPERATOR)
        world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    return tmp_path / "registry.db"


def test_export_prints_all_that_is_kept(registry: Path) -> None:
    printed = CliRunner().invoke(cli, ["registry", "export", "--registry", str(registry)])
    assert printed.exit_code == 0
    [row] = json.loads(printed.stdout)
    assert (row["name"], row["pci_address"], row["tags"]) == ("l4-gpu", GPU, {"team": "ml"})
    assert (row["vendor_id"], row["created_by"]) == ("10de", "operator")


def test_import_brings_a_lost_registry_back(
    registry: Path, fake_host: FakeHost, tmp_path: Path
) -> None:
    lost = SqlRegistry(registry)
    [before] = lost.list_all()
    lost.close()
    new = tmp_path / "new.db"
    arguments = ["registry", "import", "--registry", str(new), "--uri", fake_host.uri]
    first = CliRunner().invoke(cli, arguments)
    assert first.exit_code == 0
    assert f"l4-gpu ({before.id}) of domain vm-off: registered" in first.stdout
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 0
    assert "registered already" in again.stdout
    found = SqlRegistry(new)
    [after] = found.list_all()
    found.close()
    assert (after.id, after.name, after.host) == (before.id, before.name, before.host)


def test_import_says_what_it_could_not_bring_back(
    registry: Path, fake_host: FakeHost, tmp_path: Path
) -> None:
    assert registry.exists()
    fake_host.vanish(GPU)
    arguments = ["--registry", str(tmp_path / "new.db"), "--uri", fake_host.uri]
    printed = CliRunner().invoke(cli, ["registry", "import", *arguments])
    assert printed.exit_code == 1
    assert f"no PCI device is at {GPU} now" in printed.stdout


def test_import_names_the_domain_whose_note_is_damaged(
    registry: Path, fake_host: FakeHost, tmp_path: Path
) -> None:
    assert registry.exists()
    fake_host.add_domain_xml(DAMAGED.format("a-first"))
    arguments = ["--registry", str(tmp_path / "new.db"), "--uri", fake_host.uri]
    printed = CliRunner().invoke(cli, ["registry", "import", *arguments])
    assert printed.exit_code == 1
    assert "domain a-first: its metadata cannot be read" in printed.stdout
    assert "of domain vm-off: registered" in printed.stdout


def test_a_registry_that_cannot_be_opened_is_a_message(tmp_path: Path) -> None:
    broken = tmp_path / "registry.db"
    broken.write_text("no database at all, and long enough to be looked at")
    printed = CliRunner().invoke(cli, ["registry", "export", "--registry", str(broken)])
    assert printed.exit_code == 2
    assert str(broken) in printed.stderr
    assert broken.read_text().startswith("no database")
