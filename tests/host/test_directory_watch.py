"""What the kernel tells of changes in a directory, and when it cannot be taken at its word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypeman_libvirt.host.cache.directory_watch import DirectoryWatch

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def identity(directory: Path) -> tuple[int, int]:
    stat = directory.stat()
    return stat.st_dev, stat.st_ino


def watch(directory: Path) -> DirectoryWatch:
    """Watch a directory, from now on."""
    opened = DirectoryWatch(directory)
    assert opened.read(identity(directory)) is None
    return opened


def told(watched: DirectoryWatch, directory: Path) -> set[str] | None:
    names = watched.read(identity(directory))
    return None if names is None else set(names)


def test_every_way_of_changing_a_file_is_told_once(tmp_path: Path) -> None:
    watched = watch(tmp_path)
    file, new = tmp_path / "vm.xml", tmp_path / "vm.xml.new"
    assert told(watched, tmp_path) == set()
    new.touch()
    assert told(watched, tmp_path) == {"vm.xml.new"}
    new.rename(file)
    assert told(watched, tmp_path) == {"vm.xml.new", "vm.xml"}
    os.utime(file, ns=(1, 1))
    assert told(watched, tmp_path) == {"vm.xml"}
    with file.open("w") as open_file:
        open_file.write("<domain/>")
        open_file.flush()
        assert told(watched, tmp_path) == {"vm.xml"}
    file.unlink()
    assert told(watched, tmp_path) == {"vm.xml"}
    assert told(watched, tmp_path) == set()


def test_a_directory_in_the_place_of_another_is_watched_anew(tmp_path: Path) -> None:
    directory = tmp_path / "qemu"
    directory.mkdir()
    watched = watch(directory)
    directory.rename(tmp_path / "old")
    directory.mkdir()
    assert told(watched, directory) is None
    (directory / "vm.xml").touch()
    assert told(watched, directory) == {"vm.xml"}


def test_a_directory_that_was_removed_tells_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "qemu"
    directory.mkdir()
    watched, before = watch(directory), identity(directory)
    directory.rmdir()
    assert watched.read(before) is None
    assert watched.read(before) is None


def test_a_queue_that_has_overflowed_is_not_believed(tmp_path: Path) -> None:
    watched = watch(tmp_path)
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.touch()
    for number in range(int(QUEUE.read_text())):  # of equal events in a row one is queued
        os.utime(files[number % 2])
    assert told(watched, tmp_path) is None
    files[0].unlink()
    assert told(watched, tmp_path) == {"a"}


_FORK = """
import os, pathlib, sys
from hypeman_libvirt.host.cache.directory_watch import DirectoryWatch
directory = pathlib.Path(sys.argv[1])
stat = directory.stat()
watched = DirectoryWatch(directory)
read = lambda: watched.read((stat.st_dev, stat.st_ino))
print(read())
(directory / "vm.xml").touch()
if child := os.fork():
    os.waitpid(child, 0)
    print(read())
else:
    print(read(), flush=True)
    os._exit(0)
"""


def test_a_forked_process_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-c", _FORK, str(tmp_path)]
    printed = subprocess.check_output(command, text=True)  # noqa: S603
    assert printed.splitlines() == ["None", "None", "frozenset({'vm.xml'})"]
