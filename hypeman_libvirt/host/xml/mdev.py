"""libvirt's XML of a mediated device on the host.

Source: https://libvirt.org/drvnodedev.html#mediated-devices-mdevs
"""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree

from hypeman_libvirt.devices.address import MdevUuid
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.host.xml.document import parse_xml, show_xml


@dataclass(frozen=True, slots=True)
class MdevXml:
    """What the XML of a mediated device says.

    Attributes:
        node_name: libvirt's name.
        uuid: By which the kernel knows it.
        parent: libvirt's name of its parent.
        type_id: The kernel's name of its type.
        iommu_group: None while it is not active.
        driver: None while it is not active.
    """

    node_name: str
    uuid: MdevUuid
    parent: str
    type_id: str
    iommu_group: int | None
    driver: str | None


def parse_mdev(xml: str) -> MdevXml:
    """Read what ``virNodeDeviceGetXMLDesc()`` returned.

    Raises:
        LibvirtFailedError: The document is not what libvirt documents.
    """
    device = parse_xml(xml)
    name = device.findtext("name", "")
    mdev, kind = device.find("capability[@type='mdev']"), device.find("capability/type")
    group = device.find("capability/iommuGroup")
    if mdev is None or kind is None:
        raise LibvirtFailedError(f"libvirt describes {name} as no mediated device")
    try:
        return MdevXml(
            node_name=name,
            uuid=MdevUuid.parse(mdev.findtext("uuid", "")),
            parent=device.findtext("parent", ""),
            type_id=kind.get("id", ""),
            iommu_group=None if group is None else int(group.get("number", "")),
            driver=device.findtext("driver/name"),
        )
    except ValueError as error:
        raise LibvirtFailedError(f"libvirt describes {name} in a way that is unknown") from error


def build_mdev(mdev: MdevUuid, parent: str, type_id: str) -> str:
    """Write the definition of a mediated device, for ``virNodeDeviceDefineXML()``.

    Args:
        mdev: The UUID that it gets.
        parent: libvirt's name of the parent.
        type_id: The kernel's name of the type.
    """
    device = etree.Element("device")
    etree.SubElement(device, "parent").text = parent
    capability = etree.SubElement(device, "capability", type="mdev")
    etree.SubElement(capability, "type", id=type_id)
    etree.SubElement(capability, "uuid").text = str(mdev)
    return show_xml(device)
