"""Every table, declared once, for SQLite and PostgreSQL.

Conventions: hashes, keys and encoded messages are bytes; amounts are integers in the unit that the
column's name says; times are unix seconds; short channel ids are 8 bytes big-endian (aliases do not
fit a signed 64-bit column, and bytes sort the same). A channel is known by ``key_index``, the
number under which the signer made its keys, drawn at random: it never changes and is never used
twice.

Sized for 5,000 channels and ten million old payments: what grows with every HTLC is written once
under the primary key that its one query needs; what changes at every step of a channel is small.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = [
    "NODE_SHARD",
    "attempts",
    "blocks",
    "channel_fees",
    "channel_states",
    "channels",
    "forwards",
    "htlcs",
    "invoices",
    "lease",
    "local_commitments",
    "metadata",
    "node",
    "offer_invoices",
    "offers",
    "outbox",
    "own_node",
    "own_updates",
    "payments",
    "peer_fees",
    "peers",
    "received_htlcs",
    "settled_htlcs",
    "shachains",
    "transactions",
    "unrevoked_commitments",
]

NODE_SHARD = 64
"""The lease row after those of the peers' shards 0..63: what belongs to the node and to no peer
(chain tip, invoices, payments, wallet)."""

Int64 = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite numbers rows by itself only where the type is spelled INTEGER."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# --- whose database this is -----------------------------------------------------------------------

node = Table(
    "node",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("node_id", LargeBinary, nullable=False),
    Column("chain", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""One row: the node and network that this database belongs to."""

lease = Table(
    "lease",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("owner", Text, nullable=False),
    Column("epoch", Int64, nullable=False),
    Column("beat", Int64, nullable=False),
    Column("commit_no", Int64, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Int64, nullable=False),
    Column("process_start", Int64, nullable=False),
)
"""Who may write what belongs to a shard; ``owner`` is empty after a polite leave.

``commit_no`` never goes down, whoever owns the row: it is the witness against a restored backup.
``host`` names a machine's boot and process namespace, within which pid and start time mean
something.
"""

# --- the chain ------------------------------------------------------------------------------------

blocks = Table(
    "blocks",
    metadata,
    Column("height", Integer, primary_key=True, autoincrement=False),
    Column("block_hash", LargeBinary, nullable=False),
)
"""The last blocks that were processed, the highest being the tip: enough to walk back a reorg."""

