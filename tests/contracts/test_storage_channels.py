"""Channels in both databases: loaded as decided, and a step costs what it changed."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from types import MappingProxyType

import pytest
from support.channels import (
    POLICY,
    End,
    Keys,
    deliver_all,
    offered,
    opened,
    preimage,
    secret,
    stored,
    wired,
)
from support.databases import take_over

from back.channel.effects import Answer, Request, SignRemoteCommitment
from back.channel.model import (
    Channel,
    ClosingNegotiation,
    Failed,
    FeeState,
    FeeUpdate,
    Fulfilled,
    Funding,
    Htlc,
    HtlcState,
    LocalCommitment,
    Malformed,
    Phase,
    RemoteCommitment,
    UnrevokedCommitment,
)
from back.storage import announcements, blocks, channel_rows, channels
from back.storage.database import Database
from back.storage.fence import FencedWriter
from back.storage.statements import Write, grouped
from back.storage.store import ALL_SHARDS
from back.storage.tables import metadata
from shared.chain import Outpoint
from shared.crypto.shachain import ShachainStore, commitment_secret, index_of


class Rows:
    """A database that follows channels step by step."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.writer = FencedWriter(database, take_over(database, shards=ALL_SHARDS))

    def write(self, *writes: Write) -> None:
        self.writer.commit((0,), grouped([writes]))

    def follow(
        self, before: Channel | None, after: Channel, removed: Sequence[Htlc] = ()
    ) -> list[Write]:
        writes = channels.channel_writes(before, after, removed)
        self.write(*writes)
        return writes

    def load(self) -> list[Channel]:
        with self.database.snapshot() as connection:
            return channels.load_channels(connection, ALL_SHARDS, POLICY)

    def load_like(self, channel: Channel) -> Channel:
        """Load the one channel, with the memory-only fields that ``channel`` has."""
        (loaded,) = self.load()
        kept = {name: getattr(channel, name) for name in channel_rows.NOT_STORED}
        return replace(loaded, **kept)

    def count(self, table: str) -> int:
        with self.database.snapshot() as connection:
            return len(connection.execute(metadata.tables[table].select()).all())


@pytest.fixture
def rows(database: Database) -> Iterator[Rows]:
    rows = Rows(database)
    yield rows
    rows.writer.close()


def numbered(channel: Channel, key_index: int) -> Channel:
    return replace(channel, parameters=replace(channel.parameters, key_index=key_index))


def a_channel(**values: object) -> Channel:
    return replace(stored(numbered(opened()[0], 1 << 61)), **values)


HTLCS = (
    Htlc(True, 0, 1, bytes(32), 500, HtlcState.SENT_ADD_COMMIT, origin="p/1", remote_first=1),
    Htlc(
        False,
        0,
        (1 << 40),
        b"\xff" * 32,
        700_000,
        HtlcState.RCVD_ADD_ACK_REVOCATION,
        onion_routing_packet=bytes(range(256)) * 5,
        path_key=b"\x02" * 33,
        remote_first=1,
    ),
    Htlc(
        False,
        1,
        2,
        b"\1" * 32,
        501,
        HtlcState.SENT_REMOVE_COMMIT,
        resolution=Fulfilled(b"\2" * 32),
        remote_first=2,
        remote_last=7,
    ),
    Htlc(False, 2, 3, b"\3" * 32, 501, HtlcState.SENT_REMOVE_COMMIT, resolution=Failed(b"r" * 292)),
    Htlc(
        True,
        1,
        3,
        b"\3" * 32,
        501,
        HtlcState.RCVD_REMOVE_HTLC,
        resolution=Malformed(b"\4" * 32, 0xC005),
    ),
)


def secrets_up_to(number: int) -> ShachainStore:
    store = ShachainStore()
    for n in range(number):
        store = store.insert(index_of(n), commitment_secret(b"\7" * 32, n))
    return store


