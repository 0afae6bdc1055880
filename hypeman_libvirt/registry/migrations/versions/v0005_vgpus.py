"""What a registration is that is a slice of a GPU."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add a column that is empty for all registrations from before."""
    with op.batch_alter_table("registrations") as batch:
        batch.add_column(sa.Column("vgpu", sa.JSON))
