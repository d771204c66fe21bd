"""First tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "attempts",
        sa.Column("payment_id", sa.LargeBinary(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key_index", Int64, nullable=True),
        sa.Column("htlc_id", Int64, nullable=True),
        sa.Column("amount_msat", Int64, nullable=False),
        sa.Column("fees_msat", Int64, nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("shared_secrets", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("completed_at", Int64, nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("payment_id", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "blocks",
        sa.Column("height", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("height", name=op.f("pk_blocks")),
    )
    op.create_table(
        "channel_states",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("local_msat", Int64, nullable=False),
        sa.Column("remote_msat", Int64, nullable=False),
        sa.Column("next_local_htlc_id", Int64, nullable=False),
        sa.Column("next_remote_htlc_id", Int64, nullable=False),
        sa.Column("fees", sa.Text(), nullable=False),
        sa.Column("remote_number", Int64, nullable=False),
        sa.Column("remote_current_point", sa.LargeBinary(), nullable=False),
        sa.Column("remote_next_point", sa.LargeBinary(), nullable=False),
        sa.Column("unrevoked_number", Int64, nullable=True),
        sa.Column("is_revoke_last", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("key_index", name=op.f("pk_channel_states")),
    )
    op.create_table(
        "channels",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("channel_id", sa.LargeBinary(), nullable=False),
        sa.Column("node_id", sa.LargeBinary(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("is_over", sa.Boolean(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("created_height", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key_index", name=op.f("pk_channels")),
        sa.UniqueConstraint("node_id", "channel_id", name=op.f("uq_channels_node_id_channel_id")),
    )
    op.create_index(
        "ix_channels_open",
        "channels",
        ["key_index"],
        unique=False,
        sqlite_where=sa.text("NOT is_over"),
        postgresql_where=sa.text("NOT is_over"),
    )
    op.create_table(
        "htlcs",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("offered", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("amount_msat", Int64, nullable=False),
        sa.Column("payment_hash", sa.LargeBinary(), nullable=False),
        sa.Column("cltv_expiry", Int64, nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("remote_first", Int64, nullable=True),
        sa.Column("remote_last", Int64, nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("resolution_data", sa.LargeBinary(), nullable=True),
        sa.Column("failure_code", sa.Integer(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.Column("path_key", sa.LargeBinary(), nullable=True),
        sa.Column("onion_routing_packet", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_index", "offered", "id", name=op.f("pk_htlcs")),
    )
    op.create_table(
        "invoices",
        sa.Column("payment_hash", sa.LargeBinary(), nullable=False),
        sa.Column("preimage", sa.LargeBinary(), nullable=False),
        sa.Column("payment_secret", sa.LargeBinary(), nullable=False),
        sa.Column("bolt11", sa.Text(), nullable=False),
        sa.Column("amount_msat", Int64, nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("expiry_s", Int64, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("received_msat", Int64, nullable=False),
        sa.Column("paid_at", Int64, nullable=True),
        sa.PrimaryKeyConstraint("payment_hash", name=op.f("pk_invoices")),
    )
    op.create_index("ix_invoices_created_at", "invoices", ["created_at"], unique=False)
    op.create_index(
        "ix_invoices_state_created_at", "invoices", ["state", "created_at"], unique=False
    )
    op.create_table(
        "lease",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("epoch", Int64, nullable=False),
        sa.Column("beat", Int64, nullable=False),
        sa.Column("commit_no", Int64, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", Int64, nullable=False),
        sa.Column("process_start", Int64, nullable=False),
        sa.PrimaryKeyConstraint("shard", name=op.f("pk_lease")),
    )
    op.create_table(
        "local_commitments",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("number", Int64, nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("htlc_signatures", sa.LargeBinary(), nullable=False),
        sa.Column("current_point", sa.LargeBinary(), nullable=False),
        sa.Column("next_point", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_index", name=op.f("pk_local_commitments")),
    )
    op.create_table(
        "node",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("node_id", sa.LargeBinary(), nullable=False),
        sa.Column("chain", sa.Text(), nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_node_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", Int64, autoincrement=True, nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "payments",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("parent", sa.LargeBinary(), nullable=True),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("payment_hash", sa.LargeBinary(), nullable=False),
        sa.Column("amount_msat", Int64, nullable=False),
        sa.Column("recipient", sa.LargeBinary(), nullable=False),
        sa.Column("bolt11", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("preimage", sa.LargeBinary(), nullable=True),
        sa.Column("fees_msat", Int64, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("completed_at", Int64, nullable=True),
        sa.Column("failures", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
    )
    op.create_index("ix_payments_created_at", "payments", ["created_at"], unique=False)
    op.create_index(
        "ix_payments_external_id",
        "payments",
        ["external_id"],
        unique=False,
        sqlite_where=sa.text("external_id IS NOT NULL"),
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_index("ix_payments_payment_hash", "payments", ["payment_hash"], unique=False)
    op.create_index(
        "ix_payments_pending",
        "payments",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "uq_payments_live_payment_hash",
        "payments",
        ["payment_hash"],
        unique=True,
        sqlite_where=sa.text("parent IS NULL AND state <> 'failed'"),
        postgresql_where=sa.text("parent IS NULL AND state <> 'failed'"),
    )
    op.create_table(
        "peers",
        sa.Column("node_id", sa.LargeBinary(), nullable=False),
        sa.Column("addresses", sa.Text(), nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=False),
        sa.Column("last_seen", Int64, nullable=False),
        sa.Column("storage", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_peers")),
    )
    op.create_table(
        "received_htlcs",
        sa.Column("payment_hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("amount_msat", Int64, nullable=False),
        sa.Column("received_at", Int64, nullable=False),
        sa.PrimaryKeyConstraint("payment_hash", "key_index", "id", name=op.f("pk_received_htlcs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "settled_htlcs",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("remote_last", Int64, autoincrement=False, nullable=False),
        sa.Column("offered", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("remote_first", Int64, nullable=False),
        sa.Column("amount_msat", Int64, nullable=False),
        sa.Column("payment_hash", sa.LargeBinary(), nullable=False),
        sa.Column("cltv_expiry", Int64, nullable=False),
        sa.PrimaryKeyConstraint(
            "key_index", "remote_last", "offered", "id", name=op.f("pk_settled_htlcs")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "shachains",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("bucket", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("secret_index", Int64, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_index", "bucket", name=op.f("pk_shachains")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "transactions",
        sa.Column("txid", sa.LargeBinary(), nullable=False),
        sa.Column("key_index", Int64, nullable=True),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("fee_sat", Int64, nullable=True),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("confirmed_height", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("txid", name=op.f("pk_transactions")),
    )
    op.create_index("ix_transactions_created_at", "transactions", ["created_at"], unique=False)
    op.create_index(
        "ix_transactions_unconfirmed",
        "transactions",
        ["txid"],
        unique=False,
        sqlite_where=sa.text("confirmed_height IS NULL"),
        postgresql_where=sa.text("confirmed_height IS NULL"),
    )
    op.create_table(
        "unrevoked_commitments",
        sa.Column("key_index", Int64, autoincrement=False, nullable=False),
        sa.Column("number", Int64, nullable=False),
        sa.Column("messages", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_index", name=op.f("pk_unrevoked_commitments")),
    )
