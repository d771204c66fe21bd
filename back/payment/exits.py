"""Our own channels as the first hop of payments: which can send, how much, and what is reserved."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from back.channel.model import Link, Phase
from back.payment import send
from back.payment.route import Hop, LocalChannel
from back.payment.send import Candidate

if TYPE_CHECKING:
    from back.channel.model import Channel
    from back.channels import Channels
    from back.runner import ChannelRunner

__all__ = ["Exit", "Exits"]

EXACT = 64
"""With more channels than this, what they can send is estimated: the channel itself refuses what
does not fit, and another one is tried."""


@dataclass(frozen=True, slots=True)
class Exit:
    """A channel with the payee itself."""

    channel: "Channel"

    def hop(self, node_id: bytes) -> Hop:
        """Return it as a route of one hop."""
        parameters = self.channel.parameters
        return Hop(node_id, parameters.node_id, send.name_of(self.channel))


@dataclass(slots=True)
class _Reserved:
    """What is on its way into a channel."""

    msat: int = 0
    count: int = 0


class Exits:
    """The channels by which payments leave.

    Args:
        channels: all of ours.
    """

    def __init__(self, channels: "Channels") -> None:
        self._channels = channels
        self._reserved: dict[int, _Reserved] = {}
        self._names: dict[int, int] = {}
        """Key indexes by our name of a channel, of the last look."""

    def reserve(self, key_index: int, msat: int, count: int) -> None:
        """Note an HTLC that is on its way into a channel, or (negative) is not any more."""
        reserved = self._reserved.setdefault(key_index, _Reserved())
        reserved.msat += msat
        reserved.count += count
        if reserved.count == 0:
            del self._reserved[key_index]

    def is_room_coming(self, msat: int, payee: bytes | None = None) -> bool:
        """Whether a channel, or all together, cannot send so much only for HTLCs of ours in it now.

        Args:
            msat: to be sent.
            payee: its own channels are all that count, where it is a peer of ours.
        """
        peer = None if payee is None else self._channels.peers.known.get(payee)
        runners = self._usable(peer.runners.values()) if peer is not None else []
        free_msat = coming_msat = 0
        for runner in runners or self._usable(self._channels.runners.values()):
            candidate = self._candidate(runner.channel)
            free = send.local_channel(candidate, is_exact=False).can_send_msat
            coming = free + candidate.reserved_msat
            coming += sum(h.amount_msat for h in runner.channel.htlcs.values() if h.offered)
            if free < msat <= coming:
                return True
            free_msat += free
            coming_msat += coming
        return free_msat < msat <= coming_msat

    def _candidate(self, channel: "Channel") -> Candidate:
        reserved = self._reserved.get(channel.parameters.key_index)
        if reserved is None:
            return Candidate(channel)
        return Candidate(channel, reserved.msat, reserved.count)

    def _usable(self, runners: "Collection[ChannelRunner]") -> "list[ChannelRunner]":
        return [
            runner
            for runner in runners
            if not runner.is_stopped
            and runner.channel.phase is Phase.NORMAL
            and runner.channel.link is Link.ONLINE
        ]

    def direct(
        self, node_id: bytes, amount_msat: int, ignored: Collection[tuple[int, bytes]]
    ) -> Exit | None:
        """Return the least busy channel with a peer that has room for an amount."""
        peer = self._channels.peers.known.get(node_id)
        if peer is None:
            return None
        names = {scid for scid, _ in ignored}
        candidates = [
            self._candidate(runner.channel)
            for runner in self._usable(peer.runners.values())
            if send.name_of(runner.channel) not in names
        ]
        channel = send.choose_channel(candidates, amount_msat)
        if channel is None:
            return None
        self._names[send.name_of(channel)] = channel.parameters.key_index
        return Exit(channel)

    def local(self, ignored: Collection[tuple[int, bytes]] = ()) -> tuple[LocalChannel, ...]:
        """Return every channel that can send now, as path-finding sees it."""
        names = {scid for scid, _ in ignored}
        usable = self._usable(self._channels.runners.values())
        is_exact = len(usable) <= EXACT
        self._names = {
            send.name_of(runner.channel): runner.channel.parameters.key_index for runner in usable
        }
        found = (
            send.local_channel(self._candidate(runner.channel), is_exact=is_exact)
            for runner in usable
            if send.name_of(runner.channel) not in names
        )
        return tuple(channel for channel in found if channel.can_send_msat > 0)

    def runner(self, short_channel_id: int) -> "ChannelRunner | None":
        """Return the channel that we call so."""
        key_index = self._names.get(short_channel_id)
        runner = None if key_index is None else self._channels.by_key_index(key_index)
        if runner is None:
            for each in self._channels.runners.values():
                if send.name_of(each.channel) == short_channel_id:
                    return each
        return runner