CHANGES: dict[str, object] = {
    "channel_id": b"\x55" * 32,
    "parameters": replace(numbered(opened()[0], 1 << 61).parameters, minimum_depth=9, remote=None),
    "phase": Phase.SHUTDOWN,
    "funding": Funding(Outpoint(b"\1" * 32, 65_535), b"raw", True, 800_000, 1 << 63, b"\2" * 32),
    "local_msat": 1,
    "remote_msat": 2_100_000_000_000_000_000,
    "htlcs": MappingProxyType({htlc.key: htlc for htlc in HTLCS}),
    "next_local_htlc_id": 7,
    "next_remote_htlc_id": 8,
    "fees": (FeeUpdate(1_000, FeeState.COMMITTED), FeeUpdate(37_500, FeeState.IN_BOTH)),
    "local_commitment": LocalCommitment(
        3, b"s" * 64, (b"a" * 64, b"b" * 64), b"\2" * 33, b"\3" * 33
    ),
    "remote_commitment": RemoteCommitment(4, b"\2" * 33, b""),
    "remote_secrets": secrets_up_to(9),
    "unrevoked": UnrevokedCommitment(5, (b"", b"update", b"x" * 70_000)),
    "is_revoke_last": True,
    "local_alias": (1 << 64) - 1,
    "remote_alias": 0,
    "is_channel_ready_sent": False,
    "is_channel_ready_received": False,
    "remote_announcement_signatures": b"\0\xff",
    "channel_announcement": b"\1\0",
    "remote_channel_update": b"update",
    "local_shutdown_script": b"\0\x14" + bytes(20),
    "remote_shutdown_script": b"",
    "is_shutdown_sent": True,
    "closing": ClosingNegotiation(1, 2, (3, 4), b"tx"),
    "closing_feerate_range_per_kw": (253, 1_000, 2_000),
    "sent_error": b"error",
    "received_error": b"their error",
    "local_force_close": b"commitment",
    "published": (b"\1" * 32, b"\2" * 32),
}
"""Every stored field, with a value that differs from the one of :func:`a_channel`."""


def test_every_field_of_a_channel_has_its_place_and_its_test() -> None:
    places = [
        *channel_rows.IDENTITY,
        *channel_rows.DETAILS,
        *channel_rows.STATE,
        *channel_rows.OWN_TABLES,
        *channel_rows.NOT_STORED,
    ]
    assert sorted(places) == sorted(field.name for field in fields(Channel))
    assert CHANGES.keys() == set(places) - set(channel_rows.NOT_STORED)
    assert all(getattr(a_channel(), name) != value for name, value in CHANGES.items())


def test_a_channel_with_everything_in_it_comes_back_equal(rows: Rows) -> None:
    full = a_channel(**CHANGES)
    rows.follow(None, full)
    assert rows.load_like(full) == full


def test_each_field_that_changes_is_written_there_and_back(rows: Rows) -> None:
    before = a_channel()
    rows.follow(None, before)
    for name in sorted(CHANGES, key="remote_secrets".__eq__):
        after = replace(before, **{name: CHANGES[name]})
        assert rows.follow(before, after), name
        assert rows.load_like(after) == after, name
        if name == "remote_secrets":
            return  # they are only ever added to: no way back
        assert rows.follow(after, before), name
        assert rows.load_like(before) == before, name


def test_what_is_not_stored_costs_nothing_and_comes_back_as_at_a_start(rows: Rows) -> None:
    before = a_channel()
    rows.follow(None, before)
    busy = opened()[0]
    after = replace(
        before,
        link=busy.link,
        queue=(offered("p/1", 1),),
        features=frozenset(),
        feerate_per_kw=77,
        height=before.height + 1,
    )
    assert rows.follow(before, after) == []
    rows.write(*blocks.connected(blocks.Block(123_456, bytes(32))))
    (loaded,) = rows.load()
    assert (loaded.link.value, loaded.queue, loaded.feerate_per_kw) == ("OFFLINE", (), 0)
    assert loaded.height == 123_456
    assert loaded.policy == POLICY


def test_only_channels_of_our_shards_that_are_not_over_are_loaded(rows: Rows) -> None:
    node_ids = [bytes([2]) + secret("node", n) + b"" for n in range(20)]
    made = [
        replace(
            stored(opened()[0]),
            parameters=replace(
                opened()[0].parameters, key_index=n, node_id=node_id, created_height=n
            ),
            channel_id=secret("channel", n),
        )
        for n, node_id in enumerate(node_ids)
    ]
    for channel in made:
        rows.follow(None, channel)
    over = [replace(channel, phase=Phase.CLOSED) for channel in made[:5]]
    for before, after in zip(made, over, strict=False):
        rows.follow(before, after)
    with rows.database.snapshot() as connection:
        halves = [
            channels.load_channels(connection, shards, POLICY)
            for shards in (range(32), range(32, 65))
        ]
        closed = channels.load_closed_channels(connection, POLICY)
        page = channels.load_closed_channels(connection, POLICY, limit=2, skip=1)
    ids = [channel.channel_id for half in halves for channel in half]
    assert sorted(ids) == sorted(channel.channel_id for channel in made[5:])
    assert all(halves), "the example is too small"
    assert [channel.channel_id for channel in closed] == [c.channel_id for c in over[::-1]]
    assert page == closed[1:3]


