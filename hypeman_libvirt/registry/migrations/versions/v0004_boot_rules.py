"""What the host is to do with a function at boot: bind it to vfio-pci, make virtual functions."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table of boot rules."""
    op.create_table(
        "boot_rules",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("device", sa.String(36), primary_key=True),
        sa.Column("vendor_id", sa.String(4), nullable=False),
        sa.Column("device_id", sa.String(4), nullable=False),
        sa.Column("topology", sa.Text),
        sa.Column("virtual_functions", sa.Integer),
        sa.Column("autoprobe", sa.Boolean, nullable=False),
    )
