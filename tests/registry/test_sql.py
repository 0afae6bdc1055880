from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from hypeman_libvirt.devices.address import MdevUuid
from hypeman_libvirt.devices.errors import ConflictError, RegistryUnavailableError
from hypeman_libvirt.devices.model import Registration, Vgpu
from hypeman_libvirt.registry import SqlRegistry
from hypeman_libvirt.registry.schema import registrations
from tests.registry.registrations import L4, nth

ELSEWHERE = "qemu+tls://other.example/system"


def test_a_registration_comes_back_as_it_was_given(registry: SqlRegistry) -> None:
    registry.add(L4)
    assert registry.find(L4.host, L4.id) == L4
    assert registry.find(L4.host, "l4-gpu") == L4
    assert registry.find_by_device(L4.host, L4.pci_address) == L4
    assert registry.list_registrations(L4.host, {}) == [L4]


def test_a_mediated_device_is_kept_beside_its_parent(registry: SqlRegistry) -> None:
    uuid = MdevUuid("c2177883-f1bb-47f0-914d-32a22e3a8804")
    vgpu = Vgpu("nvidia-222", "GRID T4-1B", uuid, made=True)
    part = replace(L4, id="part", name="part", vgpu=vgpu)
    function = nth(3, vgpu=Vgpu("1155", "NVIDIA L40S-4Q", made=True))
    for each in (L4, part, function):
        registry.add(each)
    assert registry.find_by_device(L4.host, uuid) == part
    assert registry.find_by_device(L4.host, L4.pci_address) == L4
    assert registry.find_by_device(L4.host, function.pci_address) == function
    with pytest.raises(ConflictError, match=str(uuid)):
        registry.add(replace(part, id="other", name="other"))


def test_every_fact_of_a_registration_is_kept() -> None:
    facts = [field.name for field in fields(Registration)]
    columns = [
        "pci_address" if each.name == "device" else each.name for each in registrations.columns
    ]
    assert [*columns, "persistent"] == facts  # which a boot rule says


def test_what_libvirt_did_not_say_stays_unsaid(registry: SqlRegistry) -> None:
    bare = nth(
        1,
        created_by=None,
        class_code=None,
        serial=None,
        iommu_group=None,
        host_driver=None,
        tags={},
    )
    registry.add(bare)
    assert registry.find(L4.host, bare.id) == bare


def test_name_and_tags_can_be_others(registry: SqlRegistry) -> None:
    registry.add(L4)
    registry.add(nth(1))
    other = replace(L4, name="l4", tags={"env": "test"})
    assert registry.relabel(other)
    assert registry.find(L4.host, "l4") == other
    assert registry.find(L4.host, "l4-gpu") is None
    assert registry.list_registrations(L4.host, {"env": "test"}) == [other]
    assert registry.find(L4.host, "name-1") == nth(1)


def test_its_own_name_is_no_conflict(registry: SqlRegistry) -> None:
    registry.add(L4)
    assert registry.relabel(replace(L4, tags={}))
    assert registry.find(L4.host, L4.id) == replace(L4, tags={})


@pytest.mark.parametrize("taken", ["name-1", "id1"])
def test_no_name_becomes_anothers_name_or_id(registry: SqlRegistry, taken: str) -> None:
    registry.add(L4)
    registry.add(nth(1))
    with pytest.raises(ConflictError, match=f"name '{taken}' is taken"):
        registry.relabel(replace(L4, name=taken))
    assert registry.find(L4.host, L4.id) == L4


def test_the_name_on_another_host_is_free(registry: SqlRegistry) -> None:
    registry.add(L4)
    registry.add(nth(1, host=ELSEWHERE))
    assert registry.relabel(replace(L4, name="name-1"))


def test_what_is_gone_is_not_relabelled(registry: SqlRegistry) -> None:
    assert not registry.relabel(L4)
    assert registry.list_all() == []


