"""The tables, as the newest migration leaves them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)

HEAD: Final = "0006"
"""Revision of the newest migration in ``migrations/versions``."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, also where the database stores no time zone, such as SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn a moment of any zone to UTC."""
        del dialect
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the moment its zone back."""
        del dialect
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)


_DEVICE_ID: Final = 36
"""Characters of the longest id of a device on its host: the UUID of a mediated device."""

metadata: Final = MetaData()

registrations: Final = Table(
    "registrations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("host", Text, nullable=False),
    Column("device", String(_DEVICE_ID), nullable=False),
    Column("name", String(128), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text),
    Column("vendor_id", String(4), nullable=False),
    Column("device_id", String(4), nullable=False),
    Column("class_code", Integer),
    Column("serial", Text),
    Column("iommu_group", Integer),
    Column("host_driver", Text),
    Column("tags", JSON, nullable=False),
    Column("fingerprint", JSON(none_as_null=True)),
    Column("moved_from", String(_DEVICE_ID)),
    Column("displaced", String(64), nullable=False, server_default=text("''")),
    Column("vgpu", JSON(none_as_null=True)),
    Column("require_clean", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("host", "device", "displaced", name="one_registration_per_device"),
    UniqueConstraint("host", "name", name="one_registration_per_name"),
)
"""``displaced`` is the registration's own id where its address is another one's now, else empty."""

host_drivers: Final = Table(
    "host_drivers",
    metadata,
    Column("host", Text, primary_key=True),
    Column("device", String(_DEVICE_ID), primary_key=True),
    Column("driver", Text),
)
"""The driver that a device had before it was bound to vfio-pci, NULL for none.

Also of devices that are not registered: members of an IOMMU group are bound with it.
"""

quarantines: Final = Table(
    "quarantines",
    metadata,
    Column("host", Text, primary_key=True),
    Column("device", String(_DEVICE_ID), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("after_use", Boolean, nullable=False),
)
"""Devices that are offered to nobody, registered or not; see ``devices.model.Quarantine``."""

boot_rules: Final = Table(
    "boot_rules",
    metadata,
    Column("host", Text, primary_key=True),
    Column("device", String(_DEVICE_ID), primary_key=True),
    Column("vendor_id", String(4), nullable=False),
    Column("device_id", String(4), nullable=False),
    Column("topology", Text),
    Column("virtual_functions", Integer),
    Column("autoprobe", Boolean, nullable=False),
)
"""What the host is to do with a function at boot; see ``devices.boot_rule``.

Also of functions that are not registered: a network card's stays with the host.
"""
