"""Several processes on one file, and processes that die."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from hypeman_libvirt.registry import SqlRegistry
from tests.registry.registrations import L4

REGISTER = """
import sys
from hypeman_libvirt.devices.errors import ConflictError
from hypeman_libvirt.registry import SqlRegistry
from tests.registry.registrations import L4, nth

path, field, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
registry = SqlRegistry(path)
print("ready", flush=True)
sys.stdin.readline()
try:
    registry.add(nth(number, **{field: getattr(L4, field)}))
    print("registered")
except ConflictError as error:
    print(error.message)
"""

REGISTER_FOREVER = """
import sys
from itertools import count
from hypeman_libvirt.registry import SqlRegistry
from tests.registry.registrations import nth

registry = SqlRegistry(sys.argv[1])
for number in count():
    registry.add(nth(number))
    print(number, flush=True)
"""


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  # our own script
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answers_of_processes_at_once(path: Path, field: str, processes: int) -> list[str]:
    with ExitStack() as stack:
        clients = [
            stack.enter_context(python(REGISTER, path, field, number))
            for number in range(processes)
        ]
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        return [client.communicate()[0] for client in clients]


def check_that_one_won(path: Path, field: str) -> None:
    answers = answers_of_processes_at_once(path, field, processes=8)
    assert answers.count("registered\n") == 1
    assert all(str(getattr(L4, field)) in each for each in answers if each != "registered\n")
    registry = SqlRegistry(path)
    (kept,) = registry.list_registrations(L4.host, {})
    winner = answers.index("registered\n")
    assert kept.id == f"id{winner}"
    registry.close()


def test_processes_at_once_register_one_address_once(path: Path) -> None:
    check_that_one_won(path, "pci_address")


def test_processes_at_once_register_one_name_once(path: Path) -> None:
    check_that_one_won(path, "name")


def test_a_killed_process_loses_no_answered_registration(path: Path) -> None:
    with python(REGISTER_FOREVER, path) as process:
        assert process.stdout is not None
        answered = [int(process.stdout.readline()) for _ in range(100)]
        process.kill()
        answered += [int(line) for line in process.stdout.read().splitlines()]
    registry = SqlRegistry(path)
    kept = {each.id for each in registry.list_registrations(L4.host, {})}
    assert kept >= {f"id{number}" for number in answered}
    registry.close()
