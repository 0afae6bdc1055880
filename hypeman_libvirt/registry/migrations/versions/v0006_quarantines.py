"""Devices under quarantine, and registrations whose devices go there after each use."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table of quarantines; no registration of before asks for one."""
    op.create_table(
        "quarantines",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("device", sa.String(36), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("after_use", sa.Boolean, nullable=False),
    )
    op.add_column(
        "registrations",
        sa.Column("require_clean", sa.Boolean, nullable=False, server_default=sa.false()),
    )
