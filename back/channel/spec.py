"""What a commitment holds: amounts, HTLCs, feerate; and what more it has room for (BOLT 2, BOLT 3).

Both commitments follow from the states of the HTLCs and feerates alone. "Local" is the commitment
that we hold and could publish, "remote" the peer's; in both, ``local_msat`` is ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from back.channel.model import (
    Channel,
    FeeState,
    Fulfilled,
    Htlc,
    HtlcState,
    PartyParameters,
)
from back.channel.policy import MAX_ACCEPTED_HTLCS
from back.transactions.commitment import CommitmentType
from back.transactions.weights import (
    htlc_success_fee_sat,
    htlc_timeout_fee_sat,
    opener_cost_sat,
)
from shared.errors import InvariantError

__all__ = [
    "CommitmentSpec",
    "OfferLimits",
    "Tally",
    "local_spec",
    "next_local_spec",
    "offer_limits",
    "prospective_local_spec",
    "remote_party",
    "remote_spec",
    "signed_number",
]

S = HtlcState

_REMOVED = frozenset(
    {
        S.RCVD_REMOVE_HTLC,
        S.SENT_REMOVE_REVOCATION,
        S.SENT_REMOVE_ACK_COMMIT,
        S.SENT_REMOVE_COMMIT,
        S.RCVD_REMOVE_REVOCATION,
    }
)
"""States of an HTLC on its way out: where a commitment does not hold it any more, it is settled."""

_IN_LOCAL = frozenset(
    {
        S.SENT_ADD_ACK_REVOCATION,
        S.RCVD_REMOVE_HTLC,
        S.SENT_ADD_REVOCATION,
        S.SENT_ADD_ACK_COMMIT,
        S.RCVD_ADD_ACK_REVOCATION,
        S.SENT_REMOVE_COMMIT,
        S.RCVD_REMOVE_REVOCATION,
    }
)
"""In our commitment as the peer signed it last."""

_IN_NEXT_LOCAL = frozenset(
    {
        S.RCVD_ADD_REVOCATION,
        S.SENT_ADD_ACK_REVOCATION,
        S.RCVD_ADD_HTLC,
        S.SENT_ADD_REVOCATION,
        S.SENT_ADD_ACK_COMMIT,
        S.RCVD_ADD_ACK_REVOCATION,
        S.SENT_REMOVE_COMMIT,
    }
)
"""In our commitment if the peer signed it now."""

_IN_PROSPECTIVE_LOCAL = _IN_NEXT_LOCAL | {S.SENT_ADD_COMMIT}
"""In our commitment once the peer has seen what we signed."""

_FEE_IN_LOCAL = frozenset({FeeState.FUNDEE_REVOKED, FeeState.IN_BOTH, FeeState.COMMITTED})
_FEE_UNREVOKED = frozenset({FeeState.IN_FUNDEE, FeeState.IN_BOTH})


@dataclass(frozen=True, slots=True)
class CommitmentSpec:
    """The contents of one commitment.

    Attributes:
        is_local: we hold it.
        local_msat: ours in it, HTLCs taken out, before the opener's fee and anchors.
        remote_msat: the peer's.
        htlcs: in it, trimmed ones too.
    """

    is_local: bool
    feerate_per_kw: int
    local_msat: int
    remote_msat: int
    htlcs: tuple[Htlc, ...]


def remote_party(channel: Channel) -> PartyParameters:
    """Return the peer's parameters, known since open_channel or accept_channel."""
    if channel.parameters.remote is None:
        raise InvariantError("the peer's parameters are not known yet")
    return channel.parameters.remote


def signed_number(channel: Channel) -> int:
    """The number of the last remote commitment that we signed."""
    if channel.unrevoked is not None:
        return channel.unrevoked.number
    return channel.remote_commitment.number


def local_spec(channel: Channel) -> CommitmentSpec:
    """Return our commitment as the peer signed it last."""
    return _local(channel, _IN_LOCAL, _fee_in_local(channel))


def next_local_spec(channel: Channel) -> CommitmentSpec:
    """Return our commitment as the peer would sign it now, with all that it has sent."""
    return _local(channel, _IN_NEXT_LOCAL, _fee_in_next_local(channel))


