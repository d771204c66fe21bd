"""Relay fees of peers and channels."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make their tables; keep the terms of former updates."""
    op.create_table(
        "peer_fees",
        sa.Column("node_id", sa.LargeBinary(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        *_fees(),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_peer_fees")),
    )
    op.create_table(
        "channel_fees",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        *_fees(),
        sa.PrimaryKeyConstraint("key_index", name=op.f("pk_channel_fees")),
    )
    former = sa.Column("former", sa.Text(), nullable=False, server_default="[]")
    op.add_column("own_updates", former)


def _fees() -> "list[sa.Column[int]]":
    return [
        sa.Column("fee_base_msat", Int64, nullable=False),
        sa.Column("fee_proportional_millionths", Int64, nullable=False),
        sa.Column("cltv_expiry_delta", sa.Integer()),
        sa.Column("changed_at", Int64, nullable=False),
    ]
