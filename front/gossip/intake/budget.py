"""How much peers may have announced: for each of them, and for all together. Pure."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from front.admission import TokenBucket
from front.gossip.intake.submitting import SubmitRules

if TYPE_CHECKING:
    from front.gossip.intake.pending import Item
    from front.gossip.link import Link

__all__ = ["Account", "Budget", "IntakeRules"]


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """Limits of what peers announce.

    Attributes:
        workers: processes that check signatures; 0: one per CPU, at most 4.
        peer_signatures_per_s: of one peer, in the long run.
        peer_signature_burst: of one peer at once: one whole network, and more.
        signatures_per_s: of all peers, in the long run.
        signature_burst: of all peers at once.
        peer_items: announcements of one peer that are not decided.
        items: of all peers. One peer may use twice of what is left of it, and so of `size`: so a
            newcomer always finds room.
        size: bytes of all those.
        peer_held: of one peer, whose channel nobody has announced.
        held: of all peers.
        hold_s: so long such a one is held.
        batch: signatures that a worker gets at once.
        invalid_until_muted: wrong signatures of a peer with channels, which we do not disconnect;
            after that many its gossip is ignored.
        mute_s: for so long.
        disputed_channels: channels of whose updates one peer may send wrongly signed ones within
            `disputed_s`, before that counts as invalid: whoever funded a channel can announce it
            with one pair of nodes to us and with another to that peer.
        disputed_updates: of one such channel; more are not looked at.
        disputed_s: for so long that is remembered.
        refused_per_s: channels of one peer that the chain does not have, in the long run.
        refused_burst: and at once; who is beyond is muted too.
        replaced_every_s: updates of one direction, or of one node, that are passed on in the long
            run; of others the newest waits for its turn.
        replaced_burst: and at once.
        memory: refused and invalid announcements that are remembered, half of it at least.
        memory_s: for at least so long.
        flush_s: verified announcements may wait so long for others.
        submit: how they are submitted.
    """

    workers: int = 0
    peer_signatures_per_s: float = 1_000.0
    peer_signature_burst: float = 500_000.0
    signatures_per_s: float = 20_000.0
    signature_burst: float = 2_000_000.0
    peer_items: int = 200_000
    items: int = 300_000
    size: int = 128 << 20
    peer_held: int = 2_000
    held: int = 20_000
    hold_s: float = 30.0
    batch: int = 128
    invalid_until_muted: int = 20
    mute_s: float = 600.0
    disputed_channels: int = 10
    disputed_updates: int = 20
    disputed_s: float = 3_600.0
    refused_per_s: float = 1.0
    refused_burst: float = 5_000.0
    replaced_every_s: float = 60.0
    replaced_burst: int = 10
    memory: int = 100_000
    memory_s: float = 600.0
    flush_s: float = 0.03
    submit: SubmitRules = field(default_factory=SubmitRules)


class Account:
    """What one connection has used of its budget; outlives it as long as something is undecided.

    Attributes:
        link: the connection; None when it has ended.
        node_id: of the peer.
        has_channels: whether it had channels with us when it ended.
    """

    __slots__ = (
        "disputed",
        "disputed_until",
        "had_channels",
        "held",
        "invalid",
        "items",
        "link",
        "muted_until",
        "node_id",
        "refused",
        "signatures",
        "size",
    )

    def __init__(self, link: "Link", rules: IntakeRules, now: float) -> None:
        self.link: Link | None = link
        self.node_id = link.node_id
        self.had_channels = False
        self.items = 0
        self.size = 0
        self.held = 0
        self.invalid = 0
        self.muted_until = 0.0
        self.disputed: dict[int, int] = {}
        self.disputed_until = 0.0
        self.signatures = TokenBucket(rules.peer_signatures_per_s, rules.peer_signature_burst, now)
        self.refused = TokenBucket(rules.refused_per_s, rules.refused_burst, now)

    @property
    def has_channels(self) -> bool:
        """Whether the peer has channels with us, or had some when it left."""
        return self.had_channels if self.link is None else self.link.has_channels

    def left(self) -> None:
        """The connection has ended."""
        self.had_channels = self.has_channels
        self.link = None


class Budget:
    """What is undecided in all, and whether there is room for more.

    Attributes:
        items: announcements.
        size: their bytes.
        strays: those of them that are held for a channel nobody has announced.
    """

    __slots__ = ("_rules", "_signatures", "items", "size", "strays")

    def __init__(self, rules: IntakeRules, now: float) -> None:
        self.items = self.size = self.strays = 0
        self._rules = rules
        self._signatures = TokenBucket(rules.signatures_per_s, rules.signature_burst, now)

    def has_room(self, item: "Item", now: float) -> bool:
        """Whether an item may be added; its signatures are paid for then."""
        rules = self._rules
        items, size = rules.items - self.items, rules.size - self.size
        if items <= 0 or size <= 0 or (item.is_stray and self.strays >= rules.held):
            return False
        account = item.owner
        if account is None:
            return True
        if account.items >= min(rules.peer_items, 2 * items) or account.size >= 2 * size:
            return False
        if item.is_stray and account.held >= rules.peer_held:
            return False
        return account.signatures.take(now, item.cost) and self._signatures.take(now, item.cost)

    def add(self, item: "Item") -> None:
        """An item is undecided."""
        size, account = len(item.raw), item.owner
        self.items += 1
        self.size += size
        self.strays += item.is_stray
        if account is not None:
            account.items += 1
            account.size += size
            account.held += item.is_stray

    def found(self, item: "Item") -> None:
        """What an item is held for is there, or announced."""
        if item.is_stray:
            item.is_stray = False
            self.strays -= 1
            if item.owner is not None:
                item.owner.held -= 1

    def remove(self, item: "Item") -> None:
        """An item is decided."""
        self.found(item)
        size, account = len(item.raw), item.owner
        self.items -= 1
        self.size -= size
        if account is not None:
            account.items -= 1
            account.size -= size

    def give(self, item: "Item", owner: "Account") -> None:
        """Have an item that is no stray count against another peer's budget."""
        self.remove(item)
        item.owner = owner
        self.add(item)
