"""libvirt's XML of virtual networks."""

from __future__ import annotations

import libvirt
import pytest

from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.host.xml.network import parse_network
from hypeman_libvirt.resources.model import Network
from tests.fake_host import FakeHost


@pytest.mark.parametrize(
    ("content", "joins_guests"),
    [
        ("", True),
        ("<forward/>", True),
        ("<forward mode='route'/>", True),
        ("<forward mode='bridge'/><bridge name='br0'/>", True),
        ("<forward mode='vepa'/>", False),
        ("<forward mode='hostdev'/>", False),
        ("<forward mode='nat'/><port isolated='yes'/>", False),
    ],
)
def test_who_meets_on_a_network(content: str, joins_guests: bool) -> None:
    assert parse_network(f"<network>{content}</network>") == Network(joins_guests)


@pytest.mark.parametrize(
    ("ip", "gateway", "subnet"),
    [
        ("address='192.168.122.1' netmask='255.255.255.0'", "192.168.122.1", "192.168.122.0/24"),
        ("family='ipv6' address='fd00:1::1' prefix='64'", "fd00:1::1", "fd00:1::/64"),
        ("address='nowhere' prefix='8'", None, None),
        ("address='10.0.0.1'", None, None),
    ],
)
def test_where_the_host_is_on_a_network(ip: str, gateway: str | None, subnet: str | None) -> None:
    network = parse_network(f"<network><ip {ip}/></network>")
    assert (network.gateway, network.subnet) == (gateway, subnet)


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_ACCESS_DENIED])
def test_a_network_that_cannot_be_seen_is_not_known(
    fake_host: FakeHost, libvirt_host: LibvirtHost, code: int
) -> None:
    fake_host.refuse("networkLookupByName", code)
    assert libvirt_host.resources.platform().network is None
