from __future__ import annotations

from pathlib import Path

import pytest

from hypeman_libvirt.host.cache.domain_config_files import (
    DomainConfigFiles,
    domain_config_directory,
)

MUCH_LATER = 2**62


def write(directory: Path, name: str, text: str = "<domain/>") -> None:
    """Write as libvirt does: a new file takes the place of the old one."""
    new = directory / f"{name}.xml.new"
    new.write_text(text)
    new.rename(directory / f"{name}.xml")


@pytest.fixture
def files(tmp_path: Path) -> DomainConfigFiles:
    write(tmp_path, "vm")
    return DomainConfigFiles(tmp_path, lambda: MUCH_LATER)


def test_nothing_has_changed_if_nothing_was_written(files: DomainConfigFiles) -> None:
    first = files.look()
    assert first is not None
    assert set(first) == {"vm"}
    assert files.look() is first


def test_a_definition_that_was_written_anew_has_another_stamp(
    files: DomainConfigFiles, tmp_path: Path
) -> None:
    first = files.look()
    write(tmp_path, "other")
    write(tmp_path, "vm")
    second = files.look()
    assert first is not None
    assert second is not None
    assert first["vm"] != second["vm"]
    assert set(second) == {"vm", "other"}


def test_a_definition_that_was_removed_has_none(files: DomainConfigFiles, tmp_path: Path) -> None:
    files.look()
    (tmp_path / "vm.xml").unlink()
    assert files.look() == {}


def test_other_files_and_folders_are_no_definitions(tmp_path: Path) -> None:
    (tmp_path / "networks").mkdir()
    (tmp_path / "autostart.xml").mkdir()
    (tmp_path / "vm.xml.new").write_text("")
    assert DomainConfigFiles(tmp_path).look() == {}


def test_a_folder_that_has_just_changed_is_read_again(tmp_path: Path) -> None:
    """Two changes within one tick of the kernel's clock leave the same time."""
    changed_at = tmp_path.stat().st_mtime_ns
    files = DomainConfigFiles(tmp_path, lambda: changed_at + 1)
    first = files.look()
    assert files.look() is not first


def test_a_folder_that_cannot_be_read_says_nothing(
    files: DomainConfigFiles, tmp_path: Path
) -> None:
    assert DomainConfigFiles(tmp_path / "missing").look() is None
    files.look()
    (tmp_path / "vm.xml").unlink()
    tmp_path.rmdir()
    assert files.look() is None


@pytest.mark.parametrize(
    ("uri", "directory"),
    [
        ("qemu:///system", "/etc/libvirt/qemu"),
        ("qemu+unix:///system", "/etc/libvirt/qemu"),
        ("qemu:///session", "/home/ops/.config/libvirt/qemu"),
        ("qemu:///embed", None),
        ("xen:///system", None),
    ],
)
def test_where_definitions_lie(uri: str, directory: str | None) -> None:
    found = domain_config_directory(uri, {"HOME": "/home/ops"})
    assert found == (directory and Path(directory))


def test_a_session_follows_the_users_configuration() -> None:
    found = domain_config_directory(
        "qemu:///session", {"XDG_CONFIG_HOME": "/cfg", "HOME": "/home/ops"}
    )
    assert found == Path("/cfg/libvirt/qemu")
