"""Going on after a reconnection (BOLT 2 § Message Retransmission).

What is sent again is the stored batch and the very same revocation, in the order in which they went
out first: one commitment number never has two contents.
"""

from dataclasses import replace

from back.channel import closing, fees, funding, htlc
from back.channel.effects import ChannelReady, Effect, RevokeLocalCommitment, Send
from back.channel.events import Connected
from back.channel.model import AnnouncementTurn, Channel, Link, Phase
from back.channel.rules import Step, moved
from back.channel.spec import signed_number
from shared.crypto.shachain import index_of
from shared.errors import Action, InvariantError, ProtocolViolation
from shared.wire import ChannelReestablish, Error, decode, encode

__all__ = ["channel_reestablish", "channel_reestablish_message", "connected", "disconnected"]

BOLT = "BOLT 2 § channel_reestablish"

NOTHING_TO_SAY = (*funding.UNFUNDED, Phase.CLOSED)
LOST = Phase.WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT


# --- the connection comes and goes ------------------------------------------------------------


def disconnected(channel: Channel) -> Step:
    """Forget what a connection held: updates of the peer that it did not sign, our queue."""
    channel = replace(
        htlc.forget_uncommitted(channel), link=Link.OFFLINE, features=frozenset(), batch=None
    )
    return htlc.refuse_all(channel, "the peer went away") if channel.queue else Step(channel)


def connected(channel: Channel, event: Connected) -> Step:
    """Say where we stand, and wait for the same from the peer."""
    if channel.phase in NOTHING_TO_SAY:
        return Step(replace(channel, features=event.features))
    step = disconnected(channel)
    is_complete = channel.channel_announcement is not None
    channel = replace(
        step.channel,
        features=event.features,
        link=Link.SYNCING,
        announcement_turn=AnnouncementTurn.KEPT if is_complete else AnnouncementTurn.OWED,
    )
    effects: list[Effect] = list(step.effects)
    if channel.sent_error is None or channel.phase is LOST:
        # Some peers publish their commitment only when they see how far behind we are.
        effects.append(Send(channel_reestablish_message(channel)))
    if channel.sent_error is not None:
        effects.append(Send(_stored_error(channel.sent_error)))
    return Step(channel, tuple(effects))


def _stored_error(data: bytes) -> Error:
    error = decode(data)
    if not isinstance(error, Error):
        raise InvariantError("sent_error does not hold an error")
    return error


def channel_reestablish_message(channel: Channel) -> ChannelReestablish:
    """What we have and what we expect."""
    revoked = channel.remote_commitment.number
    secret: bytes | None = bytes(32)
    if revoked > 0:
        secret = channel.remote_secrets.get(index_of(revoked - 1))
    if secret is None:
        raise InvariantError(f"the secret of remote commitment {revoked - 1} is missing")
    return ChannelReestablish(
        channel_id=channel.channel_id,
        next_commitment_number=channel.local_commitment.number + 1,
        next_revocation_number=revoked,
        your_last_per_commitment_secret=secret,
        my_current_per_commitment_point=channel.local_commitment.current_point,
    )


# --- what the peer has ---------------------------------------------------------------------------


def channel_reestablish(
    channel: Channel, message: ChannelReestablish, is_secret_ours: bool | None
) -> Step:
    """Compare where both sides stand, send again what is missing, go on.

    Args:
        channel: with link SYNCING.
        message: the peer's.
        is_secret_ours: the signer's word, see :class:`events.Received`.

    Raises:
        ProtocolViolation: FAIL_CHANNEL: the peer is behind, or lies.
    """
    if channel.link is not Link.SYNCING:
        raise ProtocolViolation("channel_reestablish in the middle of a connection", bolt=BOLT)
    if channel.phase is Phase.CLOSING:
        return _closing_again(replace(channel, link=Link.ONLINE))
    if _have_we_lost_data(channel, message, is_secret_ours):
        return _wait_for_the_peer(channel, message)
    _check_numbers(channel, message)
    channel = replace(channel, link=Link.ONLINE)
    effects = [*_channel_ready(channel, message), *_again(channel, message)]
    effects.extend(_closing_again(channel).effects)
    if channel.phase is Phase.NORMAL:
        effects.append(ChannelReady(channel.channel_id))
    return Step(fees.with_target(channel), tuple(effects)).then(closing.reconnected)


def _closing_again(channel: Channel) -> Step:
    """A shutdown is sent again in every connection (BOLT 2); the rest of a close is on chain."""
    if not channel.is_shutdown_sent:
        return Step(channel)
    return Step(channel, (Send(closing.shutdown_message(channel)),))


def _have_we_lost_data(
    channel: Channel, message: ChannelReestablish, is_secret_ours: bool | None
) -> bool:
    """Whether the peer proves that we revoked a commitment that we believe to be current."""
    if message.next_revocation_number == 0:
        return False
    if is_secret_ours is None:
        raise InvariantError("a channel_reestablish was not prepared: see machine.prepare")
    if not is_secret_ours:
        raise _failure("your_last_per_commitment_secret is not ours")
    return message.next_revocation_number > channel.local_commitment.number


def _wait_for_the_peer(channel: Channel, message: ChannelReestablish) -> Step:
    """We lost data: our commitment is revoked, publishing it would lose everything (BOLT 2)."""
    reason = (
        f"we lost data: you hold the revocation of our commitment"
        f" {message.next_revocation_number - 1}, we are at {channel.local_commitment.number};"
        " please publish your commitment"
    )
    error = Error(channel_id=channel.channel_id, data=reason.encode())
    step = moved(replace(channel, sent_error=encode(error)), LOST, Send(error), reason=reason)
    return htlc.refuse_all(step.channel, reason).then(lambda now: replace(step, channel=now))


def _check_numbers(channel: Channel, message: ChannelReestablish) -> None:
    signed, ours = signed_number(channel), channel.local_commitment.number
    theirs = message.next_commitment_number
    expected = {signed + 1} if channel.unrevoked is None else {signed, signed + 1}
    if theirs not in expected:
        raise _failure(f"next_commitment_number is {theirs}, we signed commitment {signed} last")
    revocation = message.next_revocation_number
    if revocation not in {ours, ours - 1}:
        raise _failure(f"next_revocation_number is {revocation}, our commitment is {ours}")


def _failure(why: str) -> ProtocolViolation:
    return ProtocolViolation(why, bolt=BOLT, action=Action.FAIL_CHANNEL)


# --- what is sent again --------------------------------------------------------------------------


def _channel_ready(channel: Channel, message: ChannelReestablish) -> tuple[Effect, ...]:
    is_fresh = message.next_commitment_number == 1 and channel.local_commitment.number == 0
    if not is_fresh or not channel.is_channel_ready_sent:
        return ()
    return (Send(funding.channel_ready_message(channel)),)


def _again(channel: Channel, message: ChannelReestablish) -> list[Effect]:
    """The revocation and the batch that the peer misses, in the order of old."""
    revocation: list[Effect] = []
    if message.next_revocation_number == channel.local_commitment.number - 1:
        revocation.append(RevokeLocalCommitment(message.next_revocation_number))
    batch: list[Effect] = []
    unrevoked = channel.unrevoked
    if unrevoked is not None and message.next_commitment_number == unrevoked.number:
        for data in unrevoked.messages:
            if (stored := decode(data)) is None:
                raise InvariantError("a stored message cannot be read")
            batch.append(Send(stored))
    return batch + revocation if channel.is_revoke_last else revocation + batch
