"""How much peers may have announced: for each of them, and for all together. Pure."""

from dataclasses import dataclass, field

from front.admission import TokenBucket
from front.gossip.submitting import SubmitRules

__all__ = ["Account", "IntakeRules"]


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
        items: of all peers.
        size: bytes of all those.
        peer_held: of one peer, whose channel nobody has announced.
        held: of all peers.
        hold_s: so long such a one is held.
        batch: signatures that a worker gets at once.
        invalid_until_muted: wrong signatures of a peer with channels, which we do not disconnect;
            after that many its gossip is ignored.
        mute_s: for so long.
        refused_per_s: channels of one peer that the chain does not have, in the long run.
        refused_burst: and at once; who is beyond is muted too.
        replaced_every_s: updates of one direction, or of one node, that are passed on in the long
            run; others have their turn when we ask again.
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
    refused_per_s: float = 1.0
    refused_burst: float = 5_000.0
    replaced_every_s: float = 60.0
    replaced_burst: int = 10
    memory: int = 100_000
    memory_s: float = 600.0
    flush_s: float = 0.01
    submit: SubmitRules = field(default_factory=SubmitRules)


class Account:
    """What one peer has used of its budget."""

    __slots__ = ("held", "invalid", "items", "muted_until", "refused", "signatures")

    def __init__(self, rules: IntakeRules, now: float) -> None:
        self.items = 0
        self.held = 0
        self.invalid = 0
        self.muted_until = 0.0
        self.signatures = TokenBucket(rules.peer_signatures_per_s, rules.peer_signature_burst, now)
        self.refused = TokenBucket(rules.refused_per_s, rules.refused_burst, now)
