"""The first schema: one table of registrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table of registrations."""
    op.create_table(
        "registrations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pci_address", sa.String(16), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text),
        sa.Column("vendor_id", sa.String(4), nullable=False),
        sa.Column("device_id", sa.String(4), nullable=False),
        sa.Column("class_code", sa.Integer),
        sa.Column("serial", sa.Text),
        sa.Column("iommu_group", sa.Integer),
        sa.Column("host_driver", sa.Text),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.UniqueConstraint("host", "pci_address", name="one_registration_per_address"),
        sa.UniqueConstraint("host", "name", name="one_registration_per_name"),
    )
