"""Paths of our invoices, and what is left of others' paths that begin at us."""

import secrets
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from support.channels import opened
from support.offers import ISSUER, PAYER, offer, request, signed_invoice

from back.channel.model import Channel, Funding, Link, Phase
from back.offers.entrances import MAX_ENTRANCES, Wanted, payment_paths
from back.offers.payable import Guide, _without, order_of
from back.payment.receive import MIN_FINAL_CLTV_EXPIRY_DELTA
from back.payment.recipient import BlindedRecipient
from shared.chain import REGTEST, Outpoint
from shared.crypto.blinding import blind
from shared.crypto.recipient_data import (
    Opened,
    PaymentRelay,
    RecipientData,
    encode_padded,
    open_recipient_data,
    payinfo,
)
from shared.crypto.signature import public_key
from shared.errors import CommandError
from shared.wire import ChannelUpdate, encode
from shared.wire.onion import BlindedPath, BlindedPayinfo

US = b"\x51" * 32
HEIGHT = 1_000
PATH_ID = b"p" * 32


def update(scid: int, **more: Any) -> bytes:
    told = ChannelUpdate(
        signature=bytes(64),
        chain_hash=REGTEST.chain_hash,
        short_channel_id=scid,
        timestamp=1,
        message_flags=1,
        channel_flags=0,
        cltv_expiry_delta=40,
        htlc_minimum_msat=1_000,
        fee_base_msat=1_000,
        fee_proportional_millionths=100,
        htlc_maximum_msat=500_000_000,
    )
    return encode(told.model_copy(update=more))


def channel(number: int, peer: bytes, **more: Any) -> Channel:
    """One of ours with a peer whose private key this is."""
    end = opened()[1]
    scid = number << 40
    funding = Funding(
        Outpoint(bytes([number]) * 32, 0),
        is_published=True,
        confirmed_height=100,
        short_channel_id=scid,
    )
    parameters = replace(end.parameters, node_id=public_key(peer), key_index=number)
    values = {
        "channel_id": bytes([number]) * 32,
        "parameters": parameters,
        "funding": funding,
        "remote_channel_update": update(scid),
        **more,
    }
    return replace(end, **values)


def wanted(*, is_hidden: bool = False, amount_msat: int = 1_000_000) -> Wanted:
    return Wanted(amount_msat, PATH_ID, is_hidden, HEIGHT, 7200)


def paths(channels: list[Channel], want: Wanted) -> list[tuple[BlindedPath, BlindedPayinfo]]:
    return payment_paths(channels, public_key(US), want, secrets.token_bytes)


def walked(path: BlindedPath, *keys: bytes) -> list[RecipientData]:
    """What each hop of a path reads."""
    read, path_key = [], path.first_path_key
    for key, hop in zip(keys, path.path, strict=True):
        opened_hop = open_recipient_data(key, path_key, hop.encrypted_recipient_data)
        read.append(opened_hop.data)
        path_key = opened_hop.next_path_key
    return read


def test_a_node_that_all_know_is_its_own_entrance() -> None:
    known = channel(1, PAYER, channel_announcement=b"known")
    ((path, terms),) = paths([known, channel(2, ISSUER)], wanted())
    assert path.first_node_id == public_key(US)
    (ours,) = walked(path, US)
    assert ours.path_id == PATH_ID
    assert (terms.fee_base_msat, terms.cltv_expiry_delta) == (0, MIN_FINAL_CLTV_EXPIRY_DELTA)


@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_peer_is_the_entrance_of_who_hides_or_is_not_known(is_hidden: bool) -> None:
    known = b"known" if is_hidden else None
    entrance = channel(1, PAYER, channel_announcement=known)
    ((path, terms),) = paths([entrance], wanted(is_hidden=is_hidden))
    assert path.first_node_id == public_key(PAYER)
    theirs, ours = walked(path, PAYER, US)
    assert theirs.short_channel_id == 1 << 40
    assert theirs.payment_relay == PaymentRelay(
        cltv_expiry_delta=40, fee_proportional_millionths=100, fee_base_msat=1_000
    )
    assert ours.path_id == PATH_ID
    assert theirs.payment_constraints is not None
    assert ours.payment_constraints is not None
    assert ours.payment_constraints.max_cltv_expiry > HEIGHT + 2016
    assert theirs.payment_constraints.max_cltv_expiry == (
        ours.payment_constraints.max_cltv_expiry + 40
    )
    assert (terms.fee_base_msat, terms.fee_proportional_millionths) == (1_000, 100)
    assert terms.cltv_expiry_delta == 40 + MIN_FINAL_CLTV_EXPIRY_DELTA
    assert (terms.htlc_minimum_msat, terms.htlc_maximum_msat) == (1_000, 500_000_000)
    # Its length does not tell which hop is the last.
    first, last = path.path
    assert len(first.encrypted_recipient_data) == len(last.encrypted_recipient_data)


def test_the_peer_reads_the_name_that_it_gave_the_channel() -> None:
    ((path, _),) = paths([channel(1, PAYER, remote_alias=77)], wanted())
    assert walked(path, PAYER, US)[0].short_channel_id == 77


def test_a_channel_that_takes_nothing_is_no_entrance() -> None:
    useless = [
        channel(1, PAYER, link=Link.OFFLINE),
        channel(2, PAYER, phase=Phase.SHUTDOWN),
        channel(3, PAYER, remote_channel_update=None),
        channel(4, PAYER, remote_msat=0),
    ]
    assert paths(useless, wanted()) == []


