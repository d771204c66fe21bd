"""What the ends of a channel say to each other for BOLT 7: halves of its announcement, updates.

Our `announcement_signatures` go out once in a connection, when the funding is 6 deep and both
`channel_ready` are exchanged: until the peer's have arrived, and in answer to the peer's. Those of
the peer may come long before; they are kept, and looked at when ours can be made.
"""

from dataclasses import replace

from back.channel import commitments
from back.channel.effects import Effect, Send, SignAnnouncement
from back.channel.model import AnnouncementTurn, Channel, Phase
from back.channel.rules import Step, legal, printable
from back.channel.spec import remote_party
from shared.crypto.signature import verify_compact
from shared.errors import Action, InvariantError, ProtocolViolation
from shared.gossip.signed import digest, verify
from shared.units import ShortChannelId
from shared.wire import (
    AnnouncementSignatures,
    ChannelAnnouncement,
    ChannelUpdate,
    Warning as WarningMessage,
    decode,
    encode,
)

__all__ = [
    "announce_if_due",
    "announcement_signatures",
    "channel_update",
    "direction",
    "with_signatures",
]

UPDATE = "BOLT 7 § channel_update"
_UNSIGNED = bytes(64)


def direction(channel: Channel) -> int:
    """Return 0 where we are node_id_1 of the channel, the lesser id; otherwise 1."""
    return int(channel.policy.node_id > channel.parameters.node_id)


# --- the peer's update --------------------------------------------------------------------------


@legal(Phase, ChannelUpdate)
def channel_update(channel: Channel, message: ChannelUpdate) -> Step:
    """Keep the peer's own update of this channel; one of another channel changes nothing.

    Raises:
        ProtocolViolation: it is not signed by the peer; only a warning.
    """
    names = {channel.local_alias, channel.remote_alias}
    if channel.funding is not None:
        names.add(channel.funding.short_channel_id)
    if message.short_channel_id not in names - {None} or not _is_news(channel, message):
        return Step(channel)
    raw = encode(message)
    if not verify(raw, channel.parameters.node_id):
        why = "the signature of a channel_update is not valid"
        raise ProtocolViolation(why, bolt=UPDATE, action=Action.WARN)
    return Step(replace(channel, remote_channel_update=raw))


def _is_news(channel: Channel, message: ChannelUpdate) -> bool:
    is_ours = message.channel_flags & 1 == direction(channel)
    if is_ours or message.chain_hash != channel.policy.chain_hash:
        return False
    known = decode(channel.remote_channel_update) if channel.remote_channel_update else None
    return not isinstance(known, ChannelUpdate) or message.timestamp > known.timestamp


# --- the announcement ---------------------------------------------------------------------------


@legal(
    (
        Phase.WAIT_FOR_FUNDING_CONFIRMED,
        Phase.WAIT_FOR_CHANNEL_READY,
        Phase.NORMAL,
        Phase.SHUTDOWN,
        Phase.NEGOTIATING,
    ),
    AnnouncementSignatures,
)
def announcement_signatures(channel: Channel, message: AnnouncementSignatures) -> Step:
    """Keep the peer's half of the announcement, checked as soon as ours can be made; answer it.

    One about another place in the chain is kept too, with a warning: the peer may have heard of a
    reorg before us.
    """
    if not channel.parameters.announce:
        return Step(channel)
    ours = channel.funding.short_channel_id if channel.funding is not None else None
    effects: tuple[Effect, ...] = ()
    if ours not in {None, message.short_channel_id}:
        theirs = ShortChannelId.unpack(message.short_channel_id)
        effects = (_complaint(channel, f"{theirs} is not where this channel is"),)
    elif channel.announcement_turn is AnnouncementTurn.KEPT:
        channel = replace(channel, announcement_turn=AnnouncementTurn.OWED)
    if channel.channel_announcement is None or effects:
        channel = replace(channel, remote_announcement_signatures=encode(message))
    return Step(channel, effects)


