from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from hypeman_libvirt.host.cache.domain_files import (
    DomainDirectories,
    DomainFiles,
    domain_directories,
)

MUCH_LATER = 2**62


def write(directory: Path, name: str, text: str = "<domain/>") -> None:
    """Write as libvirt does: a new file takes the place of the old one."""
    new = directory / f"{name}.xml.new"
    new.write_text(text)
    new.rename(directory / f"{name}.xml")


@pytest.fixture
def files(tmp_path: Path) -> DomainFiles:
    write(tmp_path, "vm")
    return DomainFiles(tmp_path, lambda: MUCH_LATER)


def test_nothing_has_changed_if_nothing_was_written(files: DomainFiles) -> None:
    first = files.read()
    assert first is not None
    assert set(first) == {"vm"}
    assert files.read() is first


def test_a_definition_that_was_written_anew_has_another_stamp(
    files: DomainFiles, tmp_path: Path
) -> None:
    first = files.read()
    write(tmp_path, "other")
    write(tmp_path, "vm")
    second = files.read()
    assert first is not None
    assert second is not None
    assert first["vm"] != second["vm"]
    assert set(second) == {"vm", "other"}


def test_a_definition_that_was_removed_has_none(files: DomainFiles, tmp_path: Path) -> None:
    files.read()
    (tmp_path / "vm.xml").unlink()
    assert files.read() == {}


def test_other_files_and_directories_are_no_definitions(tmp_path: Path) -> None:
    (tmp_path / "networks").mkdir()
    (tmp_path / "autostart.xml").mkdir()
    (tmp_path / "vm.xml~").write_text("")
    assert DomainFiles(tmp_path).read() == {}


def test_a_file_that_has_just_changed_may_change_again_unseen(tmp_path: Path) -> None:
    """Its inode may be used again at once, within the same tick and with the same size."""
    write(tmp_path, "vm")
    changed_at = (tmp_path / "vm.xml").stat().st_mtime_ns
    files = DomainFiles(tmp_path, lambda: changed_at + 1)
    first, second = files.read(), files.read()
    assert first is not None
    assert second is not None
    assert first["vm"] != second["vm"]


def test_a_directory_that_has_just_changed_is_read_again(tmp_path: Path) -> None:
    """Two changes within one tick of the kernel's clock leave the same time."""
    changed_at = tmp_path.stat().st_mtime_ns
    files = DomainFiles(tmp_path, lambda: changed_at + 1)
    first = files.read()
    assert files.read() is not first


def test_a_directory_that_cannot_be_read_says_nothing(files: DomainFiles, tmp_path: Path) -> None:
    assert DomainFiles(tmp_path / "missing").read() is None
    files.read()
    (tmp_path / "vm.xml").unlink()
    tmp_path.rmdir()
    assert files.read() is None


def test_a_file_that_is_being_written_may_change_unseen(files: DomainFiles, tmp_path: Path) -> None:
    (tmp_path / "vm.xml.new").write_text("")
    first = files.read()
    (tmp_path / "vm.xml.new").rename(tmp_path / "vm.xml")
    (tmp_path / "vm.xml.new").write_text("")
    second = files.read()
    assert first is not None
    assert second is not None
    assert set(first) == {"vm"}
    assert first["vm"] != second["vm"]


def test_a_change_that_could_not_be_written_makes_every_domain_doubtful(
    files: DomainFiles, tmp_path: Path
) -> None:
    """As on a full file system: the new file came and went again."""
    first = files.read()
    (tmp_path / "vm.xml.new").write_text("")
    (tmp_path / "vm.xml.new").unlink()
    os.utime(tmp_path, ns=(0, 0))
    second = files.read()
    assert first is not None
    assert second is not None
    assert first["vm"] != second["vm"]
    assert files.read() is second


def test_of_two_changes_the_one_that_could_not_be_written_makes_its_domain_doubtful(
    files: DomainFiles, tmp_path: Path
) -> None:
    write(tmp_path, "other")
    files.read()
    write(tmp_path, "other")
    first = files.read()
    (tmp_path / "vm.xml.new").write_text("")
    (tmp_path / "vm.xml.new").unlink()
    write(tmp_path, "other", "<domain type='kvm'/>")
    second = files.read()
    assert first is not None
    assert second is not None
    assert first["vm"] != second["vm"]
    assert first["other"] != second["other"]


def test_only_files_that_the_kernel_tells_of_are_looked_at(tmp_path: Path) -> None:
    told: list[set[str] | None] = [None, {"vm-1.xml"}]
    for number in range(3):
        write(tmp_path, f"vm-{number}")
    files = DomainFiles(tmp_path, lambda: MUCH_LATER, lambda _: told.pop(0))
    first = files.read()
    for number in (1, 2):
        write(tmp_path, f"vm-{number}", "<domain type='kvm'/>")
    second = files.read()
    assert first is not None
    assert second is not None
    assert [name for name, stamp in second.items() if stamp != first[name]] == ["vm-1"]


def test_a_change_that_the_kernel_does_not_tell_of_is_seen(tmp_path: Path) -> None:
    """As on the file system of another machine: the directory has changed, which the time says."""
    told: list[set[str] | None] = [None, set(), {"vm.pid"}]
    write(tmp_path, "vm")
    files = DomainFiles(tmp_path, lambda: MUCH_LATER, lambda _: told.pop(0))
    stamps = [files.read()]
    for size in (1, 2):
        write(tmp_path, "vm", "x" * size)
        os.utime(tmp_path, ns=(size, size))
        stamps.append(files.read())
    assert len({each["vm"] for each in stamps if each is not None}) == len(stamps)


def test_a_change_is_in_the_next_answer_of_its_thread_while_others_read(tmp_path: Path) -> None:
    files = DomainFiles(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        for number in range(100):
            others = [pool.submit(files.read) for _ in range(3)]
            write(tmp_path, f"vm-{number}")
            stamps = files.read()
            assert stamps is not None
            assert f"vm-{number}" in stamps
            wait(others)


@pytest.mark.parametrize(
    ("uri", "definitions", "states"),
    [
        ("qemu:///system", "/etc/libvirt/qemu", "/run/libvirt/qemu"),
        ("qemu+unix:///system", "/etc/libvirt/qemu", "/run/libvirt/qemu"),
        (
            "qemu:///session",
            "/home/ops/.config/libvirt/qemu",
            "/home/ops/.cache/libvirt/qemu/run",
        ),
    ],
)
def test_where_domains_lie(uri: str, definitions: str, states: str) -> None:
    found = domain_directories(uri, {"HOME": "/home/ops"})
    assert found == DomainDirectories(Path(definitions), Path(states))


@pytest.mark.parametrize("uri", ["qemu:///embed", "xen:///system"])
def test_where_domains_of_other_drivers_lie_is_not_known(uri: str) -> None:
    assert domain_directories(uri, {"HOME": "/home/ops"}) is None


def test_a_session_follows_the_users_configuration() -> None:
    environment = {"XDG_CONFIG_HOME": "/cfg", "XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/o"}
    assert domain_directories("qemu:///session", environment) == DomainDirectories(
        Path("/cfg/libvirt/qemu"), Path("/run/user/7/libvirt/qemu/run")
    )


def test_a_file_system_without_room_says_nothing() -> None:
    """The kernel's own have none: f_bavail is 0."""
    assert DomainFiles(Path("/proc")).read() is None
