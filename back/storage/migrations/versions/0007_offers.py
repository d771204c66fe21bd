"""Our offers and the invoices that were made for them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make their tables."""
    op.create_table(
        "offers",
        sa.Column("offer_id", sa.LargeBinary(), nullable=False),
        sa.Column("offer", sa.Text(), nullable=False),
        sa.Column("path_id", sa.LargeBinary()),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("disabled_at", Int64),
        sa.PrimaryKeyConstraint("offer_id", name=op.f("pk_offers")),
    )
    op.create_table(
        "offer_invoices",
        sa.Column("payment_hash", sa.LargeBinary(), nullable=False),
        sa.Column("offer_id", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", Int64, nullable=False),
        sa.PrimaryKeyConstraint("payment_hash", name=op.f("pk_offer_invoices")),
    )
    op.create_index(op.f("ix_offer_invoices_expires_at"), "offer_invoices", ["expires_at"])
