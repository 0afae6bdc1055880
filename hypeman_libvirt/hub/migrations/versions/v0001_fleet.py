"""Hosts, what their agents report, and claims."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

_MOMENT = sa.DateTime(timezone=True)


def _of_host(*, primary_key: bool = True) -> sa.Column[str]:
    reference = sa.ForeignKey("hosts.key", onupdate="CASCADE", ondelete="CASCADE")
    return sa.Column("host", sa.Text, reference, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    """Create all tables."""
    _create_hosts()
    _create_claims()
    _create_devices()
    op.create_table(
        "events",
        sa.Column("sequence", sa.BigInteger, sa.Identity(), primary_key=True),
        _of_host(primary_key=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("host", "event", name="one_event_per_id"),
    )
    op.create_table(
        "enrolment_tokens",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("adopts", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.Text),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("used_at", _MOMENT),
    )


def _create_hosts() -> None:
    op.create_table(
        "hosts",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("agent_key_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("enrolled_at", _MOMENT, nullable=False),
        sa.Column("seen_at", _MOMENT),
        sa.Column("epoch", sa.Text),
        sa.Column("sequence", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("ended_epochs", JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("clock_offset", sa.Float, nullable=False, server_default=sa.text("0")),
        sa.Column("problem", sa.Text),
        sa.Column("drained_at", _MOMENT),
        sa.Column("gone_at", _MOMENT),
        sa.Column("duplicate_at", _MOMENT),
        sa.Column("resources", JSONB(none_as_null=True)),
        sa.Column("capabilities", JSONB(none_as_null=True)),
        sa.Column("instances", JSONB, nullable=False, server_default=sa.text("'[]'")),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index(
        "one_host_per_name",
        "hosts",
        ["name"],
        unique=True,
        postgresql_where=sa.text("gone_at IS NULL"),
    )


def _create_claims() -> None:
    op.create_table(
        "claims",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("subject", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("lease_until", _MOMENT),
        sa.Column("expires_at", _MOMENT),
    )
    op.create_index(
        "one_claim_per_key",
        "claims",
        [sa.text("coalesce(subject, '')"), "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "claimed_devices",
        sa.Column(
            "claim",
            sa.String(64),
            sa.ForeignKey("claims.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        _of_host(),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("pci_address", sa.String(36), nullable=False),
        sa.Column("iommu_group", sa.Integer, nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("was_bound", sa.Boolean, nullable=False),
        sa.UniqueConstraint("host", "id", name="one_claim_per_device"),
    )


def _create_devices() -> None:
    op.create_table(
        "units",
        _of_host(),
        sa.Column("iommu_group", sa.Integer, primary_key=True),
        sa.Column("claim", sa.String(64), sa.ForeignKey("claims.id"), index=True),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "devices",
        _of_host(),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False, index=True),
        sa.Column("pci_address", sa.String(36), nullable=False),
        sa.Column("device", sa.String(36), nullable=False, index=True),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("vendor_id", sa.String(4), nullable=False),
        sa.Column("device_id", sa.String(4), nullable=False),
        sa.Column("profile", sa.Text),
        sa.Column("tags", JSONB, nullable=False),
        sa.Column("numa_node", sa.Integer),
        sa.Column("iommu_group", sa.Integer, nullable=False),
        sa.Column("attached_to", sa.Text),
        sa.Column("is_fit", sa.Boolean, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("devices_by_id", "devices", ["id"])
    op.create_index("devices_by_kind", "devices", ["type", "vendor_id", "device_id"])
    op.create_index("devices_by_group", "devices", ["host", "iommu_group"])
    op.create_index(
        "devices_attached",
        "devices",
        ["host", "iommu_group"],
        postgresql_where=sa.text("attached_to IS NOT NULL"),
    )
    op.create_table(
        "available",
        _of_host(),
        sa.Column("device", sa.String(36), primary_key=True),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("vendor_id", sa.String(4), nullable=False),
        sa.Column("device_id", sa.String(4), nullable=False),
        sa.Column("attached_to", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
    )
