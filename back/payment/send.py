"""May an invoice be paid, with which onion, and what does a failure mean? Pure.

Payments go to direct peers in this version: one hop, no fees.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from back.channel.model import Channel, Failed, Link, Malformed, Phase, Resolution
from back.payment.balances import can_send_msat
from shared.bolt11 import Invoice
from shared.chain import Chain
from shared.crypto import sphinx
from shared.crypto.failures import FAILURES, NODE, PERM, Failure, decode_failure
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.errors import CommandError
from shared.features import Context, Feature
from shared.units import ShortChannelId

__all__ = [
    "MAX_HTLC_CLTV",
    "MAX_SHADOW_BLOCKS",
    "Candidate",
    "Order",
    "PaymentOnion",
    "Verdict",
    "choose_channel",
    "hop_summary",
    "judge",
    "local_failure",
    "order",
    "payment_onion",
]

MAX_HTLC_CLTV = 2016
"""Blocks from now that an HTLC may be locked at most (BOLT 4 § max_htlc_cltv Selection)."""
MAX_SHADOW_BLOCKS = 6
MAX_OVERPAYMENT = 2
MAX_AMOUNT_MSAT = 21_000_000 * 100_000_000_000


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be paid, checked.

    Attributes:
        amount_msat: what the payee gets.
        expires_at: seconds since 1970; no attempt after it.
    """

    payee: bytes
    payment_hash: bytes
    payment_secret: bytes = field(repr=False)
    amount_msat: int
    min_final_cltv_expiry_delta: int
    expires_at: int
    payment_metadata: bytes | None = None


def order(
    invoice: Invoice, amount_msat: int | None, *, payer: bytes, chain: Chain, unix_s: float
) -> Order:
    """Check that an invoice may be paid now (BOLT 11 § Payer / Payee Requirements).

    Args:
        invoice: as decoded.
        amount_msat: what to pay; None: what the invoice says.
        payer: our node id.
        chain: our network.
        unix_s: now.

    Raises:
        CommandError: it may not; says why.
    """
    if invoice.chain is not chain:
        raise CommandError(f"the invoice is for {invoice.chain.name}, this node is on {chain.name}")
    if invoice.payee == payer:
        raise CommandError("the invoice is our own")
    if invoice.is_expired(unix_s):
        raise CommandError("the invoice has expired")
    _check_features(invoice)
    if invoice.min_final_cltv_expiry_delta > MAX_HTLC_CLTV - MAX_SHADOW_BLOCKS:
        raise CommandError(
            f"the invoice wants the money locked for {invoice.min_final_cltv_expiry_delta} blocks"
        )
    return Order(
        payee=invoice.payee,
        payment_hash=invoice.payment_hash,
        payment_secret=invoice.payment_secret,
        amount_msat=_amount_msat(invoice, amount_msat),
        min_final_cltv_expiry_delta=invoice.min_final_cltv_expiry_delta,
        expires_at=invoice.expires_at,
        payment_metadata=invoice.payment_metadata,
    )


def _check_features(invoice: Invoice) -> None:
    if unknown := invoice.features.unknown_required():
        raise CommandError(f"the invoice requires feature bit {unknown[0]}, which is unknown")
    if missing := invoice.features.missing_dependencies():
        feature, needed = missing[0]
        raise CommandError(f"the invoice's feature {feature.name} needs {needed.name}")
    for feature in Feature:
        if feature not in PAYABLE and invoice.features.requires(feature):
            raise CommandError(f"the invoice requires {feature.name}, which we do not support")


PAYABLE = frozenset(
    {
        Feature.var_onion_optin,
        Feature.payment_secret,
        Feature.option_payment_metadata,
        # Offered by the payee, never needed by one HTLC that pays all.
        Feature.basic_mpp,
    }
) | {feature for feature in Feature if Context.INVOICE not in feature.contexts}
"""Features that an invoice may require of us."""


def _amount_msat(invoice: Invoice, amount_msat: int | None) -> int:
    asked = invoice.amount_msat
    paid = asked if amount_msat is None else amount_msat
    if paid is None:
        raise CommandError("the invoice names no amount, so amountMsat must")
    if not 0 < paid <= MAX_AMOUNT_MSAT:
        raise CommandError(f"{paid} msat cannot be paid")
    if asked is not None and not asked <= paid <= MAX_OVERPAYMENT * asked:
        raise CommandError(
            f"the invoice asks for {asked} msat: pay that, or up to twice as much, not {paid} msat"
        )
    return paid


