"""Channels that close cooperatively: two cores, and what each may sign."""

from dataclasses import replace
from typing import Any

from support.channels import End, opened, wired
from support.openings import FEATURES

from back.channel import closing
from back.channel.effects import CloseConnection
from back.channel.events import Close
from back.channel.model import Phase
from back.transactions.closing import closing_variants
from shared.crypto.signature import sign_compact
from shared.wire import ClosingSigned, FeeRange, Shutdown

SCRIPT = b"\0\x14" + b"\x11" * 20
TAPROOT = b"\x51\x20" + b"\x22" * 32


def pair(**options: Any) -> tuple[End, End]:
    """An open channel with all features; its commitments were used once."""
    opener, fundee = wired(opened(**options))
    for end in (opener, fundee):
        end.channel = replace(end.channel, features=FEATURES, feerate_per_kw=1_000)
    return opener, fundee


def negotiating(**options: Any) -> tuple[End, End]:
    """Both shutdowns are exchanged; the opener's first closing_signed is on the wire."""
    opener, fundee = pair(**options)
    fundee.do(Close(fundee.channel.parameters.default_shutdown_script))
    opener.receive()
    fundee.receive(1)
    assert opener.channel.phase is fundee.channel.phase is Phase.NEGOTIATING
    return opener, fundee


def offer(end: End, fee_satoshis: int, fees: tuple[int, int] | None = None) -> ClosingSigned:
    """A valid closing_signed of an end for a fee, whatever its rules say."""
    unsigned = closing.transaction(end.channel, fee_satoshis)
    return ClosingSigned(
        channel_id=end.channel.channel_id,
        fee_satoshis=fee_satoshis,
        signature=sign_compact(end.keys.funding, unsigned.sighash),
        fee_range=None
        if fees is None
        else FeeRange(min_fee_satoshis=fees[0], max_fee_satoshis=fees[1]),
    )


def shutdown(end: End, script: bytes) -> Shutdown:
    return Shutdown(channel_id=end.channel.channel_id, scriptpubkey=script)


def warning_of(end: End) -> str:
    """What the peer was told before its connection was closed."""
    (closed,) = end.took(CloseConnection)
    assert isinstance(closed, CloseConnection)
    return closed.warning


def left_out(end: End, other: End, fee_satoshis: int) -> ClosingSigned:
    """The other's closing_signed for the transaction without the output of ``other``."""
    (_, variant) = closing_variants(closing.transaction(end.channel, fee_satoshis))
    signature = sign_compact(other.keys.funding, variant.sighash)
    return offer(other, fee_satoshis, (100, 900)).model_copy(update={"signature": signature})
