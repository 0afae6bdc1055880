"""The tables of a hub in PostgreSQL, as the newest migration leaves them.

Bodies are text: they are answered as agents have written them, without being parsed again.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

HEAD: Final = "0001"
"""Revision of the newest migration in ``migrations/versions``."""

_MOMENT: Final = DateTime(timezone=True)

metadata: Final = MetaData()

hosts: Final = Table(
    "hosts",
    metadata,
    Column("key", Text, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("url", Text, nullable=False),
    Column("agent_key_hash", String(64), nullable=False, unique=True),
    Column("salt", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("enrolled_at", _MOMENT, nullable=False),
    Column("seen_at", _MOMENT),
    Column("epoch", Text),
    Column("sequence", BigInteger, nullable=False, server_default=text("0")),
    Column("ended_epochs", JSONB, nullable=False, server_default=text("'[]'")),
    Column("clock_offset", Float, nullable=False, server_default=text("0")),
    Column("problem", Text),
    Column("drained_at", _MOMENT),
    Column("gone_at", _MOMENT),
    Column("duplicate_at", _MOMENT),
    Column("resources", JSONB(none_as_null=True)),
    Column("capabilities", JSONB(none_as_null=True)),
    Column("instances", JSONB, nullable=False, server_default=text("'[]'")),
    Index("one_host_per_name", "name", unique=True, postgresql_where=text("gone_at IS NULL")),
    # A heartbeat changes no column that is indexed; with room in the page it leaves no index entry.
    postgresql_with={"fillfactor": 50},
)
"""``key`` changes when a host is adopted; what refers to it follows."""


def _of_host() -> Column[str]:
    return Column(
        "host",
        Text,
        ForeignKey("hosts.key", onupdate="CASCADE", ondelete="CASCADE"),
        primary_key=True,
    )


claims: Final = Table(
    "claims",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("subject", Text),
    Column("state", String(16), nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("idempotency_key", Text),
    Column("created_at", _MOMENT, nullable=False),
    Column("lease_until", _MOMENT),
    Column("expires_at", _MOMENT),
    Index(
        "one_claim_per_key",
        text("coalesce(subject, '')"),
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)
"""While ``lease_until`` is to come, one hub works on the claim; afterwards any other may."""

units: Final = Table(
    "units",
    metadata,
    _of_host(),
    Column("iommu_group", Integer, primary_key=True),
    Column("claim", String(64), ForeignKey("claims.id"), index=True),
    postgresql_with={"fillfactor": 70},
)
"""IOMMU groups: what a guest is given whole, and so what a claim locks."""

devices: Final = Table(
    "devices",
    metadata,
    _of_host(),
    Column("id", String(64), primary_key=True),
    Column("name", String(128), nullable=False, index=True),
    Column("pci_address", String(36), nullable=False),
    Column("device", String(36), nullable=False, index=True),
    Column("type", String(16), nullable=False),
    Column("vendor_id", String(4), nullable=False),
    Column("device_id", String(4), nullable=False),
    Column("profile", Text),
    Column("tags", JSONB, nullable=False),
    Column("numa_node", Integer),
    Column("iommu_group", Integer, nullable=False),
    Column("attached_to", Text),
    Column("is_fit", Boolean, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("body", Text, nullable=False),
    Index("devices_by_id", "id"),
    Index("devices_by_kind", "type", "vendor_id", "device_id"),
    Index("devices_by_group", "host", "iommu_group"),
    Index(
        "devices_attached",
        "host",
        "iommu_group",
        postgresql_where=text("attached_to IS NOT NULL"),
    ),
)
"""Registered devices; ``device`` is the PCI address, or the UUID of a mediated device.

One is fit if it is where it was registered, and not quarantined."""

available: Final = Table(
    "available",
    metadata,
    _of_host(),
    Column("device", String(36), primary_key=True),
    Column("type", String(16), nullable=False),
    Column("vendor_id", String(4), nullable=False),
    Column("device_id", String(4), nullable=False),
    Column("attached_to", Text),
    Column("body", Text, nullable=False),
)
"""Assignable devices, registered or not."""

events: Final = Table(
    "events",
    metadata,
    Column("sequence", BigInteger, Identity(), primary_key=True),
    Column(
        "host",
        Text,
        ForeignKey("hosts.key", onupdate="CASCADE", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("event", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("host", "event", name="one_event_per_id"),
)
"""Numbered in the order of their commits: whoever inserts any holds a lock until its commit."""

claimed_devices: Final = Table(
    "claimed_devices",
    metadata,
    Column("claim", String(64), ForeignKey("claims.id", ondelete="CASCADE"), primary_key=True),
    _of_host(),
    Column("id", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("pci_address", String(36), nullable=False),
    Column("iommu_group", Integer, nullable=False),
    Column("step", String(16), nullable=False),
    Column("was_bound", Boolean, nullable=False),
    UniqueConstraint("host", "id", name="one_claim_per_device"),
)

enrolment_tokens: Final = Table(
    "enrolment_tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("adopts", Boolean, nullable=False),
    Column("created_by", Text),
    Column("expires_at", _MOMENT, nullable=False),
    Column("used_at", _MOMENT),
)
"""One-time tokens, by their hashes."""
