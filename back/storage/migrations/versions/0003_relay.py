"""The ledger of forwarded HTLCs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make its table."""
    op.create_table(
        "forwards",
        sa.Column("in_key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("in_htlc_id", Int64, autoincrement=False, nullable=False),
        sa.Column("out_key_index", Int64, nullable=False),
        sa.Column("out_htlc_id", Int64, nullable=False),
        sa.Column("payment_hash", sa.LargeBinary(), nullable=False),
        sa.Column("in_amount_msat", Int64, nullable=False),
        sa.Column("out_amount_msat", Int64, nullable=False),
        sa.Column("created_at_ms", Int64, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("preimage", sa.LargeBinary()),
        sa.Column("reason", sa.LargeBinary()),
        sa.Column("failure_code", sa.Integer()),
        sa.Column("completed_at_ms", Int64),
        sa.Column("is_noted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("in_key_index", "in_htlc_id", name=op.f("pk_forwards")),
    )
    op.create_index(
        "ix_forwards_open",
        "forwards",
        ["in_key_index", "in_htlc_id"],
        sqlite_where=sa.text("NOT is_noted"),
        postgresql_where=sa.text("NOT is_noted"),
    )
