"""What we accept in open_channel and accept_channel (BOLT 2). Each check returns why not, or "".

The demands of a peer are judged by one function, whichever side opens.
"""

from typing import TYPE_CHECKING

from back.channel.policy import (
    MAX_ACCEPTED_HTLCS,
    MAX_FUNDING_WITHOUT_WUMBO_SAT,
    MIN_DUST_LIMIT_SATOSHIS,
    ChannelPolicy,
    commitment_type,
)
from back.transactions.scripts import is_standard_shutdown_script
from back.transactions.weights import opener_cost_sat
from shared.crypto.keys import is_valid_point
from shared.features import Feature, FeatureSet
from shared.wire import (
    AcceptChannel,
    OpenChannel,
)

if TYPE_CHECKING:
    from back.channel.opening import Reception

__all__ = ["ANNOUNCE_CHANNEL", "open_refusal", "party_refusal", "shutdown_script_refusal"]

ANNOUNCE_CHANNEL = 1
"""The one bit of channel_flags that has a meaning."""


def party_refusal(
    message: OpenChannel | AcceptChannel, funding_satoshis: int, policy: ChannelPolicy
) -> str:
    """Say which demand of the peer is out of bounds, whichever side opens; empty if none."""
    most_reserve = max(int(funding_satoshis * policy.max_reserve_ratio), policy.dust_limit_satoshis)
    checks: tuple[tuple[bool, str], ...] = (
        (
            message.to_self_delay > policy.max_to_self_delay,
            f"to_self_delay {message.to_self_delay} is above {policy.max_to_self_delay}",
        ),
        (
            not 0 < message.max_accepted_htlcs <= MAX_ACCEPTED_HTLCS,
            f"max_accepted_htlcs {message.max_accepted_htlcs} is not in 1..{MAX_ACCEPTED_HTLCS}",
        ),
        (
            message.dust_limit_satoshis > message.channel_reserve_satoshis,
            f"dust_limit_satoshis {message.dust_limit_satoshis} is above"
            f" channel_reserve_satoshis {message.channel_reserve_satoshis}",
        ),
        (
            message.dust_limit_satoshis < MIN_DUST_LIMIT_SATOSHIS,
            f"dust_limit_satoshis {message.dust_limit_satoshis} is below {MIN_DUST_LIMIT_SATOSHIS}",
        ),
        (
            message.dust_limit_satoshis > policy.max_dust_limit_satoshis,
            f"dust_limit_satoshis {message.dust_limit_satoshis} is above"
            f" {policy.max_dust_limit_satoshis}",
        ),
        (
            message.channel_reserve_satoshis > most_reserve,
            f"channel_reserve_satoshis {message.channel_reserve_satoshis} is above {most_reserve}",
        ),
        (
            message.channel_reserve_satoshis < policy.dust_limit_satoshis,
            f"channel_reserve_satoshis {message.channel_reserve_satoshis} is below our"
            f" dust_limit_satoshis {policy.dust_limit_satoshis}",
        ),
        (
            message.htlc_minimum_msat > funding_satoshis * 1000,
            f"htlc_minimum_msat {message.htlc_minimum_msat} is above the capacity",
        ),
    )
    for is_wrong, why in checks:
        if is_wrong:
            return why
    for name in (
        "funding_pubkey",
        "revocation_basepoint",
        "payment_basepoint",
        "delayed_payment_basepoint",
        "htlc_basepoint",
        "first_per_commitment_point",
    ):
        if not is_valid_point(getattr(message, name)):
            return f"{name} is not a point on the curve"
    return ""


def shutdown_script_refusal(
    message: OpenChannel | AcceptChannel, features: frozenset[Feature]
) -> str:
    """Say what is wrong with upfront_shutdown_script; empty if nothing."""
    script = message.upfront_shutdown_script
    anysegwit = Feature.option_shutdown_anysegwit in features
    if Feature.option_upfront_shutdown_script in features and script is None:
        return "upfront_shutdown_script is missing though negotiated"
    if script and not is_standard_shutdown_script(script, anysegwit=anysegwit):
        return "upfront_shutdown_script has a form that BOLT 2 does not allow"
    return ""


def open_refusal(  # noqa: PLR0911 - one return a rule, in the order of BOLT 2
    message: OpenChannel, reception: "Reception", policy: ChannelPolicy
) -> str:
    """Say why a proposal is refused; empty if it is not."""
    funding = message.funding_satoshis
    if message.chain_hash != policy.chain_hash:
        return f"chain {message.chain_hash.hex()} is not ours"
    if why := _channel_type_refusal(message, reception.features, policy):
        return why
    if funding > MAX_FUNDING_WITHOUT_WUMBO_SAT and (
        Feature.option_support_large_channel not in reception.features
    ):
        return f"funding_satoshis {funding} needs option_support_large_channel"
    if not policy.min_funding_sat <= funding <= policy.max_funding_sat:
        return (
            f"funding_satoshis {funding} is not in"
            f" {policy.min_funding_sat}..{policy.max_funding_sat}"
        )
    if message.push_msat > funding * 1000:
        return f"push_msat {message.push_msat} is above the funding of {funding} sat"
    if why := party_refusal(message, funding, policy):
        return why
    if why := shutdown_script_refusal(message, reception.features):
        return why
    return _first_commitment_refusal(message, reception, policy)


def _channel_type_refusal(
    message: OpenChannel, features: frozenset[Feature], policy: ChannelPolicy
) -> str:
    if message.channel_type is None:
        return "channel_type is missing"
    bits = FeatureSet.from_bytes(message.channel_type)
    kind = commitment_type(message.channel_type)
    if kind is None or not policy.accepts(kind):
        return f"channel_type {message.channel_type.hex()} is not one that we speak"
    if any(f not in features for f in bits.features):
        return f"channel_type {message.channel_type.hex()} was not negotiated"
    if bits.requires(Feature.option_scid_alias) and message.channel_flags & ANNOUNCE_CHANNEL:
        return "channel_type has option_scid_alias, the channel is to be announced"
    return ""


def _first_commitment_refusal(
    message: OpenChannel, reception: "Reception", policy: ChannelPolicy
) -> str:
    assert message.channel_type is not None  # noqa: S101 - checked before
    kind = commitment_type(message.channel_type)
    assert kind is not None  # noqa: S101 - checked before
    if why := policy.feerate_refusal(message.feerate_per_kw, reception.feerate_per_kw, kind):
        return why
    cost_sat = opener_cost_sat(kind, message.feerate_per_kw)
    opener_msat = message.funding_satoshis * 1000 - message.push_msat
    if opener_msat < cost_sat * 1000:
        return f"the opener keeps {opener_msat} msat, the first commitment costs it {cost_sat} sat"
    reserve_msat = (
        max(
            message.channel_reserve_satoshis,
            policy.reserve_satoshis(message.funding_satoshis, message.dust_limit_satoshis),
        )
        * 1000
    )
    if opener_msat - cost_sat * 1000 <= reserve_msat and message.push_msat <= reserve_msat:
        return "both sides would start at or below the reserve"
    return ""
