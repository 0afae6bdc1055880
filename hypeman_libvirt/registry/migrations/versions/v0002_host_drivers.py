"""Any kind of device id in place of a PCI address, and host drivers that survive a restart."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Let an mdev's UUID fit where a PCI address was, and create the table of host drivers."""
    with op.batch_alter_table("registrations") as batch:
        batch.drop_constraint("one_registration_per_address", type_="unique")
        batch.alter_column(
            "pci_address",
            new_column_name="device",
            existing_type=sa.String(16),
            existing_nullable=False,
            type_=sa.String(36),
        )
    with op.batch_alter_table("registrations") as batch:
        batch.create_unique_constraint("one_registration_per_device", ["host", "device"])
    op.create_table(
        "host_drivers",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("device", sa.String(36), primary_key=True),
        sa.Column("driver", sa.Text),
    )
