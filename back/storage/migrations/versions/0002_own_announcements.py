"""Our own announcements."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make their tables."""
    op.create_table(
        "own_node",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_own_node_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_own_node")),
    )
    op.create_table(
        "own_updates",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_index", name=op.f("pk_own_updates")),
    )
