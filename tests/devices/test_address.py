from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import InvalidPciAddressError

addresses = st.builds(
    PciAddress,
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 0x1F),
    st.integers(0, 7),
)


@given(addresses)
def test_what_is_printed_is_read_back(address: PciAddress) -> None:
    assert PciAddress.parse(str(address)) == address
    assert PciAddress.parse(str(address).upper()) == address


@given(st.text())
def test_any_text_is_an_address_or_a_clear_refusal(text: str) -> None:
    try:
        address = PciAddress.parse(text)
    except InvalidPciAddressError as refusal:
        said = refusal.message
    else:
        said = f"0000: {address}"
        assert str(address) == text.lower()
    assert "0000:" in said


@pytest.mark.parametrize(
    ("address", "name", "node_name"),
    [
        ("0000:a2:00.0", "pci-0000-a2-00-0", "pci_0000_a2_00_0"),
        ("10000:e1:00.0", "pci-10000-e1-00-0", "pci_10000_e1_00_0"),
    ],
)
def test_names_that_follow_from_an_address(address: str, name: str, node_name: str) -> None:
    assert PciAddress.parse(address).default_name == name
    assert PciAddress.parse(address).node_device_name == node_name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0000:a2:00",
        "0000:a2:20.0",
        "0000:a2:00.8",
        "000:a2:00.0",
        "000000000:a2:00.0",
        "0000:a2:00.0\n",
        " 0000:a2:00.0",
        "0000:a2:00.0;reboot",
        "../0000:a2:00.0",
        "0000:g2:00.0",
        "0000\uff1aa2:00.0",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidPciAddressError):
        PciAddress.parse(text)


def test_an_address_as_lspci_prints_it_is_refused_with_the_full_form() -> None:
    with pytest.raises(InvalidPciAddressError, match=r"write 0000:a2:00\.0"):
        PciAddress.parse("A2:00.0")
