"""What users ask about the past."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the indexes of the books."""
    for name, table, columns, state in (
        ("ix_payments_sent", "payments", ["completed_at", "id"], "state = 'sent'"),
        ("ix_invoices_paid", "invoices", ["paid_at", "payment_hash"], "paid_at IS NOT NULL"),
        (
            "ix_forwards_fulfilled",
            "forwards",
            ["completed_at_ms", "in_key_index", "in_htlc_id"],
            "state = 'fulfilled'",
        ),
    ):
        op.create_index(
            name,
            table,
            columns,
            sqlite_where=sa.text(state),
            postgresql_where=sa.text(state),
        )
