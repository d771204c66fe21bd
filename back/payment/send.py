"""May something be paid, from which channels, and with which onion? Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from back.channel.model import Channel, Link, Phase
from back.channel.spec import remote_party
from back.payment.balances import can_send_msat
from back.payment.failures import Tried
from back.payment.recipient import ClearRecipient, Recipient, onion_hops
from back.payment.route import MAX_ROUTE_CLTV, Edge, Hop, LocalChannel, Route
from shared.bolt11 import Invoice, RouteHint
from shared.chain import Chain
from shared.crypto import sphinx
from shared.errors import CommandError
from shared.features import Context, Feature

__all__ = [
    "MAX_HTLC_CLTV",
    "SHADOW_ROOM",
    "Candidate",
    "Order",
    "PaymentOnion",
    "choose_channel",
    "hint_edges",
    "keysend_order",
    "local_channel",
    "name_of",
    "order",
    "payment_onion",
    "shadow_blocks",
]

MAX_HTLC_CLTV = 2016
"""Blocks from now that an HTLC may be locked at most (BOLT 4 § max_htlc_cltv Selection)."""
SHADOW_ROOM = 6
"""Blocks of them that are kept for a random offset; it takes more where the way leaves more."""
SHADOW_DELTAS = (34, 40, 72, 80, 100, 144)
"""What nodes ask for, so that an offset looks like more hops."""
MAX_OVERPAYMENT = 2
MAX_AMOUNT_MSAT = 21_000_000 * 100_000_000_000


KEYSEND_CLTV = 42
"""Blocks that a keysend recipient gets: more than any known program asks for."""
KEYSEND_EXPIRY_S = 3600


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be paid, checked.

    Attributes:
        amount_msat: what the payee gets.
        expires_at: seconds since 1970; no attempt after it.
    """

    recipient: Recipient
    payment_hash: bytes
    amount_msat: int
    expires_at: int


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
    if invoice.min_final_cltv_expiry_delta > MAX_HTLC_CLTV - SHADOW_ROOM:
        raise CommandError(
            f"the invoice wants the money locked for {invoice.min_final_cltv_expiry_delta} blocks"
        )
    return Order(
        recipient=ClearRecipient(
            node_id=invoice.payee,
            payment_secret=invoice.payment_secret,
            min_final_cltv_expiry_delta=invoice.min_final_cltv_expiry_delta,
            payment_metadata=invoice.payment_metadata,
            hints=tuple(hint_edges(invoice, payer)),
            takes_parts=invoice.features.supports(Feature.basic_mpp),
        ),
        payment_hash=invoice.payment_hash,
        amount_msat=_amount_msat(invoice, amount_msat),
        expires_at=invoice.expires_at,
    )


def keysend_order(payee: bytes, amount_msat: int, preimage: bytes, unix_s: float) -> Order:
    """Return an order to pay a node that made no invoice.

    Args:
        payee: its node id.
        amount_msat: what it gets.
        preimage: 32 random bytes; it gets them along with the money.
        unix_s: now.

    Raises:
        CommandError: nobody can pay so much.
    """
    if not 0 < amount_msat <= MAX_AMOUNT_MSAT:
        raise CommandError(f"{amount_msat} msat cannot be paid")
    recipient = ClearRecipient(payee, None, KEYSEND_CLTV, keysend_preimage=preimage)
    digest = hashlib.sha256(preimage).digest()
    return Order(recipient, digest, amount_msat, int(unix_s) + KEYSEND_EXPIRY_S)


def hint_edges(invoice: Invoice, payer: bytes) -> Iterable[Edge]:
    """Return the edges of an invoice's route hints, but for those that lead through us."""
    for route in invoice.routes[:MAX_HINTED_ROUTES]:
        ends = [*(hint.node_id for hint in route[1:]), invoice.payee]
        if payer in ends:
            continue
        for hint, end in zip(route, ends, strict=True):
            yield Edge(_hop(hint, end), 1, MAX_AMOUNT_MSAT)


