"""Payments that came without a BOLT 11 invoice."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tell them apart."""
    kind = sa.Column("kind", sa.Text(), nullable=False, server_default="bolt11")
    op.add_column("invoices", kind)