def announce_if_due(channel: Channel) -> Step:
    """Send our half if it is time, and complete the announcement if both are there."""
    is_owed = channel.announcement_turn is AnnouncementTurn.OWED
    if not (is_owed or _is_half_there(channel)) or not _may_announce(channel):
        return Step(channel)
    half = _remote_half(channel)
    unsigned = _unsigned(channel)
    effects: list[Effect] = []
    if half is not None and (wrong := _wrong_signature(channel, unsigned, half)):
        effects.append(_complaint(channel, f"{wrong} is not valid"))
        channel = replace(channel, remote_announcement_signatures=None)
        half = None
    if is_owed or half is not None:
        theirs = None if half is None else (half.node_signature, half.bitcoin_signature)
        effects.append(SignAnnouncement(unsigned, is_owed, theirs))
    return Step(replace(channel, announcement_turn=AnnouncementTurn.SENT), tuple(effects))


def _is_half_there(channel: Channel) -> bool:
    return (
        channel.channel_announcement is None and channel.remote_announcement_signatures is not None
    )


def _may_announce(channel: Channel) -> bool:
    """Whether BOLT 7 lets us send announcement_signatures now."""
    funding = channel.funding
    return (
        channel.parameters.announce
        and channel.phase is Phase.NORMAL
        and not channel.is_shutdown_sent
        and commitments.is_online(channel)
        and funding is not None
        and funding.spent_by is None
        and funding.short_channel_id is not None
        and funding.deep_short_channel_id == funding.short_channel_id
    )


def _remote_half(channel: Channel) -> AnnouncementSignatures | None:
    """The peer's half that is still to be used: of the place where we see the funding."""
    if channel.remote_announcement_signatures is None or channel.channel_announcement is not None:
        return None
    half = decode(channel.remote_announcement_signatures)
    if not isinstance(half, AnnouncementSignatures):
        raise InvariantError("stored announcement_signatures cannot be read")
    is_here = channel.funding is not None and (
        half.short_channel_id == channel.funding.short_channel_id
    )
    return half if is_here else None


def _wrong_signature(
    channel: Channel, unsigned: ChannelAnnouncement, half: AnnouncementSignatures
) -> str:
    """Name the signature of the peer that is wrong; empty if both are right."""
    signed = digest(encode(unsigned))
    if not verify_compact(channel.parameters.node_id, signed, half.node_signature):
        return "node_signature"
    key = remote_party(channel).funding_pubkey
    is_valid = verify_compact(key, signed, half.bitcoin_signature)
    return "" if is_valid else "bitcoin_signature"


def _complaint(channel: Channel, why: str) -> Send:
    """Nothing of this is worth a connection, still less a channel."""
    data = printable(f"BOLT 7 § announcement_signatures: {why}")
    return Send(WarningMessage(channel_id=channel.channel_id, data=data))


def _unsigned(channel: Channel) -> ChannelAnnouncement:
    if channel.funding is None or channel.funding.short_channel_id is None:
        raise InvariantError("a channel is announced before its place is known")
    parameters = channel.parameters
    ours = channel.policy.node_id, parameters.local.funding_pubkey
    theirs = parameters.node_id, remote_party(channel).funding_pubkey
    first, second = (theirs, ours) if direction(channel) else (ours, theirs)
    return ChannelAnnouncement(
        node_signature_1=_UNSIGNED,
        node_signature_2=_UNSIGNED,
        bitcoin_signature_1=_UNSIGNED,
        bitcoin_signature_2=_UNSIGNED,
        # BOLT 9 knows no feature of a channel that others would have to know.
        features=b"",
        chain_hash=channel.policy.chain_hash,
        short_channel_id=channel.funding.short_channel_id,
        node_id_1=first[0],
        node_id_2=second[0],
        bitcoin_key_1=first[1],
        bitcoin_key_2=second[1],
    )


def with_signatures(
    unsigned: ChannelAnnouncement,
    channel: Channel,
    ours: tuple[bytes, bytes],
    theirs: tuple[bytes, bytes],
) -> ChannelAnnouncement:
    """Return the whole announcement; each side gives its node_signature and bitcoin_signature."""
    first, second = (theirs, ours) if direction(channel) else (ours, theirs)
    return unsigned.model_copy(
        update={
            "node_signature_1": first[0],
            "node_signature_2": second[0],
            "bitcoin_signature_1": first[1],
            "bitcoin_signature_2": second[1],
        }
    )