transactions = Table(
    "transactions",
    metadata,
    Column("txid", LargeBinary, primary_key=True),
    Column("key_index", Int64),
    Column("what", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("fee_sat", Int64),
    Column("created_at", Int64, nullable=False),
    Column("confirmed_height", Integer),
)
"""On-chain transactions that we published or that spent a channel."""
Index("ix_transactions_created_at", transactions.c.created_at)
Index(
    "ix_transactions_unconfirmed",
    transactions.c.txid,
    sqlite_where=text("confirmed_height IS NULL"),
    postgresql_where=text("confirmed_height IS NULL"),
)

# --- channels -------------------------------------------------------------------------------------

channels = Table(
    "channels",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("channel_id", LargeBinary, nullable=False),
    Column("node_id", LargeBinary, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("phase", Text, nullable=False),
    Column("is_over", Boolean, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("created_height", Integer, nullable=False),
    UniqueConstraint("node_id", "channel_id"),
)
"""What a channel is and what changes a few times in its life (JSON).

A peer chooses its temporary ids, so they are unique per peer only. Deleted if it never had money.
"""
Index(
    "ix_channels_open",
    channels.c.key_index,
    sqlite_where=text("NOT is_over"),
    postgresql_where=text("NOT is_over"),
)

channel_states = Table(
    "channel_states",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("local_msat", Int64, nullable=False),
    Column("remote_msat", Int64, nullable=False),
    Column("next_local_htlc_id", Int64, nullable=False),
    Column("next_remote_htlc_id", Int64, nullable=False),
    Column("fees", Text, nullable=False),
    Column("remote_number", Int64, nullable=False),
    Column("remote_current_point", LargeBinary, nullable=False),
    Column("remote_next_point", LargeBinary, nullable=False),
    Column("unrevoked_number", Int64),
    Column("is_revoke_last", Boolean, nullable=False),
)
"""What changes at nearly every step; ``unrevoked_number`` says whether that table's row counts."""

local_commitments = Table(
    "local_commitments",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("number", Int64, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("htlc_signatures", LargeBinary, nullable=False),
    Column("current_point", LargeBinary, nullable=False),
    Column("next_point", LargeBinary, nullable=False),
)
"""Our commitment that we could publish now; HTLC signatures of 64 bytes each, in output order."""

unrevoked_commitments = Table(
    "unrevoked_commitments",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("number", Int64, nullable=False),
    Column("messages", LargeBinary, nullable=False),
)
"""The last batch that we signed, as sent: each message after its length in 4 bytes."""

shachains = Table(
    "shachains",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("bucket", SmallInteger, primary_key=True, autoincrement=False),
    Column("secret_index", Int64, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""The peer's per-commitment secrets (BOLT 3 § Efficient Per-commitment Secret Storage)."""

htlcs = Table(
    "htlcs",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("offered", Boolean, primary_key=True, autoincrement=False),
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("amount_msat", Int64, nullable=False),
    Column("payment_hash", LargeBinary, nullable=False),
    Column("cltv_expiry", Int64, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("remote_first", Int64),
    Column("remote_last", Int64),
    Column("resolution", Text),
    Column("resolution_data", LargeBinary),
    Column("failure_code", Integer),
    Column("origin", Text),
    Column("path_key", LargeBinary),
    Column("onion_routing_packet", LargeBinary, nullable=False),
)
"""HTLCs of open channels that are not gone from both sides."""

settled_htlcs = Table(
    "settled_htlcs",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("remote_last", Int64, primary_key=True, autoincrement=False),
    Column("offered", Boolean, primary_key=True, autoincrement=False),
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("remote_first", Int64, nullable=False),
    Column("amount_msat", Int64, nullable=False),
    Column("payment_hash", LargeBinary, nullable=False),
    Column("cltv_expiry", Int64, nullable=False),
    sqlite_with_rowid=False,
)
"""HTLCs that are gone, as a revoked remote commitment may show them (BOLT 5's penalties).

Those of commitment n: ``remote_first <= n <= remote_last``. The key makes them an append at the end
of each channel's range, and that question a range.
"""

# --- peers ----------------------------------------------------------------------------------------

peers = Table(
    "peers",
    metadata,
    Column("node_id", LargeBinary, primary_key=True),
    Column("addresses", Text, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("last_seen", Int64, nullable=False),
    Column("storage", LargeBinary),
)
"""Where to reach peers again; ``storage`` is the blob that we keep for them (BOLT 1)."""

# --- payments -------------------------------------------------------------------------------------

invoices = Table(
    "invoices",
    metadata,
    Column("payment_hash", LargeBinary, primary_key=True),
    Column("preimage", LargeBinary, nullable=False),
    Column("payment_secret", LargeBinary, nullable=False),
    Column("bolt11", Text, nullable=False),
    Column("amount_msat", Int64),
    Column("description", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("expiry_s", Int64, nullable=False),
    Column("state", Text, nullable=False),
    Column("received_msat", Int64, nullable=False),
    Column("paid_at", Int64),
    Column("kind", Text, nullable=False, server_default="bolt11"),
)
"""Our invoices."""
Index("ix_invoices_state_created_at", invoices.c.state, invoices.c.created_at)
Index("ix_invoices_created_at", invoices.c.created_at)

received_htlcs = Table(
    "received_htlcs",
    metadata,
    Column("payment_hash", LargeBinary, primary_key=True),
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("amount_msat", Int64, nullable=False),
    Column("received_at", Int64, nullable=False),
    sqlite_with_rowid=False,
)
"""The HTLCs that paid an invoice."""

payments = Table(
    "payments",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("parent", LargeBinary),
    Column("external_id", Text),
    Column("payment_hash", LargeBinary, nullable=False),
    Column("amount_msat", Int64, nullable=False),
    Column("recipient", LargeBinary, nullable=False),
    Column("bolt11", Text),
    Column("state", Text, nullable=False),
    Column("preimage", LargeBinary),
    Column("fees_msat", Int64, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("completed_at", Int64),
    Column("failures", Text, nullable=False),
)
"""What we were asked to pay."""
LIVE_PAYMENT = "parent IS NULL AND state <> 'failed'"
Index(
    "uq_payments_live_payment_hash",
    payments.c.payment_hash,
    unique=True,
    sqlite_where=text(LIVE_PAYMENT),
    postgresql_where=text(LIVE_PAYMENT),
)
Index("ix_payments_payment_hash", payments.c.payment_hash)
Index("ix_payments_created_at", payments.c.created_at)
Index(
    "ix_payments_pending",
    payments.c.id,
    sqlite_where=text("state = 'pending'"),
    postgresql_where=text("state = 'pending'"),
)
Index(
    "ix_payments_external_id",
    payments.c.external_id,
    sqlite_where=text("external_id IS NOT NULL"),
    postgresql_where=text("external_id IS NOT NULL"),
)
Index(
    "ix_payments_parent",
    payments.c.parent,
    sqlite_where=text("parent IS NOT NULL"),
    postgresql_where=text("parent IS NOT NULL"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("payment_id", LargeBinary, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("key_index", Int64),
    Column("htlc_id", Int64),
    Column("amount_msat", Int64, nullable=False),
    Column("fees_msat", Int64, nullable=False),
    Column("route", Text, nullable=False),
    Column("shared_secrets", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("completed_at", Int64),
    Column("failure", Text),
)
"""Ways on which a payment was tried; ``shared_secrets`` open the error onions that come back."""

# --- forwards -------------------------------------------------------------------------------------

forwards = Table(
    "forwards",
    metadata,
    Column("in_key_index", Int64, primary_key=True, autoincrement=False),
    Column("in_htlc_id", Int64, primary_key=True, autoincrement=False),
    Column("out_key_index", Int64, nullable=False),
    Column("out_htlc_id", Int64, nullable=False),
    Column("payment_hash", LargeBinary, nullable=False),
    Column("in_amount_msat", Int64, nullable=False),
    Column("out_amount_msat", Int64, nullable=False),
    Column("created_at_ms", Int64, nullable=False),
    Column("state", Text, nullable=False),
    Column("preimage", LargeBinary),
    Column("reason", LargeBinary),
    Column("failure_code", Integer),
    Column("completed_at_ms", Int64),
    Column("is_noted", Boolean, nullable=False),
)
"""HTLCs that we forwarded: see :mod:`back.storage.forwards`."""
Index(
    "ix_forwards_open",
    forwards.c.in_key_index,
    forwards.c.in_htlc_id,
    sqlite_where=text("NOT is_noted"),
    postgresql_where=text("NOT is_noted"),
)

# --- the books ------------------------------------------------------------------------------------

Index(
    "ix_payments_sent",
    payments.c.completed_at,
    payments.c.id,
    sqlite_where=text("state = 'sent'"),
    postgresql_where=text("state = 'sent'"),
)
Index(
    "ix_invoices_paid",
    invoices.c.paid_at,
    invoices.c.payment_hash,
    sqlite_where=text("paid_at IS NOT NULL"),
    postgresql_where=text("paid_at IS NOT NULL"),
)
Index(
    "ix_forwards_fulfilled",
    forwards.c.completed_at_ms,
    forwards.c.in_key_index,
    forwards.c.in_htlc_id,
    sqlite_where=text("state = 'fulfilled'"),
    postgresql_where=text("state = 'fulfilled'"),
)

# --- what others are told -------------------------------------------------------------------------

own_updates = Table(
    "own_updates",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("raw", LargeBinary, nullable=False),
    Column("former", Text, nullable=False, server_default="[]"),
)
"""Our last `channel_update` of each channel, encoded: its timestamp must never come twice.

``former`` is what updates before it promised and HTLCs may still meet: a JSON array, the newest
first, of [replaced at (unix seconds), fee_base_msat, fee_proportional_millionths,
cltv_expiry_delta, htlc_minimum_msat, htlc_maximum_msat]. In the same row, so that no commit has the
one without the other.
"""

own_node = Table(
    "own_node",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("raw", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""Our last `node_announcement`, encoded; at most one row."""

peer_fees = Table(
    "peer_fees",
    metadata,
    Column("node_id", LargeBinary, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("fee_base_msat", Int64, nullable=False),
    Column("fee_proportional_millionths", Int64, nullable=False),
    Column("cltv_expiry_delta", Integer),
    Column("changed_at", Int64, nullable=False),
)
"""What the operator wants for forwarding to a peer, with channels or not yet; NULL: as always."""

channel_fees = Table(
    "channel_fees",
    metadata,
    Column("key_index", Int64, primary_key=True, autoincrement=False),
    Column("fee_base_msat", Int64, nullable=False),
    Column("fee_proportional_millionths", Int64, nullable=False),
    Column("cltv_expiry_delta", Integer),
    Column("changed_at", Int64, nullable=False),
)
"""What the operator wants for forwarding into one channel, whatever its peer has."""

offers = Table(
    "offers",
    metadata,
    Column("offer_id", LargeBinary, primary_key=True),
    Column("offer", Text, nullable=False),
    Column("path_id", LargeBinary),
    Column("created_at", Int64, nullable=False),
    Column("disabled_at", Int64),
)
"""Our offers (BOLT 12); times are unix milliseconds. ``path_id`` is NULL where the offer shows our
node id."""

offer_invoices = Table(
    "offer_invoices",
    metadata,
    Column("payment_hash", LargeBinary, primary_key=True),
    Column("offer_id", LargeBinary, nullable=False),
    Column("expires_at", Int64, nullable=False),
    Index(None, "expires_at"),
)
"""Invoices that were made for offers because somebody asked: rows that nobody paid are forgotten
some time after they expired."""

outbox = Table(
    "outbox",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("topic", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    sqlite_autoincrement=True,
)
"""Events to publish, each deleted once the stream has it. Its id is the event's number for ever."""
