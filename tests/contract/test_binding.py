"""What the binding does, on the fake and on libvirt's test driver: so that the fake cannot drift.

What the two cannot share (drivers, hot-plug) was measured on libvirt 9.0 and is in test_fake.py.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import libvirt
import pytest

SHUT_OFF = "training"
RUNNING = "builder"
NAMESPACE = "urn:hypeman:tests"
HOSTDEV = (
    "<hostdev mode='subsystem' type='pci' managed='yes'><source>"
    "<address domain='0x0000' bus='0xa2' slot='0x00' function='0x0'/></source></hostdev>"
)


def code_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(libvirt.libvirtError) as caught:
        call()
    return caught.value.get_error_code()


def test_an_error_made_by_hand_has_no_code() -> None:
    # It takes over the last error of its thread, so only one that had none will do.
    with ThreadPoolExecutor(1) as fresh:
        error = fresh.submit(libvirt.libvirtError, "by hand").result()
    assert (error.err, error.get_error_code(), error.get_error_domain()) == (None, None, None)


def test_pci_functions_are_listed_among_other_node_devices(connection: libvirt.virConnect) -> None:
    everything = {each.name() for each in connection.listAllDevices(0)}
    flag = libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV
    functions = {each.name() for each in connection.listAllDevices(flag)}
    assert {"pci_0000_a2_00_0", "pci_10000_e1_00_0"} < functions < everything
    assert all(name.startswith("pci_") for name in functions)
    assert connection.numOfDevices(None, 0) == len(everything)
    assert connection.numOfDevices("pci", 0) == len(functions)


def test_an_unknown_node_device_has_its_own_code(connection: libvirt.virConnect) -> None:
    assert code_of(lambda: connection.nodeDeviceLookupByName("pci_0000_ff_00_0")) == 53


def test_unknown_domains_have_their_own_code(connection: libvirt.virConnect) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    assert code_of(lambda: connection.lookupByName("nobody")) == 42
    assert code_of(lambda: connection.lookupByUUIDString(unknown)) == 42
    assert code_of(lambda: connection.lookupByUUIDString("no uuid")) == 8


def test_only_the_live_definition_has_an_id(connection: libvirt.virConnect) -> None:
    running = connection.lookupByName(RUNNING)
    assert " id=" in running.XMLDesc(0).partition("<name>")[0]
    inactive = running.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert " id=" not in inactive.partition("<name>")[0]
    assert " id=" not in connection.lookupByName(SHUT_OFF).XMLDesc(0).partition("<name>")[0]


def test_states_of_domains(connection: libvirt.virConnect) -> None:
    assert connection.lookupByName(RUNNING).state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert connection.lookupByName(SHUT_OFF).state()[0] == libvirt.VIR_DOMAIN_SHUTOFF


def test_a_redefinition_waits_for_the_next_start(connection: libvirt.virConnect) -> None:
    running = connection.lookupByName(RUNNING)
    definition = running.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    connection.defineXML(definition.replace("</devices>", HOSTDEV + "</devices>"))
    assert "hostdev" not in running.XMLDesc(0)
    assert "hostdev" in running.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)


def test_a_redefinition_with_its_passwords_keeps_them(connection: libvirt.virConnect) -> None:
    domain = connection.lookupByName(SHUT_OFF)
    inactive, secure = libvirt.VIR_DOMAIN_XML_INACTIVE, libvirt.VIR_DOMAIN_XML_SECURE
    vnc = "<graphics type='vnc' port='-1' passwd='secret'/>"
    definition = domain.XMLDesc(inactive).replace("</devices>", vnc + "</devices>")
    connection.defineXML(definition)
    assert "secret" not in domain.XMLDesc(inactive)
    connection.defineXML(domain.XMLDesc(inactive | secure))
    assert "secret" in domain.XMLDesc(inactive | secure)
    connection.defineXML(domain.XMLDesc(inactive))
    assert "secret" not in domain.XMLDesc(inactive | secure)


def test_a_running_domain_outlives_its_definition(connection: libvirt.virConnect) -> None:
    connection.lookupByName(RUNNING).undefine()
    names = [
        {each.name() for each in connection.listAllDomains(flag)}
        for flag in (
            libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT,
            libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT,
        )
    ]
    assert names == [{"inference", "edge", "training"}, {RUNNING}]
    connection.lookupByName(RUNNING).destroy()
    assert code_of(lambda: connection.lookupByName(RUNNING)) == 42


def test_what_is_no_definition_is_refused(connection: libvirt.virConnect) -> None:
    assert code_of(lambda: connection.defineXML("<domain")) == 35
    assert code_of(lambda: connection.defineXML("<domain type='test'/>")) == 21


def test_metadata_is_kept_in_its_namespace_and_returned_without(
    connection: libvirt.virConnect,
) -> None:
    domain = connection.lookupByName(SHUT_OFF)
    element = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    assert code_of(lambda: domain.metadata(element, NAMESPACE, 0)) == 80
    domain.setMetadata(element, "<a><b id='1'/></a>", "x", NAMESPACE, 2)
    shown = domain.XMLDesc(0).replace("'", '"')
    assert f'<x:a xmlns:x="{NAMESPACE}">' in shown
    assert '<x:b id="1"/>' in shown
    assert domain.metadata(element, NAMESPACE, 0).replace("'", '"').split() == [
        "<a>",
        "<b",
        'id="1"/>',
        "</a>",
    ]
    domain.setMetadata(element, None, "x", NAMESPACE, 2)
    assert code_of(lambda: domain.metadata(element, NAMESPACE, 0)) == 80


def test_others_metadata_stays(connection: libvirt.virConnect) -> None:
    running = connection.lookupByName("inference")
    running.setMetadata(2, "<a/>", "x", NAMESPACE, 3)
    running.setMetadata(2, None, "x", NAMESPACE, 3)
    assert "urn:hypeman:libvirt:instance:1" in running.XMLDesc(0)


def test_live_metadata_needs_a_running_domain(connection: libvirt.virConnect) -> None:
    domain = connection.lookupByName(SHUT_OFF)
    assert code_of(lambda: domain.setMetadata(2, "<a/>", "x", NAMESPACE, 1)) == 55


def test_a_domain_that_does_not_run_cannot_be_stopped(connection: libvirt.virConnect) -> None:
    assert code_of(connection.lookupByName(SHUT_OFF).destroy) == 55


def test_a_closed_connection_says_so(uri: str) -> None:
    connection = libvirt.open(uri)
    connection.close()
    assert code_of(connection.getCapabilities) == 6
    assert code_of(connection.listAllDevices) == 6


def test_events_of_domains_arrive(connection: libvirt.virConnect) -> None:
    seen: SimpleQueue[tuple[object, ...]] = SimpleQueue()
    lifecycle = connection.domainEventRegisterAny(
        None,
        libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        lambda _conn, domain, *what: seen.put((domain.name(), what[0])),
        None,
    )
    metadata = connection.domainEventRegisterAny(
        None,
        libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
        lambda _conn, domain, *what: seen.put((domain.name(), *what[:2])),
        None,
    )
    domain = connection.lookupByName(SHUT_OFF)
    domain.create()
    assert seen.get(timeout=300) == (SHUT_OFF, 2)
    domain.setMetadata(2, "<a/>", "x", NAMESPACE, 1)
    assert seen.get(timeout=300) == (SHUT_OFF, 2, NAMESPACE)
    domain.destroy()
    assert seen.get(timeout=300) == (SHUT_OFF, 5)
    connection.domainEventDeregisterAny(lifecycle)
    connection.domainEventDeregisterAny(metadata)


def test_what_the_host_has(connection: libvirt.virConnect) -> None:
    model, mebibytes, cpus, *more = connection.getInfo()
    assert (model, mebibytes, cpus, len(more)) == ("x86_64", 262144, 64, 5)


def test_only_active_domains_are_listed_on_demand(connection: libvirt.virConnect) -> None:
    active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    assert {each.name() for each in active} == {RUNNING, "inference"}


def test_the_size_of_a_domain(connection: libvirt.virConnect) -> None:
    state, most, memory, cpus, _ = connection.lookupByName(RUNNING).info()
    sixteen_gibibytes = 16 * 1024 * 1024
    assert (state, most, memory, cpus) == (1, sixteen_gibibytes, sixteen_gibibytes, 8)


def test_an_unknown_network_has_its_own_code(connection: libvirt.virConnect) -> None:
    assert "192.168.122.1" in connection.networkLookupByName("default").XMLDesc(0)
    assert code_of(lambda: connection.networkLookupByName("nobody")) == 43


def test_a_storage_pool_says_how_full_it_is(connection: libvirt.virConnect) -> None:
    (pool,) = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    state, capacity, allocation, available = pool.info()
    assert (state, capacity, allocation, available) == (2, 100 * 1024**3, 0, 100 * 1024**3)
    assert pool.XMLDesc(0).startswith("<pool type='dir'")