def test_a_channel_that_never_had_money_leaves_no_row(rows: Rows) -> None:
    opening = a_channel(phase=Phase.WAIT_FOR_FUNDING_CREATED, funding=None)
    rows.follow(None, opening)
    rows.follow(opening, replace(opening, phase=Phase.CLOSED))
    assert rows.load() == []
    names = ("channels", "channel_states", "local_commitments")
    assert [rows.count(name) for name in names] == [0, 0, 0]
    assert rows.follow(None, replace(opening, phase=Phase.CLOSED)) == []
    funding = Funding(Outpoint(bytes(32), 0))
    rows.follow(None, replace(opening, funding=funding))
    rows.follow(replace(opening, funding=funding), replace(opening, phase=Phase.CLOSED))
    assert rows.count("channels") == 0


@pytest.mark.parametrize(
    "seen", [{"is_published": True}, {"confirmed_height": 7}, {"spent_by": bytes(32)}]
)
def test_a_channel_whose_funding_was_seen_is_remembered(
    rows: Rows, seen: dict[str, object]
) -> None:
    waiting = a_channel(funding=replace(Funding(Outpoint(bytes(32), 0)), **seen))
    rows.follow(None, waiting)
    rows.follow(waiting, replace(waiting, phase=Phase.CLOSED))
    assert rows.load() == []
    assert rows.count("channels") == 1


def test_a_temporary_channel_id_may_be_that_of_another_peer(rows: Rows) -> None:
    first = a_channel(phase=Phase.WAIT_FOR_FUNDING_CREATED)
    other = replace(first.parameters, key_index=5, node_id=b"\x03" * 33)
    rows.follow(None, first)
    rows.follow(None, replace(first, parameters=other))
    assert len(rows.load()) == 2


class RecordingKeys(Keys):
    """A signer that notes what each remote commitment holds that it signs."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.signed: dict[int, set[tuple[bool, int, int, bytes, int]]] = {0: set()}

    def answer(self, request: Request) -> Answer:
        if isinstance(request, SignRemoteCommitment):
            self.signed[request.number] = {
                (not h.offered, h.id, h.amount_msat, h.payment_hash, h.cltv_expiry)
                for h in (each.htlc for each in request.commitment.htlc_transactions)
            }
        return super().answer(request)


class Followed:
    """Two wired ends whose every commit goes into a database."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.ends = wired(opened())
        self._before: dict[int, tuple[Channel, int]] = {}
        self.costs: list[int] = []
        for key_index, end in enumerate(self.ends):
            end.channel = numbered(end.channel, key_index)
            end.keys = RecordingKeys(end.keys.name)
            rows.follow(None, end.channel)
            self._before[key_index] = (end.channel, 0)
            end.on_commit = self._committed

    def _committed(self, end: End) -> None:
        key_index = end.channel.parameters.key_index
        before, settled = self._before[key_index]
        writes = self.rows.follow(before, end.channel, end.history[settled:])
        self.costs.append(len(writes))
        self._before[key_index] = (end.channel, len(end.history))

    def check(self) -> None:
        """What is stored is what both ends hold."""
        loaded = {channel.parameters.key_index: channel for channel in self.rows.load()}
        for key_index, end in enumerate(self.ends):
            kept = {name: getattr(end.channel, name) for name in ("height", "feerate_per_kw")}
            assert replace(loaded[key_index], **kept) == stored(
                replace(end.channel, features=frozenset())
            )

    def check_history(self) -> None:
        """Each remote commitment that was ever signed is known with its HTLCs."""
        with self.rows.database.snapshot() as connection:
            for key_index, end in enumerate(self.ends):
                assert isinstance(end.keys, RecordingKeys)
                for number, expected in end.keys.signed.items():
                    found = channels.remote_commitment_htlcs(connection, key_index, number)
                    assert {
                        (h.offered, h.id, h.amount_msat, h.payment_hash, h.cltv_expiry)
                        for h in found
                    } == expected, f"commitment {number} of end {key_index}"


