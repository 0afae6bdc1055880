"""Locks between threads and between real processes, and holders that die."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from hypeman_libvirt.devices.errors import BusyError, RegistryUnavailableError
from hypeman_libvirt.devices.ports import Locks
from hypeman_libvirt.registry.locks import FileLocks, lock_directory

GPU: Final = "device 0000:a2:00.0"
AUDIO: Final = "device 0000:a2:00.1"
GROUP: Final = "group 25"

HOLD: Final = """
import sys
from pathlib import Path
from hypeman_libvirt.registry.locks import FileLocks

held = FileLocks(Path(sys.argv[1])).hold(sys.argv[2:])
print("held", flush=True)
sys.stdin.readline()
held.release()
print("released", flush=True)
sys.stdin.readline()
"""
RACE: Final = """
import os, sys
from pathlib import Path
from hypeman_libvirt.devices.errors import BusyError
from hypeman_libvirt.registry.locks import FileLocks

directory, claimed, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
locks, wrong, held_rounds = FileLocks(directory), 0, 0
print("ready", flush=True)
sys.stdin.readline()
while held_rounds < rounds:
    try:
        with locks.hold(["group 25", "device 0000:a2:00.0"]):
            try:  # whoever else is in here too has made this file
                os.close(os.open(claimed, os.O_CREAT | os.O_EXCL))
                os.unlink(claimed)
            except OSError:
                wrong += 1
            held_rounds += 1
    except BusyError:
        pass
print(wrong, flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "registry.db.locks"


@pytest.fixture
def locks(directory: Path) -> Locks:
    return FileLocks(directory)


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  # our own script
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: subprocess.Popen[str], answer: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.stdout.readline() == answer


@contextmanager
def holder(directory: Path, *keys: str) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds the keys."""
    with python(HOLD, directory, *keys) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_another_process_is_refused_and_told_which_key(directory: Path, locks: Locks) -> None:
    with (
        holder(directory, GROUP),
        pytest.raises(BusyError, match=r"^another operation on group 25 is running;"),
    ):
        locks.hold([GROUP])


def test_what_another_process_released_is_free(directory: Path, locks: Locks) -> None:
    with holder(directory, GROUP, GPU) as other:
        say(other, "released\n")
        locks.hold([GROUP, GPU]).release()


def test_a_killed_process_holds_nothing(directory: Path, locks: Locks) -> None:
    with holder(directory, GROUP, GPU) as other:
        other.kill()
        other.wait()
        locks.hold([GROUP, GPU]).release()


def test_all_keys_are_locked_or_none(directory: Path, locks: Locks) -> None:
    with holder(directory, GPU):
        with pytest.raises(BusyError):
            locks.hold([AUDIO, GPU, GROUP])
        locks.hold([AUDIO, GROUP]).release()


def test_other_keys_are_free(directory: Path, locks: Locks) -> None:
    with holder(directory, GPU):
        locks.hold([AUDIO]).release()


def test_two_holds_of_one_process_exclude_each_other(locks: Locks) -> None:
    with locks.hold([GPU]):
        with ThreadPoolExecutor() as threads, pytest.raises(BusyError):
            threads.submit(locks.hold, [GPU]).result()
        with pytest.raises(BusyError):
            locks.hold([GPU])
    locks.hold([GPU]).release()


def test_another_thread_may_release(locks: Locks) -> None:
    held = locks.hold([GPU])
    with ThreadPoolExecutor() as threads:
        threads.submit(held.release).result()
    locks.hold([GPU]).release()


def test_a_second_release_takes_nothing_from_the_next_holder(locks: Locks) -> None:
    first = locks.hold([GPU])
    first.release()
    with locks.hold([GPU]):
        first.release()
        with pytest.raises(BusyError):
            locks.hold([GPU])


def test_one_key_twice_is_one_key(locks: Locks) -> None:
    locks.hold([GPU, GPU]).release()


def test_many_keys_and_none(directory: Path, locks: Locks) -> None:
    keys = [f"device 0000:{bus:02x}:00.{function}" for bus in range(64) for function in range(4)]
    with locks.hold(keys), locks.hold([]):
        assert len(list(directory.iterdir())) == len(keys)


def test_no_files_stay_behind(directory: Path, locks: Locks) -> None:
    locks.hold([GPU, f"domain {'a' * 8}"]).release()
    with locks.hold([GPU]), pytest.raises(BusyError):
        locks.hold([AUDIO, GPU])
    assert list(directory.iterdir()) == []


def test_a_file_that_somebody_else_removed_and_another_made_is_left_alone(
    directory: Path, locks: Locks
) -> None:
    held = locks.hold([GPU])
    (file,) = directory.iterdir()
    file.unlink()
    with locks.hold([GPU]):
        held.release()
        assert list(directory.iterdir()) == [file]


@pytest.mark.parametrize("key", ["device ../../etc/passwd", "domain a/b", "mdev ü"])
def test_any_key_stays_in_the_directory(directory: Path, locks: Locks, key: str) -> None:
    with locks.hold([key]):
        assert len(list(directory.iterdir())) == 1


def test_only_this_user_sees_the_locks(directory: Path, locks: Locks) -> None:
    with locks.hold([GPU]):
        (file,) = directory.iterdir()
        assert (directory.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    locks = FileLocks(tmp_path / "file" / "locks")
    with pytest.raises(RegistryUnavailableError, match=r"locks cannot be kept in .*/file/locks"):
        locks.hold([GPU])


def test_processes_that_race_never_hold_together(directory: Path, tmp_path: Path) -> None:
    """While files come and go with their locks, which is where such schemes break."""
    with ExitStack() as stack:
        racers = [
            stack.enter_context(python(RACE, directory, tmp_path / "claimed", 300))
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        answers = Counter(racer.communicate("go\n")[0] for racer in racers)
    assert answers == {"0\n": len(racers)}


def test_the_locks_of_a_registry_are_beside_its_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    assert lock_directory(str(path), tmp_path / "state", "host") == tmp_path / "registry.db.locks"


def test_the_locks_of_a_database_are_in_the_state_directory_by_host(tmp_path: Path) -> None:
    url = "postgresql+psycopg://user@database/registry"
    directory = lock_directory(url, tmp_path, "qemu+ssh://host/system")
    assert directory == tmp_path / "locks" / "qemu%2Bssh:%2F%2Fhost%2Fsystem"