# --- channels ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A channel to the payee, and what we are about to send through it.

    Attributes:
        reserved_msat: of HTLCs that are on their way into it.
        reserved_count: of them.
    """

    channel: Channel
    reserved_msat: int = 0
    reserved_count: int = 0

    @property
    def load(self) -> int:
        """HTLCs in it."""
        return len(self.channel.htlcs) + self.reserved_count


def choose_channel(
    candidates: Iterable[Candidate], amount_msat: int, tried: frozenset[int] = frozenset()
) -> Channel | None:
    """Return the least busy channel that has room for the amount; None if none has.

    Args:
        candidates: channels to the payee.
        amount_msat: of the HTLC.
        tried: key indexes of channels that it failed on.
    """
    usable = [
        candidate
        for candidate in candidates
        if candidate.channel.phase is Phase.NORMAL
        and candidate.channel.link is Link.ONLINE
        and candidate.channel.parameters.key_index not in tried
    ]
    # The sums are dear: only until one fits.
    for candidate in sorted(usable, key=lambda c: (c.load, -c.channel.local_msat)):
        if amount_msat + candidate.reserved_msat <= can_send_msat(candidate.channel):
            return candidate.channel
    return None


# --- the onion --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaymentOnion:
    """What update_add_htlc needs, and what opens an error."""

    packet: bytes = field(repr=False)
    amount_msat: int
    cltv_expiry: int
    shared_secrets: tuple[bytes, ...] = field(repr=False)


def payment_onion(
    wanted: Order, *, height: int, session_key: bytes, shadow_blocks: int
) -> PaymentOnion:
    """Build the onion of a payment to a direct peer.

    Args:
        wanted: what to pay.
        height: of the chain.
        session_key: 32 random bytes, used once.
        shadow_blocks: 1 to :data:`MAX_SHADOW_BLOCKS`, random: the payee cannot tell by the expiry
            that we are the payer (BOLT 7 § Recommendations for Routing), and blocks may come.
    """
    if not 1 <= shadow_blocks <= MAX_SHADOW_BLOCKS:
        raise ValueError(f"{shadow_blocks} shadow blocks")
    cltv_expiry = height + wanted.min_final_cltv_expiry_delta + shadow_blocks
    payload = Payload(
        amt_to_forward=wanted.amount_msat,
        outgoing_cltv_value=cltv_expiry,
        payment_data=PaymentData(
            payment_secret=wanted.payment_secret, total_msat=wanted.amount_msat
        ),
        payment_metadata=wanted.payment_metadata,
    )
    hop = sphinx.Hop(wanted.payee, encode_payload(payload))
    try:
        onion = sphinx.build(session_key, [hop], wanted.payment_hash)
    except ValueError as error:
        raise CommandError(f"the invoice does not fit in an onion: {error}") from None
    return PaymentOnion(onion.packet, wanted.amount_msat, cltv_expiry, onion.shared_secrets)


# --- failures ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed attempt means.

    Attributes:
        may_retry: another channel may do better.
        summary: for people, with the fields of Eclair's failures.
    """

    may_retry: bool
    summary: dict[str, Any]


def hop_summary(payer: bytes, payee: bytes, channel: Channel) -> dict[str, str]:
    """Return one hop of a route for people; real scid where there is one."""
    real = channel.funding.short_channel_id if channel.funding is not None else None
    scid = real if real is not None else channel.local_alias
    hop = {"nodeId": payer.hex(), "nextNodeId": payee.hex()}
    return hop if scid is None else {**hop, "shortChannelId": str(ShortChannelId.unpack(scid))}


def local_failure(reason: str, route: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """Describe what kept an HTLC from going out at all."""
    return {"failureType": "Local", "failureMessage": reason, "failedRoute": list(route)}


def judge(
    resolution: Resolution | None,
    shared_secrets: Sequence[bytes],
    nodes: Sequence[bytes],
    route: Sequence[dict[str, str]] = (),
) -> Verdict:
    """Read how an HTLC of ours failed.

    Args:
        resolution: as the peer gave it; None: it never went out, or ended on chain.
        shared_secrets: of its onion.
        nodes: the node ids of the hops, the payee last.
        route: for people.
    """
    if isinstance(resolution, Malformed):
        name = _name(resolution.failure_code)
        # The first hop could not read what we built: another channel to it changes nothing.
        return Verdict(False, _remote(name, nodes[0], route))
    if not isinstance(resolution, Failed):
        return Verdict(False, local_failure("the HTLC ended without an answer", route))
    error = sphinx.unwrap_error(shared_secrets, resolution.reason)
    if error is None:
        unreadable = "the error onion could not be read"
        summary = {"failureType": "UnreadableRemote", "failureMessage": unreadable}
        return Verdict(False, {**summary, "failedRoute": list(route)})
    failure = decode_failure(error.message)
    return Verdict(_may_retry(failure), _remote(_described(failure), nodes[error.hop], route))


def _may_retry(failure: Failure) -> bool:
    """The payee itself says so: only its passing troubles are worth another try."""
    return failure.code == NODE | 2 or (failure.name == "unknown" and not failure.code & PERM)


def _name(code: int) -> str:
    return FAILURES.get(code, (f"unknown failure {code:#06x}", ()))[0]


def _described(failure: Failure) -> str:
    shown = ", ".join(f"{name}={value}" for name, value in failure.fields if isinstance(value, int))
    name = _name(failure.code)
    return f"{name} ({shown})" if shown else name


def _remote(message: str, node: bytes, route: Sequence[dict[str, str]]) -> dict[str, Any]:
    return {
        "failureType": "Remote",
        "failureMessage": message,
        "failedRoute": list(route),
        "failedNode": node.hex(),
    }