def test_group_zero_and_a_vmd_domain_are_kept(registry: SqlRegistry) -> None:
    vmd = nth(1, iommu_group=0, pci_address=L4.pci_address.parse("10000:e1:00.0"))
    registry.add(vmd)
    assert registry.find_by_device(L4.host, vmd.pci_address) == vmd


def test_a_moment_of_another_zone_comes_back_in_utc(registry: SqlRegistry) -> None:
    noon = datetime(2025, 1, 15, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    registry.add(nth(1, created_at=noon))
    (kept,) = registry.list_registrations(L4.host, {})
    assert kept.created_at == datetime(2025, 1, 15, 10, 0, tzinfo=UTC)
    assert kept.created_at.tzinfo is UTC


def test_it_outlives_the_service(path: Path) -> None:
    first = SqlRegistry(path)
    first.add(L4)
    first.close()
    again = SqlRegistry(path)
    assert again.find(L4.host, "l4-gpu") == L4
    again.close()


def test_a_second_process_sees_it_at_once(path: Path, registry: SqlRegistry) -> None:
    other = SqlRegistry(path)
    registry.add(L4)
    assert other.find(L4.host, L4.id) == L4
    other.close()


def test_no_prefix_of_a_name_or_id_finds_it(registry: SqlRegistry) -> None:
    registry.add(L4)
    assert registry.find(L4.host, "l4") is None
    assert registry.find(L4.host, L4.id[:8]) is None
    assert registry.find(L4.host, "L4-GPU") is None


@pytest.mark.parametrize(
    "reference", ["", "%", "l4-gpu\0", "l4-gpu\n", "ł4-gpu", "\udcff", "' OR 1"]
)
def test_what_is_no_reference_finds_nothing(registry: SqlRegistry, reference: str) -> None:
    registry.add(L4)
    assert registry.find(L4.host, reference) is None


def test_hosts_do_not_see_each_other(registry: SqlRegistry) -> None:
    twin = nth(1, host=ELSEWHERE, name=L4.name, pci_address=L4.pci_address)
    registry.add(L4)
    registry.add(twin)
    assert registry.find(ELSEWHERE, "l4-gpu") == twin
    assert registry.list_registrations(L4.host, {}) == [L4]
    assert not registry.remove(ELSEWHERE, L4.id)


@pytest.mark.parametrize(
    ("clash", "told"),
    [
        (nth(1, name=L4.name), f"name 'l4-gpu' is taken by device {L4.id} at 0000:a2:00.0"),
        (nth(1, name=L4.id), f"name '{L4.id}' is taken by device {L4.id}"),
        (nth(1, id=L4.name), "id l4-gpu is taken by device 'l4-gpu'"),
        (nth(1, id=L4.id), f"id {L4.id} is taken by device 'l4-gpu'"),
        (nth(1, id=L4.id, host=ELSEWHERE), f"id {L4.id} is taken by device 'l4-gpu'"),
        (
            nth(1, pci_address=L4.pci_address),
            f"0000:a2:00.0 is registered already as 'l4-gpu' (id {L4.id})",
        ),
        (nth(1, name=L4.name, pci_address=L4.pci_address), "name 'l4-gpu' is taken"),
    ],
)
def test_a_conflict_names_the_value_and_who_has_it(
    registry: SqlRegistry, clash: Registration, told: str
) -> None:
    registry.add(L4)
    with pytest.raises(ConflictError) as refused:
        registry.add(clash)
    assert refused.value.message.startswith(told)
    assert registry.list_registrations(L4.host, {}) == [L4]


def test_the_name_is_reported_before_the_address_whoever_has_them(registry: SqlRegistry) -> None:
    registry.add(nth(1))
    registry.add(nth(2))
    with pytest.raises(ConflictError, match="name 'name-2' is taken"):
        registry.add(nth(3, pci_address=nth(1).pci_address, name="name-2"))


def test_removing_makes_room(registry: SqlRegistry) -> None:
    registry.add(L4)
    assert registry.remove(L4.host, L4.id)
    assert not registry.remove(L4.host, L4.id)
    registry.add(L4)
    assert registry.list_registrations(L4.host, {}) == [L4]


def test_all_tags_must_match(registry: SqlRegistry) -> None:
    tagged = [
        nth(1, tags={"team": "ml"}),
        nth(2, tags={"team": "ml", "env": "prod"}),
        nth(3, tags={"team": "hpc", "env": "prod"}),
    ]
    for each in tagged:
        registry.add(each)
    assert registry.list_registrations(L4.host, {"team": "ml"}) == tagged[:2]
    assert registry.list_registrations(L4.host, {"team": "ml", "env": "prod"}) == [tagged[1]]
    assert registry.list_registrations(L4.host, {"team": ""}) == []


def test_the_list_is_in_the_order_of_registration(registry: SqlRegistry) -> None:
    for number in (3, 1, 2):
        registry.add(nth(number, created_at=L4.created_at + timedelta(seconds=-number)))
    names = [each.name for each in registry.list_registrations(L4.host, {})]
    assert names == ["name-3", "name-2", "name-1"]


def test_sixteen_threads_at_once_register_one_address_once(registry: SqlRegistry) -> None:
    def register(number: int) -> bool:
        try:
            registry.add(nth(number, pci_address=L4.pci_address))
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(16) as clients:
        won = list(clients.map(register, range(16)))
    assert won.count(True) == 1
    (kept,) = registry.list_registrations(L4.host, {})
    assert kept.name == f"name-{won.index(True)}"


def test_reads_go_on_while_another_process_holds_the_write_lock(
    path: Path, registry: SqlRegistry
) -> None:
    registry.add(L4)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        registry.ping()
        assert registry.find(L4.host, L4.id) == L4


def test_a_lock_that_stays_is_told_and_the_databases_own_words_go_to_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = SqlRegistry(path, lock_timeout=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegistryUnavailableError) as refused:
            registry.add(L4)
    assert refused.value.message == (
        "the registry cannot be written: another process keeps it locked; try again"
    )
    assert "database is locked" in caplog.text
    registry.add(L4)
    registry.close()


@contextmanager
def disk_that_takes_no_more_than(size: int) -> Iterator[None]:
    """Let every write beyond the size, in bytes, fail as on a broken disk (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_to_write_stops_writes_alone(path: Path, registry: SqlRegistry) -> None:
    registry.add(L4)
    journal = path.with_name("registry.db-wal")
    with disk_that_takes_no_more_than(journal.stat().st_size):
        with pytest.raises(RegistryUnavailableError, match="written: its disk reports an I/O"):
            registry.add(nth(1))
        assert registry.list_registrations(L4.host, {}) == [L4]
    registry.add(nth(1))
    assert registry.find(L4.host, "name-1") == nth(1)


def test_a_file_that_is_taken_away_is_not_made_anew(path: Path, registry: SqlRegistry) -> None:
    path.unlink()
    with pytest.raises(RegistryUnavailableError, match="cannot be opened"):
        registry.ping()
    assert not path.exists()


def test_nothing_is_written_into_a_file_that_was_taken_away(
    path: Path, registry: SqlRegistry, tmp_path: Path
) -> None:
    registry.add(L4)
    path.parent.rename(tmp_path / "away")
    with pytest.raises(RegistryUnavailableError, match="cannot be opened"):
        registry.add(nth(1))
    with pytest.raises(RegistryUnavailableError, match="cannot be opened"):
        registry.remove(L4.host, L4.id)
    (tmp_path / "away").rename(path.parent)
    registry.add(nth(2))
    assert registry.find(L4.host, L4.id) == L4
    assert registry.find(L4.host, nth(2).id) == nth(2)


def test_what_another_process_changes_is_in_the_next_answer(
    path: Path, registry: SqlRegistry
) -> None:
    other = SqlRegistry(path)
    assert registry.find(L4.host, "l4-gpu") is None
    other.add(L4)
    assert registry.find(L4.host, "l4-gpu") == L4
    assert registry.list_registrations(L4.host, {}) == [L4]
    other.remove(L4.host, L4.id)
    assert registry.find_by_device(L4.host, L4.pci_address) is None
    assert registry.list_registrations(L4.host, {}) == []
    other.close()


def test_while_nothing_changes_the_same_registration_is_given(registry: SqlRegistry) -> None:
    registry.add(L4)
    assert registry.find(L4.host, L4.id) is registry.find(L4.host, L4.id)
    (listed,) = registry.list_registrations(L4.host, {})
    (again,) = registry.list_registrations(L4.host, {})
    assert listed is again


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Collect what SQLAlchemy sends to the database."""
    sent: list[tuple[str, Any]] = []

    def collect(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:  # noqa: ANN401
        sent.append((statement, values))

    event.listen(Engine, "before_cursor_execute", collect)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", collect)


def test_a_reference_longer_than_any_name_is_not_asked_for(registry: SqlRegistry) -> None:
    with statements() as sent:
        assert registry.find(L4.host, "x" * 129) is None
        assert sent == []
        assert registry.find(L4.host, "x" * 128) is None
    assert sent


def test_no_statement_for_one_device_reads_every_row(path: Path, registry: SqlRegistry) -> None:
    with statements() as sent:
        registry.add(L4)
        registry.find(L4.host, L4.id)
        registry.find_by_device(L4.host, L4.pci_address)
        registry.remove(L4.host, L4.id)
    asked = [each for each in sent if each[0].startswith(("SELECT", "DELETE"))]
    assert len(asked) == 4
    with closing(sqlite3.connect(path)) as connection:
        for statement, values in asked:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
            assert not [step for *_, step in plan if step.startswith("SCAN")], plan


def test_registrations_of_a_host_become_another_ones_all_or_none(registry: SqlRegistry) -> None:
    registry.add(L4)
    registry.add(nth(1))
    registry.add(nth(2, host=ELSEWHERE, name="l4-gpu"))
    with pytest.raises(ConflictError, match="nothing was changed"):
        registry.adopt(L4.host, ELSEWHERE)
    assert len(registry.list_registrations(L4.host, {})) == 2
    assert registry.adopt(L4.host, "a third one") == 2
    assert len(registry.list_registrations("a third one", {})) == 2
    assert registry.list_registrations(L4.host, {}) == []


def test_a_host_driver_is_remembered_by_another_process(path: Path, registry: SqlRegistry) -> None:
    registry.note_host_driver(L4.host, L4.pci_address, "nvidia")
    registry.note_host_driver(L4.host, L4.pci_address, "nouveau")
    other = SqlRegistry(path)
    assert other.host_driver(L4.host, L4.pci_address) == "nouveau"
    assert other.host_driver(ELSEWHERE, L4.pci_address) is None
    other.close()


def test_a_device_that_had_no_driver_is_noted_as_such(registry: SqlRegistry) -> None:
    registry.note_host_driver(L4.host, L4.pci_address, "nvidia")
    registry.note_host_driver(L4.host, L4.pci_address, None)
    assert registry.host_driver(L4.host, L4.pci_address) is None


def test_a_host_driver_is_forgotten_and_may_be_unknown(registry: SqlRegistry) -> None:
    registry.note_host_driver(L4.host, L4.pci_address, "nvidia")
    registry.forget_host_driver(L4.host, L4.pci_address)
    registry.forget_host_driver(L4.host, L4.pci_address)
    assert registry.host_driver(L4.host, L4.pci_address) is None


def test_adopted_devices_keep_their_host_drivers(registry: SqlRegistry) -> None:
    registry.note_host_driver(L4.host, L4.pci_address, "nvidia")
    registry.note_host_driver(L4.host, nth(1).pci_address, "igb")
    registry.note_host_driver(ELSEWHERE, L4.pci_address, "vfio-pci")
    registry.adopt(L4.host, ELSEWHERE)
    assert registry.host_driver(ELSEWHERE, L4.pci_address) == "nvidia"
    assert registry.host_driver(ELSEWHERE, nth(1).pci_address) == "igb"
    assert registry.host_driver(L4.host, L4.pci_address) is None
