"""What distinguishes a card from others of its model, and where it was before it moved."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns that are empty for registrations from before.

    A registration whose address belongs to another one now names itself in ``displaced``, so that
    the address of each card is unique all the same.
    """
    with op.batch_alter_table("registrations") as batch:
        batch.add_column(sa.Column("fingerprint", sa.JSON))
        batch.add_column(sa.Column("moved_from", sa.String(36)))
        batch.add_column(
            sa.Column("displaced", sa.String(64), nullable=False, server_default=sa.text("''"))
        )
        batch.drop_constraint("one_registration_per_device", type_="unique")
    with op.batch_alter_table("registrations") as batch:
        batch.create_unique_constraint(
            "one_registration_per_device", ["host", "device", "displaced"]
        )
