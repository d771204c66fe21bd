"""What becomes of peers whose announcements are wrong: told, disconnected, not listened to."""

from typing import TYPE_CHECKING

import structlog

from shared.gossip.view import CHANNEL_UPDATE, direction_of, message_type

if TYPE_CHECKING:
    from front.gossip.intake.budget import Account, IntakeRules

__all__ = ["Offences"]

_BOLT = "BOLT 7"

log = structlog.get_logger()


class Offences:
    """Judges peers by what became of their announcements.

    The signatures of a channel's and of a node's announcement stand for themselves. An update's is
    held against the node ids of a channel as *we* know it, which may have been announced
    differently to the peer: so a few disputed channels are no offence.
    """

    def __init__(self, rules: "IntakeRules") -> None:
        self._rules = rules

    def invalid(self, account: "Account", raw: bytes, now: float) -> bool:
        """A signature is wrong: warn and disconnect; say whether the peer is muted from now on.

        A peer with channels is never disconnected, but not listened to after a while.
        """
        link = account.link
        if link is None:
            return False
        if message_type(raw) == CHANNEL_UPDATE and self._disputes(
            account, direction_of(raw)[0], now
        ):
            return False
        account.invalid += 1
        if account.invalid == 1 or not link.has_channels:
            text = "a signature of your gossip is wrong"
            link.offend(text, bolt=_BOLT, disconnect=not link.has_channels)
        return account.invalid >= self._rules.invalid_until_muted and self._mute(account, now)

    def refused(self, account: "Account", now: float) -> bool:
        """The chain does not have a channel; say whether the peer is muted from now on."""
        return not account.refused.take(now) and self._mute(account, now)

    def ignores(self, account: "Account", short_channel_id: int) -> bool:
        """Whether the peer has sent too many wrong updates of a channel."""
        return account.disputed.get(short_channel_id, 0) >= self._rules.disputed_updates

    def _disputes(self, account: "Account", short_channel_id: int, now: float) -> bool:
        if now >= account.disputed_until:
            account.disputed.clear()
            account.disputed_until = now + self._rules.disputed_s
        disputed = account.disputed
        times = disputed.get(short_channel_id, 0)
        if not times and len(disputed) >= self._rules.disputed_channels:
            return False
        disputed[short_channel_id] = times + 1
        if not times and account.link is not None:
            text = f"the signature of an update of {short_channel_id} is wrong"
            account.link.offend(text, bolt=_BOLT, disconnect=False)
        return True

    def _mute(self, account: "Account", now: float) -> bool:
        if account.muted_until > now:
            return False
        account.muted_until = now + self._rules.mute_s
        account.invalid = 0
        log.info("gossip_muted", peer=account.node_id.hex(), seconds=self._rules.mute_s)
        return True
