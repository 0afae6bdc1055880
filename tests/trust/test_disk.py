"""Faults of the disk under a running service: a clear answer, and nothing answered is lost.

The disk is a file system of its own in a loop device, so that it fails as real ones do.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.trust.conftest import Figures
from tests.trust.service import Caller, serving

pytestmark = [pytest.mark.trust, pytest.mark.usefixtures("fake_host")]  # it serves on the fake

SIZE: Final = 8 << 20
TRIES: Final = 3
"""Of each change; one that finds a lock waits for it for seconds."""
Device = dict[str, object]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system that becomes read-only at its first error, as Debian's are."""
    image, directory = tmp_path / "disk.img", tmp_path / "disk"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-O", "^has_journal", str(image))
    try:
        run("mount", "-o", "loop,errors=remount-ro", str(image), str(directory))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.strip()}")
    yield directory
    run("umount", str(directory))


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - our own commands


@contextmanager
def full(directory: Path) -> Iterator[None]:
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(directory).f_bavail == 0
    yield
    filler.unlink()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    with closing(sqlite3.connect(directory / "registry.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def taken_away(directory: Path) -> Iterator[None]:
    files = list(directory.glob("registry.db*"))
    (directory / "away").mkdir()
    for file in files:
        file.rename(directory / "away" / file.name)
    yield
    for file in files:
        (directory / "away" / file.name).rename(file)


def read_only(directory: Path) -> None:
    """Let the file system meet an error."""
    source = Path(run("findmnt", "--noheadings", "--output", "SOURCE", str(directory)))
    Path(f"/sys/fs/ext4/{source.name}/trigger_fs_error").write_text("1")
    with pytest.raises(OSError, match="Read-only file system"):
        (directory / "other").touch()


def damaged(directory: Path) -> None:
    """Overwrite every page but the first, the file's header, with nothing that SQLite knows."""
    registry = directory / "registry.db"
    with closing(sqlite3.connect(registry, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = other.execute("PRAGMA page_size").fetchone()
    with registry.open("r+b") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(size)
        file.write(b"\xa5" * (length - size))


def register(caller: Caller, number: int) -> tuple[int, Device]:
    address = f"0000:{0x90 + number:02x}:00.0"
    body = {"pci_address": address, "name": f"gpu-{number}"}
    status, answer = caller.ask("POST", "/devices", body)
    return status, json.loads(answer)


def registered(caller: Caller, *numbers: int) -> list[Device]:
    answers = [register(caller, number) for number in numbers]
    assert [status for status, _ in answers] == [201] * len(numbers)
    return [device for _, device in answers]


def listed(caller: Caller) -> list[Device]:
    status, answer = caller.ask("GET", "/devices")
    assert status == 200
    devices: list[Device] = json.loads(answer)
    return devices


def refused(caller: Caller, method: str, path: str, body: object = None) -> None:
    status, answer = caller.ask(method, path, body)
    assert status == 503, answer
    assert json.loads(answer)["code"] == "registry_unavailable"


FAULTS: Final[dict[str, tuple[Callable[[Path], AbstractContextManager[None]], bool]]] = {
    "full": (full, True),
    "locked by another process": (locked, True),
    "registry taken away": (taken_away, False),
}
"""By name: the fault, and whether what was registered can be read meanwhile."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_loses_nothing_and_needs_no_restart(
    disk: Path, figures: Figures, fault: str
) -> None:
    failing, reads = FAULTS[fault]
    with serving(disk) as service, closing(Caller(service.port)) as caller:
        kept = registered(caller, 0, 1)
        with failing(disk):
            for number in range(TRIES):
                refused(caller, "POST", "/devices", {"pci_address": "0000:a0:00.0"})
                refused(caller, "DELETE", f"/devices/gpu-{number % 2}")
                assert caller.ask("GET", "/health")[0] == 200
                assert not reads or listed(caller) == kept
        assert listed(caller) == kept
        kept += registered(caller, 2)
    with serving(disk) as service, closing(Caller(service.port)) as caller:
        assert listed(caller) == kept
    figures(f"disk: {fault}: changes refused, lost", f"{2 * TRIES}, 0")


def test_a_disk_that_becomes_read_only_loses_nothing(
    disk: Path, tmp_path: Path, figures: Figures
) -> None:
    with serving(disk) as service, closing(Caller(service.port)) as caller:
        kept = registered(caller, 0, 1)
        read_only(disk)
        for _ in range(TRIES):
            refused(caller, "POST", "/devices", {"pci_address": "0000:a0:00.0"})
            refused(caller, "DELETE", "/devices/gpu-0")
            assert listed(caller) == kept
            assert caller.ask("GET", "/health")[0] == 200
    repair(disk, tmp_path / "disk.img")
    with serving(disk) as service, closing(Caller(service.port)) as caller:
        assert listed(caller) == kept
        registered(caller, 2)
    figures("disk: read-only after an error: changes refused, lost", f"{2 * TRIES}, 0")


def repair(directory: Path, image: Path) -> None:
    run("umount", str(directory))
    subprocess.run(["e2fsck", "-fy", image], check=False, capture_output=True)  # noqa: S603, S607 - 1 says that it mended something
    run("mount", "-o", "loop,errors=remount-ro", str(image), str(directory))


def test_pages_that_are_damaged_are_never_taken_for_an_answer(disk: Path, figures: Figures) -> None:
    answers = 0
    with serving(disk) as service, closing(Caller(service.port)) as caller:
        kept = registered(caller, 0, 1)
        damaged(disk)
        for _ in range(TRIES):
            status, answer = caller.ask("GET", "/devices")
            assert status == 503 or json.loads(answer) == kept
            status, created = register(caller, 2)
            assert (status, created["code"]) == (503, "registry_unavailable")
            answers += status == 503
            assert caller.ask("GET", "/health")[0] == 200
    with pytest.raises(AssertionError, match="registry"), serving(disk):
        pass  # it does not start, and says why
    figures("disk: damaged pages: answers of 503, wrong answers", f"{answers}, 0")
