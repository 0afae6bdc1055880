"""Registrations as the service hands them to the registry."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.model import Registration

L4: Final = Registration(
    id="tz4a98xxat96iws9zmbrgj3a",
    host="2f1c5a3e-8f7e-4a53-9f3c-0d6c7f6b7a10",
    pci_address=PciAddress.parse("0000:a2:00.0"),
    name="l4-gpu",
    created_at=datetime(2025, 1, 15, 10, 0, tzinfo=UTC),
    created_by="alice",
    vendor_id="10de",
    device_id="27b8",
    class_code=0x030200,
    serial="1562423000123",
    iommu_group=82,
    host_driver="nvidia",
    tags={"team": "ml", "env": "prod"},
)


def nth(number: int, **changes: Any) -> Registration:  # noqa: ANN401  # fields of several types
    """Return a registration whose id, name and address are its own."""
    other = replace(
        L4,
        id=f"id{number}",
        name=f"name-{number}",
        pci_address=PciAddress(0, number // 32, number % 32, 0),
    )
    return replace(other, **changes)
