"""What we demand of a channel and accept from a peer (BOLT 2 § open_channel). Pure."""

from dataclasses import dataclass

from back.transactions.commitment import CommitmentType
from shared.features import Feature, FeatureSet

__all__ = ["ChannelPolicy", "channel_type_bits", "commitment_type"]

MAX_FUNDING_WITHOUT_WUMBO_SAT = (1 << 24) - 1
"""Without option_support_large_channel on both sides."""
MIN_DUST_LIMIT_SATOSHIS = 354
MAX_ACCEPTED_HTLCS = 483
ANNOUNCEMENT_DEPTH = 6
"""Confirmations before a channel is announced (BOLT 7 § announcement_signatures)."""
FUNDEE_PATIENCE_BLOCKS = 2016
"""After so many blocks without its funding transaction a fundee forgets the channel."""
OPENING_PATIENCE_BLOCKS = 6
"""After so many blocks an opening whose next message does not come is given up."""
CLOSING_PATIENCE_BLOCKS = 144
"""After so many blocks without an agreement on its fee a cooperative close becomes a forced one."""


@dataclass(frozen=True, slots=True)
class ChannelPolicy:
    """Settings of channels; the same for every peer.

    Attributes:
        chain_hash: of the one chain that we open channels on.
        node_id: ours; a channel_announcement names both.
        dust_limit_satoshis: below it our commitments have no output.
        max_dust_limit_satoshis: the highest that a peer may demand of our patience.
        reserve_ratio: share of the capacity that the peer must keep, at least both dust limits.
        max_reserve_ratio: the most that a peer may ask of us.
        max_in_flight_ratio: share of the capacity that the peer's HTLCs may hold.
        max_offered_htlcs: HTLCs of ours in one channel; the peer may allow fewer.
        max_offered_in_flight_ratio: share of the capacity that HTLCs of ours may hold.
        to_self_delay: blocks that the peer waits for its own commitment's output.
        max_to_self_delay: the most that a peer may impose on us.
        minimum_depth: confirmations of a funding transaction.
        max_minimum_depth: the most that a peer may demand.
        min_funding_sat, max_funding_sat: of channels that peers open to us.
        max_dust_exposure_msat: of trimmed HTLCs in one commitment.
        min_feerate_ratio, max_feerate_ratio: a peer's feerate against our estimate.
        regtest_slack: regtest has no fee market: any feerate up to ``max_feerate_per_kw`` will do.
        max_feerate_per_kw: the ceiling whatever the estimate.
        accepts_anchors, accepts_static_remotekey: channel types.
    """

    chain_hash: bytes
    dust_limit_satoshis: int = 354
    max_dust_limit_satoshis: int = 1_000
    htlc_minimum_msat: int = 1
    reserve_ratio: float = 0.01
    max_reserve_ratio: float = 0.05
    max_in_flight_ratio: float = 1.0
    max_accepted_htlcs: int = 100
    max_offered_htlcs: int = MAX_ACCEPTED_HTLCS
    max_offered_in_flight_ratio: float = 1.0
    to_self_delay: int = 720
    max_to_self_delay: int = 2016
    minimum_depth: int = 6
    max_minimum_depth: int = 144
    min_funding_sat: int = 100_000
    max_funding_sat: int = 21_000_000 * 100_000_000
    max_dust_exposure_msat: int = 50_000_000
    min_feerate_ratio: float = 0.5
    max_feerate_ratio: float = 10.0
    regtest_slack: bool = False
    max_feerate_per_kw: int = 100_000
    accepts_anchors: bool = True
    accepts_static_remotekey: bool = True
    node_id: bytes = b""

    def accepts(self, kind: CommitmentType) -> bool:
        """Whether we have channels of this format."""
        if kind is CommitmentType.ANCHORS_ZERO_FEE_HTLC:
            return self.accepts_anchors
        return self.accepts_static_remotekey

    def reserve_satoshis(self, funding_satoshis: int, remote_dust_limit_satoshis: int = 0) -> int:
        """The reserve that we ask of the peer: never below either side's dust limit."""
        return max(
            int(funding_satoshis * self.reserve_ratio),
            self.dust_limit_satoshis,
            remote_dust_limit_satoshis,
        )

    def max_htlc_value_in_flight_msat(self, funding_satoshis: int) -> int:
        """What the peer's HTLCs may hold at once."""
        return int(funding_satoshis * self.max_in_flight_ratio) * 1000

    def feerate_refusal(
        self, feerate_per_kw: int, estimate_per_kw: int, kind: CommitmentType
    ) -> str:
        """Say what is wrong with a commitment feerate of a peer; empty if nothing.

        With anchors the commitment's fee can be bumped when it is published, so a low one will do.
        """
        if feerate_per_kw > self.max_feerate_per_kw:
            return f"feerate {feerate_per_kw}/kw is above {self.max_feerate_per_kw}"
        if feerate_per_kw < MIN_FEERATE_PER_KW:
            return f"feerate {feerate_per_kw}/kw is below {MIN_FEERATE_PER_KW}"
        if self.regtest_slack:
            return ""
        if kind is CommitmentType.STATIC_REMOTEKEY:
            least = int(estimate_per_kw * self.min_feerate_ratio)
            if feerate_per_kw < least:
                return f"feerate {feerate_per_kw}/kw is below {least}, too slow for this chain now"
        most = int(max(estimate_per_kw, MIN_FEERATE_PER_KW) * self.max_feerate_ratio)
        if feerate_per_kw > most:
            return f"feerate {feerate_per_kw}/kw is above {most}"
        return ""


MIN_FEERATE_PER_KW = 253
"""Bitcoin's relay minimum, 1 sat/vB, rounded up in units of weight."""


def commitment_type(channel_type: bytes) -> CommitmentType | None:
    """The commitment format that a channel_type names; None: not one that we speak."""
    bits = set(FeatureSet.from_bytes(channel_type).bits)
    bits.discard(Feature.option_scid_alias.bit)
    static, anchors = Feature.option_static_remotekey.bit, Feature.option_anchors.bit
    if bits == {static}:
        return CommitmentType.STATIC_REMOTEKEY
    if bits == {static, anchors}:
        return CommitmentType.ANCHORS_ZERO_FEE_HTLC
    return None


def channel_type_bits(kind: CommitmentType, *, scid_alias: bool = False) -> bytes:
    """The channel_type of a commitment format, as on the wire."""
    bits = {Feature.option_static_remotekey.bit}
    if kind is CommitmentType.ANCHORS_ZERO_FEE_HTLC:
        bits.add(Feature.option_anchors.bit)
    if scid_alias:
        bits.add(Feature.option_scid_alias.bit)
    return FeatureSet(frozenset(bits)).to_bytes()