def test_a_busy_channel_with_cuts_is_followed_row_by_row(rows: Rows) -> None:
    followed = Followed(rows)
    opener, fundee = followed.ends
    for turn in range(4):
        for n in range(3):
            opener.offer(f"{'pfm'[n]}/{turn}/{n}/a", 20_000_000 + n)
            fundee.offer(f"{'pfm'[n]}/{turn}/{n}/b", 10_000_000 + n)
        followed.check()
        opener.receive(turn + 1)
        fundee.receive(turn)
        followed.check()
        if turn == 1:
            opener.restart()
            opener.connect()
        elif turn == 2:
            fundee.cut()
            fundee.connect()
        deliver_all(opener, fundee)
        followed.check()
        for end in (opener, fundee):
            end.decide()
        followed.check()
        deliver_all(opener, fundee)
        followed.check()
        followed.check_history()
    assert len(opener.history) > 5
    assert rows.count("settled_htlcs") == len(opener.history) + len(fundee.history)
    assert len(opener.keys.signed) > 8


def test_a_step_costs_the_same_however_many_htlcs_are_pending(rows: Rows) -> None:
    followed = Followed(rows)
    opener, fundee = followed.ends

    def cost_of_one(name: str) -> list[int]:
        followed.costs.clear()
        opener.offer(name, 2_000_000)
        deliver_all(opener, fundee)
        return sorted(followed.costs)

    alone = cost_of_one("p/first")
    many = [offered(f"p/{n}", 2_000_000) for n in range(200)]
    opener.do(*many)
    deliver_all(opener, fundee)
    assert len(opener.channel.htlcs) == 201
    assert cost_of_one("p/last") == alone
    assert max(alone) <= 6
    followed.check()


def test_old_states_cost_a_secret_one_row(rows: Rows) -> None:
    before = a_channel(remote_secrets=secrets_up_to(200))
    rows.follow(None, before)
    more = before.remote_secrets.insert(index_of(200), commitment_secret(b"\7" * 32, 200))
    assert len(rows.follow(before, replace(before, remote_secrets=more))) == 1
    (loaded,) = rows.load()
    assert all(
        loaded.remote_secrets.get(index_of(n)) == commitment_secret(b"\7" * 32, n)
        for n in range(201)
    )


def test_no_secret_shows_in_a_write() -> None:
    htlc = replace(HTLCS[2], resolution=Fulfilled(preimage("p/1")))
    before = a_channel()
    after = replace(
        before,
        htlcs=MappingProxyType({htlc.key: htlc}),
        remote_secrets=secrets_up_to(1),
    )
    writes = channels.channel_writes(before, after)
    assert len(writes) == 2
    shown = repr(writes) + repr(grouped([writes]))
    assert repr(preimage("p/1"))[2:-1] not in shown
    assert repr(commitment_secret(b"\7" * 32, 0))[2:-1] not in shown


# --- our own announcements ------------------------------------------------------------------------


def test_our_last_announcements_come_back_for_channels_that_are_not_over(rows: Rows) -> None:
    closed = replace(numbered(a_channel(channel_id=b"c" * 32), 2), phase=Phase.CLOSED)
    rows.follow(None, numbered(a_channel(), 1))
    rows.follow(None, closed)
    rows.write(
        announcements.update_said(1, b"first"),
        announcements.update_said(2, b"of a closed one"),
        announcements.node_said(b"node"),
    )
    rows.write(announcements.update_said(1, b"second"), announcements.node_said(b"\0\xff"))
    with rows.database.snapshot() as connection:
        said = announcements.SaidUpdate(b"second")
        assert announcements.load_updates(connection, ALL_SHARDS) == {1: said}
        assert announcements.load_updates(connection, ()) == {}
        assert announcements.load_node(connection) == b"\0\xff"


def test_before_anything_is_announced_there_is_nothing(rows: Rows) -> None:
    with rows.database.snapshot() as connection:
        assert announcements.load_updates(connection, ALL_SHARDS) == {}
        assert announcements.load_node(connection) is None
