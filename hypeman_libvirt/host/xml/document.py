"""How libvirt's XML is read: nothing outside the document is ever loaded."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

from lxml import etree
from lxml.etree import _Element as Element

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError

_log = logging.getLogger(__name__)
_LONGEST: Final = 8 * 1024 * 1024
"""Characters; libvirt's own limit for one message is 4 MiB."""


def parse_xml(xml: str) -> Element:
    """Parse a document of libvirt's.

    Raises:
        LibvirtFailedError: It is not well-formed, or longer than libvirt sends.
    """
    try:
        return _parse(xml)
    except (etree.XMLSyntaxError, ValueError) as error:
        _log.warning("libvirt's XML cannot be parsed: %s", error)
        raise LibvirtFailedError("libvirt answered with XML that cannot be parsed") from error


def parse_or_recover(xml: str) -> tuple[Element, str | None]:
    """Parse a document of libvirt's; what is not well-formed is read as far as it goes.

    Returns:
        The document, and what is wrong with it; None if nothing is.

    Raises:
        LibvirtFailedError: It is no XML at all, or longer than libvirt sends.
    """
    try:
        return _parse(xml), None
    except (etree.XMLSyntaxError, ValueError) as error:
        damage = str(error)
    element: Element | None = None
    with suppress(etree.XMLSyntaxError):
        element = _parse(xml, recover=True)
    if element is None:
        raise LibvirtFailedError("libvirt answered with what is no XML at all")
    return element, damage


def _parse(xml: str, *, recover: bool = False) -> Element:
    if len(xml) > _LONGEST:
        raise LibvirtFailedError(f"libvirt answered with {len(xml)} characters of XML, too many")
    parser = etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_blank_text=True,
        recover=recover,
    )
    return etree.fromstring(xml.encode(errors="replace") if recover else xml, parser)


def read_address(element: Element) -> PciAddress:
    """Read ``<address domain= bus= slot= function=/>``, whose numbers are hex.

    Raises:
        ValueError: A number is none.
    """
    return PciAddress(
        *(int(element.get(part) or "0", 16) for part in ("domain", "bus", "slot", "function"))
    )


def show_xml(element: Element) -> str:
    """Print an element as libvirt does."""
    return etree.tostring(element, pretty_print=True, encoding="unicode", with_tail=False)
