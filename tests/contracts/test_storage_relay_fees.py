"""Fees of peers and channels, and what was promised before, in both databases."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.channels import opened, stored
from support.databases import take_over

from back.channel.model import Channel, Phase
from back.relay.terms import ChannelTerms, Former
from back.storage import announcements, channels
from back.storage.announcements import SaidUpdate
from back.storage.database import Database
from back.storage.fence import FencedWriter
from back.storage.relay_fees import (
    SetFees,
    StoredFees,
    channel_fees_forgotten,
    channel_fees_set,
    load_fees,
    peer_fees_forgotten,
    peer_fees_set,
)
from back.storage.statements import Write, grouped
from back.storage.store import ALL_SHARDS
from shared.fabric.subjects import shard

HIGHEST = (1 << 32) - 1


class Books:
    """A database with one writer."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.writer = FencedWriter(database, take_over(database, shards=ALL_SHARDS))

    def write(self, *writes: Write) -> None:
        self.writer.commit(ALL_SHARDS, grouped([writes]))

    def fees(self, *shards: int) -> StoredFees:
        with self.database.snapshot() as connection:
            return load_fees(connection, shards or ALL_SHARDS)

    def updates(self) -> dict[int, SaidUpdate]:
        with self.database.snapshot() as connection:
            return announcements.load_updates(connection, ALL_SHARDS)


@pytest.fixture
def books(database: Database) -> Iterator[Books]:
    books = Books(database)
    yield books
    books.writer.close()


def a_channel(key_index: int) -> Channel:
    channel = stored(opened()[0])
    parameters = replace(channel.parameters, key_index=key_index)
    return replace(channel, parameters=parameters, channel_id=key_index.to_bytes(32, "big"))


def test_fees_of_peers_come_back_by_shard_and_may_be_forgotten(books: Books) -> None:
    one, other = b"\x02" * 33, b"\x03" + bytes(32)
    assert shard(one) != shard(other)
    books.write(
        peer_fees_set(one, SetFees(HIGHEST, HIGHEST, 2016), 1_700_000_000),
        peer_fees_set(other, SetFees(0, 0), 1_700_000_001),
    )
    of_one, of_other = SetFees(HIGHEST, HIGHEST, 2016), SetFees(0, 0, None)
    assert books.fees() == StoredFees({one: of_one, other: of_other}, {})
    assert books.fees(shard(one)) == StoredFees({one: of_one}, {})
    books.write(peer_fees_set(one, SetFees(1, 2), 1_700_000_002))
    assert books.fees(shard(one)).peers == {one: SetFees(1, 2, None)}
    books.write(peer_fees_forgotten(one), peer_fees_forgotten(one))
    assert books.fees().peers == {other: of_other}


def test_fees_of_channels_come_back_while_they_are_not_over(books: Books) -> None:
    here, gone = a_channel(1 << 61), a_channel(2)
    for channel in (here, gone):
        books.write(*channels.channel_writes(None, channel))
    books.write(
        channel_fees_set(1 << 61, SetFees(1, 2, 3), 4),
        channel_fees_set(2, SetFees(1, 2, 3), 4),
        channel_fees_set(2, SetFees(5, 6, 7), 8),
    )
    assert books.fees().channels == {1 << 61: SetFees(1, 2, 3), 2: SetFees(5, 6, 7)}
    books.write(*channels.channel_writes(gone, replace(gone, phase=Phase.CLOSED)))
    assert books.fees().channels == {1 << 61: SetFees(1, 2, 3)}
    assert books.fees((shard(here.parameters.node_id) + 1) % 64).channels == {}
    books.write(channel_fees_forgotten(1 << 61))
    assert books.fees().channels == {}


def test_former_terms_come_back_in_order_with_the_update_that_replaced_them(books: Books) -> None:
    books.write(*channels.channel_writes(None, a_channel(1)))
    terms = ChannelTerms(HIGHEST, HIGHEST, 2016, 1, (1 << 63) - 1)
    former = (
        Former(replace(terms, fee_base_msat=0), 1_700_000_002.25),
        Former(terms, 1_700_000_001.0),
    )
    books.write(announcements.update_said(1, b"second", former))
    assert books.updates() == {1: SaidUpdate(b"second", former)}
    books.write(announcements.update_said(1, b"third"))
    assert books.updates() == {1: SaidUpdate(b"third")}
