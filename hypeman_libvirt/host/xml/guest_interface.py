"""``<interface type='hostdev'>``: a network card's virtual function with MAC and VLAN.

libvirt sets both on the physical function while the guest has it, and clears them afterwards.

Source: https://libvirt.org/formatdomain.html, PCI passthrough of network interfaces.
"""

from __future__ import annotations

from lxml import etree

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import GuestInterface
from hypeman_libvirt.host.xml.document import show_xml
from hypeman_libvirt.host.xml.domain import write_address


def build_interface(
    address: PciAddress,
    interface: GuestInterface,
    guest: PciAddress | None = None,
    *,
    managed: bool = True,
) -> str:
    """Write the element.

    Args:
        address: On the host.
        interface: MAC and VLAN.
        guest: In the guest; libvirt chooses one if it is None.
        managed: libvirt is to bind it to vfio-pci, and to give it back.
    """
    element = etree.Element("interface", type="hostdev", managed="yes" if managed else "no")
    if interface.mac is not None:
        etree.SubElement(element, "mac", address=interface.mac)
    source = etree.SubElement(element, "source")
    etree.SubElement(source, "address", write_address(address), type="pci")
    if interface.vlan is not None:
        etree.SubElement(etree.SubElement(element, "vlan"), "tag", id=str(interface.vlan))
    if guest is not None:
        etree.SubElement(element, "address", write_address(guest), type="pci")
    return show_xml(element)