def prospective_local_spec(channel: Channel) -> CommitmentSpec:
    """Return our commitment as it will be once the peer has seen what we signed."""
    return _local(channel, _IN_PROSPECTIVE_LOCAL, channel.fees[-1].feerate_per_kw)


def remote_spec(channel: Channel, number: int | None = None) -> CommitmentSpec:
    """Return the remote commitment ``number``: the one signed last, or the one before it.

    Raises:
        InvariantError: another number; what a revoked commitment held is in the history.
    """
    signed = signed_number(channel)
    number = signed if number is None else number
    if number not in {signed, channel.remote_commitment.number}:
        raise InvariantError(f"remote commitment {number} is not a current one, {signed} is")
    local_msat, remote_msat = channel.local_msat, channel.remote_msat
    present: list[Htlc] = []
    for htlc in channel.htlcs.values():
        if htlc.remote_first is None or number < htlc.remote_first:
            continue
        is_present = htlc.remote_last is None or number <= htlc.remote_last
        local_msat, remote_msat = _moved(htlc, local_msat, remote_msat, is_present=is_present)
        if is_present:
            present.append(htlc)
    feerate = _fee_in_remote(channel, is_signed_last=number == signed)
    return CommitmentSpec(False, feerate, local_msat, remote_msat, tuple(present))


def _local(channel: Channel, states: frozenset[HtlcState], feerate_per_kw: int) -> CommitmentSpec:
    local_msat, remote_msat = channel.local_msat, channel.remote_msat
    present: list[Htlc] = []
    for htlc in channel.htlcs.values():
        is_present = htlc.state in states
        if not is_present and htlc.state not in _REMOVED:
            continue
        local_msat, remote_msat = _moved(htlc, local_msat, remote_msat, is_present=is_present)
        if is_present:
            present.append(htlc)
    return CommitmentSpec(True, feerate_per_kw, local_msat, remote_msat, tuple(present))


def _moved(htlc: Htlc, local_msat: int, remote_msat: int, *, is_present: bool) -> tuple[int, int]:
    """Take an HTLC in the commitment from its offerer; settle one that is gone."""
    amount = htlc.amount_msat
    is_paid = not is_present and isinstance(htlc.resolution, Fulfilled)
    gained = amount if is_paid else 0
    if is_present or is_paid:
        if htlc.offered:
            return local_msat - amount, remote_msat + gained
        return local_msat + gained, remote_msat - amount
    return local_msat, remote_msat


# --- feerates ---------------------------------------------------------------------------------


def _fee_in_local(channel: Channel) -> int:
    """Feerates reach the opener's commitment last, the fundee's first."""
    states = {FeeState.COMMITTED} if channel.parameters.is_opener else _FEE_IN_LOCAL
    return _last(channel, states)


def _fee_in_next_local(channel: Channel) -> int:
    if channel.parameters.is_opener:
        return _last(channel, {FeeState.FUNDEE_REVOKED, FeeState.COMMITTED})
    return channel.fees[-1].feerate_per_kw


def _fee_in_remote(channel: Channel, *, is_signed_last: bool) -> int:
    states: set[FeeState] | frozenset[FeeState]
    if channel.parameters.is_opener:
        states = frozenset(FeeState) - {FeeState.PROPOSED}
    else:
        states = {FeeState.IN_BOTH, FeeState.COMMITTED}
    if not is_signed_last:
        states = states - _FEE_UNREVOKED
    return _last(channel, states)


def _last(channel: Channel, states: "set[FeeState] | frozenset[FeeState]") -> int:
    for update in reversed(channel.fees):
        if update.state in states:
            return update.feerate_per_kw
    raise InvariantError("a channel always has a committed feerate")


# --- limits of what we offer ----------------------------------------------------------------------


class OfferLimits(NamedTuple):
    """What HTLCs of ours may hold of a channel at a time.

    Attributes:
        htlcs: how many.
        value_msat: their amount.
    """

    htlcs: int
    value_msat: int


def offer_limits(channel: Channel) -> OfferLimits:
    """Return the narrower of what the peer accepts and what our policy allows ourselves."""
    party, policy = remote_party(channel), channel.policy
    capacity_msat = channel.parameters.funding_satoshis * 1000
    return OfferLimits(
        min(party.max_accepted_htlcs, policy.max_offered_htlcs, MAX_ACCEPTED_HTLCS),
        min(
            party.max_htlc_value_in_flight_msat,
            int(capacity_msat * policy.max_offered_in_flight_ratio),
        ),
    )


