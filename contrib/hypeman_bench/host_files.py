"""Files for libvirt's test driver: hosts of any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_NODE = """\
<node>
  <cpu><nodes>1</nodes><sockets>1</sockets><cores>16</cores><threads>2</threads>
    <active>32</active><mhz>2900</mhz><model>x86_64</model></cpu>
  <memory>268435456</memory>
  <device><name>computer</name><capability type='system'><hardware>
    <uuid>5e9a7c3b-18d4-4f62-a5c1-7d3b9e0f8a46</uuid></hardware></capability></device>
{devices}
{domains}
</node>
"""
_DEVICE = """\
  <device>
    <name>pci_0000_{bus:02x}_{slot:02x}_0</name>
    <path>/sys/devices/pci0000:00/0000:{bus:02x}:{slot:02x}.0</path>
    <parent>computer</parent>
    <driver><name>nvidia</name></driver>
    <capability type='pci'>
      <class>0x030200</class>
      <domain>0</domain><bus>{bus}</bus><slot>{slot}</slot><function>0</function>
      <product id='0x27b8'>AD104GL [L4]</product>
      <vendor id='0x10de'>NVIDIA Corporation</vendor>
      <iommuGroup number='{group}'>
        <address domain='0x0000' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x0'/>
      </iommuGroup>
      <numa node='0'/>
    </capability>
  </device>
"""
_DOMAIN = """\
  <domain type='{type}' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>bench-{number}</name>
    <memory unit='GiB'>8</memory><vcpu>8</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type></os>
    <devices>{hostdev}</devices>
    {extra}
  </domain>
"""
_HOSTDEV = (
    "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x{domain:04x}' "
    "bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x0'/></source></hostdev>"
)
_SLOTS = 8
"""Devices on a bus."""
_HELD_DOMAIN = 0x7
"""PCI domain of devices that only domains' definitions know."""


def address(number: int) -> str:
    """Return the PCI address of the numbered device."""
    return f"0000:{1 + number // _SLOTS:02x}:{number % _SLOTS:02x}.0"


def write_host(path: Path, devices: int, domains: int, holding: int) -> str:
    """Write a host and return its URI.

    Args:
        path: Of the file.
        devices: Node devices, each alone in its IOMMU group.
        domains: Shut-off domains.
        holding: How many of them hold a device, one each.
    """
    nodes = [
        _DEVICE.format(bus=1 + each // _SLOTS, slot=each % _SLOTS, group=each)
        for each in range(devices)
    ]
    shut_off = "<test:runstate>5</test:runstate>"
    guests = domain_xml(domains, holding, kind="test", extra=shut_off)
    path.write_text(_NODE.format(devices="".join(nodes), domains="".join(guests)))
    return f"test://{path}"


def domain_xml(domains: int, holding: int, *, kind: str, extra: str = "") -> Sequence[str]:
    """Return definitions of domains of which some hold a device."""
    return [
        _DOMAIN.format(
            type=kind,
            number=each,
            extra=extra,
            hostdev=_HOSTDEV.format(domain=_HELD_DOMAIN, bus=each // 32, slot=each % 32)
            if each < holding
            else "",
        )
        for each in range(domains)
    ]