def test_entrances_are_of_different_peers_and_large_enough_first() -> None:
    keys = [bytes([n]) * 32 for n in (0x61, 0x62, 0x63, 0x64)]
    channels = [
        channel(1, keys[0], remote_msat=900_000_000),
        channel(2, keys[0], remote_msat=800_000_000),
        channel(3, keys[1], remote_msat=700_000_000),
        channel(4, keys[2], remote_msat=100_000_000),
        channel(5, keys[3], remote_msat=90_000_000),
    ]
    found = paths(channels, wanted(amount_msat=200_000_000))
    assert len(found) == MAX_ENTRANCES
    firsts = [path.first_node_id for path, _ in found]
    assert firsts == [public_key(keys[0]), public_key(keys[1]), public_key(keys[2])]


# --- what is paid ---------------------------------------------------------------------------------


class Keys:
    """Our node key."""

    def open_recipient_data(self, path_key: bytes, encrypted: bytes) -> Opened:
        return open_recipient_data(US, path_key, encrypted)


RELAY = PaymentRelay(cltv_expiry_delta=40, fee_proportional_millionths=100, fee_base_msat=1_000)


def named(first_node_id: bytes) -> bytes:
    if len(first_node_id) != 33:
        raise CommandError("not known")
    return first_node_id


GUIDE = Guide(public_key(US), Keys(), named, {5: public_key(PAYER)}.get)


def path_of(*hops: tuple[bytes, RecipientData]) -> BlindedPath:
    data = encode_padded([each for _, each in hops])
    return blind(b"\x19" * 32, [(public_key(k), d) for (k, _), d in zip(hops, data, strict=True)])


def terms_of(*relays: PaymentRelay, delta: int = 30) -> BlindedPayinfo:
    return payinfo(
        list(relays),
        min_final_cltv_expiry_delta=delta,
        htlc_minimum_msat=1,
        htlc_maximum_msat=10**12,
    )


def ordered(*found: tuple[BlindedPath, BlindedPayinfo]) -> BlindedRecipient:
    invoice = signed_invoice(
        request(offer()),
        invoice_paths=[path for path, _ in found],
        invoice_blindedpay=[terms for _, terms in found],
    )
    wanted_order = order_of(invoice, GUIDE)
    assert wanted_order.amount_msat == 10_000
    assert isinstance(wanted_order.recipient, BlindedRecipient)
    return wanted_order.recipient


LAST = RecipientData(path_id=PATH_ID)


def test_a_path_that_begins_at_us_is_paid_from_behind_us() -> None:
    through_us = RecipientData(short_channel_id=5, payment_relay=RELAY)
    path = path_of((US, through_us), (PAYER, LAST))
    (left,) = ordered((path, terms_of(RELAY))).paths
    assert left.first_node_id == left.path.first_node_id == public_key(PAYER)
    assert (left.fee_base_msat, left.fee_proportional_millionths) == (0, 0)
    assert left.cltv_expiry_delta == 30
    assert walked(left.path, PAYER)[0].path_id == PATH_ID


def test_a_path_may_name_the_node_behind_us() -> None:
    through_us = RecipientData(next_node_id=public_key(PAYER), payment_relay=RELAY)
    onward = RecipientData(short_channel_id=9, payment_relay=RELAY)
    path = path_of((US, through_us), (PAYER, onward), (ISSUER, LAST))
    (left,) = ordered((path, terms_of(RELAY, RELAY))).paths
    assert left.first_node_id == public_key(PAYER)
    assert left.fee_base_msat >= 1_000
    assert left.cltv_expiry_delta == 70


def test_paths_that_cannot_be_used_are_left_out() -> None:
    good = path_of((PAYER, LAST))
    unknown = good.model_copy(update={"first_node_id": b"\0" + bytes(8)})
    bad = [
        (path_of((US, LAST)), terms_of()),
        (path_of((US, RecipientData(short_channel_id=6, payment_relay=RELAY)), (PAYER, LAST)),
         terms_of(RELAY)),
        (path_of((US, RecipientData(short_channel_id=5)), (PAYER, LAST)), terms_of()),
        (good.model_copy(update={"first_node_id": public_key(US)}), terms_of()),
        (good, terms_of(delta=2015)),
        (unknown, terms_of()),
    ]  # fmt: skip
    assert len(ordered(*bad, (good, terms_of())).paths) == 1
    with pytest.raises(CommandError, match="no path of the invoice"):
        ordered(*bad)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            PaymentRelay,
            cltv_expiry_delta=st.integers(0, 300),
            fee_proportional_millionths=st.integers(0, 50_000),
            fee_base_msat=st.integers(0, 20_000),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 10**11),
)
def test_who_is_behind_us_gets_enough_and_no_more_than_a_few_msat(
    relays: list[PaymentRelay], amount_msat: int
) -> None:
    left = _without(terms_of(*relays), relays[0])
    sent = amount_msat + left.fee_base_msat
    sent += -(-amount_msat * left.fee_proportional_millionths // 1_000_000)
    arrives = sent
    for relay in relays[1:]:
        arrives = relay.amt_to_forward_msat(arrives)
    assert arrives >= amount_msat
    assert arrives <= amount_msat + 10 + amount_msat * 6 * len(relays) // 1_000_000
    assert left.cltv_expiry_delta == 30 + sum(r.cltv_expiry_delta for r in relays[1:])