# --- room ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over one commitment, cheap to continue HTLC by HTLC.

    Attributes:
        untrimmed: HTLCs with an output.
        dust_msat: of those without.
        offered_msat, offered_count: HTLCs that we offered; ``received_...``: that the peer did.
    """

    is_local: bool
    is_opener: bool
    kind: CommitmentType
    feerate_per_kw: int
    dust_limit_satoshis: int
    local_msat: int
    remote_msat: int
    untrimmed: int = 0
    dust_msat: int = 0
    offered_msat: int = 0
    offered_count: int = 0
    received_msat: int = 0
    received_count: int = 0

    @classmethod
    def of(
        cls, channel: Channel, spec: CommitmentSpec, feerate_per_kw: int | None = None
    ) -> "Tally":
        """Sum a commitment up, at another feerate than its own where one is given."""
        holder = channel.parameters.local if spec.is_local else remote_party(channel)
        empty = cls(
            is_local=spec.is_local,
            is_opener=channel.parameters.is_opener,
            kind=channel.parameters.commitment_type,
            feerate_per_kw=spec.feerate_per_kw if feerate_per_kw is None else feerate_per_kw,
            dust_limit_satoshis=holder.dust_limit_satoshis,
            local_msat=spec.local_msat,
            remote_msat=spec.remote_msat,
        )
        return empty._summed(spec.htlcs)

    def _summed(self, htlcs: Iterable[Htlc]) -> "Tally":
        least = {offered: self._least_msat(offered=offered) for offered in (True, False)}
        untrimmed = dust = 0
        sums = {True: 0, False: 0}
        counts = {True: 0, False: 0}
        for htlc in htlcs:
            if htlc.amount_msat < least[htlc.offered]:
                dust += htlc.amount_msat
            else:
                untrimmed += 1
            sums[htlc.offered] += htlc.amount_msat
            counts[htlc.offered] += 1
        return replace(
            self,
            untrimmed=untrimmed,
            dust_msat=dust,
            offered_msat=sums[True],
            offered_count=counts[True],
            received_msat=sums[False],
            received_count=counts[False],
        )

    def _least_msat(self, *, offered: bool) -> int:
        """The smallest HTLC with an output (BOLT 3 § Trimmed Outputs)."""
        # The holder of the commitment claims what it offered with an HTLC-timeout transaction.
        is_timeout = offered == self.is_local
        fee = htlc_timeout_fee_sat if is_timeout else htlc_success_fee_sat
        return (self.dust_limit_satoshis + fee(self.kind, self.feerate_per_kw)) * 1000

    def is_trimmed(self, amount_msat: int, *, offered: bool) -> bool:
        """Whether an HTLC is too small for an output of this commitment."""
        return amount_msat < self._least_msat(offered=offered)

    def with_offered(self, amount_msat: int) -> "Tally":
        """Return the sums with one more HTLC of ours."""
        return replace(
            self._with(amount_msat, offered=True),
            local_msat=self.local_msat - amount_msat,
            offered_msat=self.offered_msat + amount_msat,
            offered_count=self.offered_count + 1,
        )

    def with_received(self, amount_msat: int) -> "Tally":
        """Return the sums with one more HTLC of the peer."""
        return replace(
            self._with(amount_msat, offered=False),
            remote_msat=self.remote_msat - amount_msat,
            received_msat=self.received_msat + amount_msat,
            received_count=self.received_count + 1,
        )

    def _with(self, amount_msat: int, *, offered: bool) -> "Tally":
        if self.is_trimmed(amount_msat, offered=offered):
            return replace(self, dust_msat=self.dust_msat + amount_msat)
        return replace(self, untrimmed=self.untrimmed + 1)

    def opener_cost_msat(self, *, spike: bool = False) -> int:
        """What the opener pays: the fee and anchors.

        Args:
            spike: at twice the feerate and with one more HTLC output, the buffer that BOLT 2 §
                Adding an HTLC recommends.
        """
        feerate, count = self.feerate_per_kw, self.untrimmed
        if spike:
            feerate, count = feerate * 2, count + 1
        return opener_cost_sat(self.kind, feerate, count) * 1000