def _hop(hint: RouteHint, end: bytes) -> Hop:
    return Hop(
        hint.node_id,
        end,
        hint.short_channel_id,
        hint.fee_base_msat,
        hint.fee_proportional_millionths,
        hint.cltv_expiry_delta,
    )


MAX_HINTED_ROUTES = 20


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


def name_of(channel: Channel) -> int:
    """Return our name of a channel of ours in routes: the real one where there is one."""
    real = channel.funding.short_channel_id if channel.funding is not None else None
    return real if real is not None else channel.local_alias or 0


def local_channel(candidate: Candidate, *, is_exact: bool) -> LocalChannel:
    """Return a channel of ours as path-finding sees it.

    Args:
        candidate: that may send now.
        is_exact: work out the largest HTLC to the millisatoshi: dear where there are many channels.
    """
    channel = candidate.channel
    remote = remote_party(channel)
    if is_exact:
        most_msat = can_send_msat(channel)
    else:
        pending_msat = sum(htlc.amount_msat for htlc in channel.htlcs.values() if htlc.offered)
        reserve_msat = remote.channel_reserve_satoshis * 1000
        most_msat = channel.local_msat - pending_msat - reserve_msat
    return LocalChannel(
        name_of(channel),
        channel.parameters.node_id,
        max(0, most_msat - candidate.reserved_msat),
        remote.htlc_minimum_msat,
    )


# --- the onion --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaymentOnion:
    """What update_add_htlc needs, and what opens an error.

    Attributes:
        fees_msat: that the hops take of it.
    """

    packet: bytes = field(repr=False)
    amount_msat: int
    cltv_expiry: int
    fees_msat: int
    tried: Tried = field(repr=False)


def shadow_blocks(draw: bytes) -> int:
    """Return how much later than it must the last HTLC ends (BOLT 7 § Recommendations for Routing).

    By its expiry nobody on the way shall tell who the payee is, nor the payee who we are: as if up
    to two more hops came. At least one, for a block may come while the HTLC is on its way.

    Args:
        draw: 4 random bytes.
    """
    deltas = (SHADOW_DELTAS[byte % len(SHADOW_DELTAS)] for byte in draw[2 : 2 + draw[0] % 3])
    return 1 + draw[1] % SHADOW_ROOM + sum(deltas)


def payment_onion(
    wanted: Order, route: Route, *, height: int, session_key: bytes, shadow_blocks: int
) -> PaymentOnion:
    """Build the onion of one part of a payment.

    Args:
        wanted: what to pay.
        route: the way of this part.
        height: of the chain.
        session_key: 32 random bytes, used once.
        shadow_blocks: of :func:`shadow_blocks`; less where the way locks the money for long itself.

    Raises:
        CommandError: it does not fit.
    """
    if shadow_blocks < 1:
        raise ValueError(f"{shadow_blocks} shadow blocks")
    recipient = wanted.recipient
    if route.amount_msat <= 0 or route.hops[-1].next_node_id != recipient.payee:
        raise CommandError("the way does not bring anything to the payee")
    room = MAX_ROUTE_CLTV - route.cltv_expiry_delta - recipient.final_cltv_delta
    if room < 1:
        raise CommandError("the way would lock the money for too long")
    carried = route.forwarded(height + recipient.final_cltv_delta + min(shadow_blocks, room))
    hops = onion_hops(recipient, route.hops, carried, wanted.amount_msat)
    try:
        onion = sphinx.build(session_key, hops, wanted.payment_hash)
    except ValueError as error:
        raise CommandError(f"the payment does not fit in an onion: {error}") from None
    amounts = tuple(amount for amount, _ in carried)
    tried = Tried(route.hops, amounts, onion.shared_secrets)
    fees_msat = amounts[0] - route.amount_msat
    return PaymentOnion(onion.packet, amounts[0], carried[0][1], fees_msat, tried)
