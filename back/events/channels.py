"""Events of channels: what changed between two values of one.

A phase is told by the commit that makes it durable. That a peer came or went is no fact of the
database: it is told by a commit of its own, for which no channel waits.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from back.api.channel_json import state_of
from back.channel import onchain
from back.channel.effects import ChannelIdAssigned, PhaseChanged
from back.channel.model import Channel, Link, Phase
from back.events import facts
from back.transactions.transaction import parse_transaction

if TYPE_CHECKING:
    from back.channel.machine import Step
    from back.storage.statements import Write
    from shared.chain import Outpoint

__all__ = ["ChannelEvents"]

_OPENING = frozenset({Phase.WAIT_FOR_FUNDING_CONFIRMED, Phase.WAIT_FOR_CHANNEL_READY})


class ChannelEvents:
    """Says what is new of each channel, from its funding output on.

    Before that there is nothing to tell but that somebody asked: a stranger could fill the log.

    Args:
        clock: unix seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._told: dict[int, str] = {}
        """State that was told last, by key index."""

    def writes(self, before: Channel | None, step: "Step") -> "list[Write]":
        """Return the events of a step, for its commit. Nothing, for nearly every step."""
        after = step.channel
        if before is None or after.funding is None:
            return []
        is_moved = before.phase is not after.phase
        if not is_moved and before.funding is after.funding:
            return []
        return self._changed(before, step, is_moved=is_moved)

    def _changed(self, before: Channel, step: "Step", *, is_moved: bool) -> "list[Write]":
        after, unix_s = step.channel, int(self._clock())
        rows: list[Write] = []
        if before.funding is None:
            rows += _created(step, unix_s)
        rows += _confirmed(before, after, unix_s)
        if not is_moved:
            return rows
        if after.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED:
            rows.append(facts.channel_funding_created(*_named(after), unix_s))
        rows += self._states(before, step, unix_s)
        if after.phase is Phase.NORMAL and before.phase in _OPENING:
            channel_id, node_id, outpoint = _named(after)
            rows.append(facts.channel_ready(channel_id, node_id, outpoint, unix_s))
            rows.append(facts.channel_opened(channel_id, node_id, unix_s))
        if after.phase is Phase.CLOSED:
            self._told.pop(after.parameters.key_index, None)
            rows += _closed(after, unix_s)
        return rows

    def link_changed(self, channel: Channel) -> "list[Write]":
        """Return the event of a channel whose peer came or went."""
        if channel.funding is None or channel.phase is Phase.CLOSED:
            return []
        offline = state_of(replace(channel, link=Link.OFFLINE))
        return self._state(channel, offline, int(self._clock()))

    def _states(self, before: Channel, step: "Step", unix_s: int) -> "list[Write]":
        """Return every phase of a step: messages that came together may have gone through some."""
        rows: list[Write] = []
        previous = before
        for effect in step.effects:
            if isinstance(effect, PhaseChanged):
                channel = replace(step.channel, phase=effect.after)
                rows += self._state(channel, state_of(previous), unix_s)
                previous = channel
        return rows

    def _state(self, channel: Channel, previous: str, unix_s: int) -> "list[Write]":
        key, state = channel.parameters.key_index, state_of(channel)
        previous = self._told.get(key, previous)
        self._told[key] = state
        if state == previous:
            return []
        node_id = channel.parameters.node_id
        return [facts.channel_state_changed(channel.channel_id, node_id, previous, state, unix_s)]


def _named(channel: Channel) -> "tuple[bytes, bytes, Outpoint]":
    assert channel.funding is not None  # noqa: S101 - checked before
    return channel.channel_id, channel.parameters.node_id, channel.funding.outpoint


def _created(step: "Step", unix_s: int) -> "list[Write]":
    channel = step.channel
    feerate = channel.fees[0].feerate_per_kw if channel.fees else 0
    return [
        facts.channel_created(
            channel.parameters.node_id,
            effect.temporary_channel_id,
            is_opener=channel.parameters.is_opener,
            commitment_feerate_per_kw=feerate,
            funding_feerate_per_kw=None,
            unix_s=unix_s,
        )
        for effect in step.effects
        if isinstance(effect, ChannelIdAssigned)
    ]


def _confirmed(before: Channel, after: Channel, unix_s: int) -> "list[Write]":
    """A reorganisation may confirm a funding again, in another block: that is told too."""
    height = after.funding.confirmed_height if after.funding is not None else None
    known = before.funding.confirmed_height if before.funding is not None else None
    if height is None or height == known:
        return []
    return [facts.channel_confirmed(*_named(after), height, unix_s)]


def _closed(channel: Channel, unix_s: int) -> "list[Write]":
    if channel.funding is None or (txid := channel.funding.spent_by) is None:
        return []
    return [facts.channel_closed(channel.channel_id, _closing_type(channel, txid), txid, unix_s)]


def _closing_type(channel: Channel, txid: bytes) -> str:
    if onchain.is_mutual_close(channel, txid):
        return "MutualClose"
    local = channel.local_force_close
    if local and parse_transaction(local).txid == txid:
        return "LocalClose"
    return "CurrentRemoteClose"
