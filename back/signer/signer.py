"""The signer: every use of a private key of ours is a method here."""

from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretBytes

from back.channel.opening import LocalKeys
from back.signer import answers
from back.signer.channel_signer import ChannelSigner
from back.signer.guard import RevocationGuard
from back.signer.keys import draw_key_index, node_secret, offers_secret, root_key
from back.signer.offers import OfferSigner
from back.transactions.transaction import double_sha256
from shared.crypto import noise, sphinx
from shared.crypto.recipient_data import Opened, open_recipient_data
from shared.crypto.signature import public_key, sign_compact, sign_recoverable
from shared.errors import InvariantError
from shared.wire import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement, encode

if TYPE_CHECKING:
    from back.channel.effects import Answer, Request
    from back.channel.model import Channel
    from back.transactions.closing import ClosingTransaction
    from back.transactions.commitment import CommitmentTransaction, HtlcTransaction

__all__ = ["Signer"]

Announced = TypeVar("Announced", ChannelUpdate, NodeAnnouncement)
SIGNATURE_BYTES = 64
TYPE_BYTES = 2
CACHED_CHANNELS = 10_000
"""Channels whose derived keys stay at hand; anyone may propose channels, so there is a bound."""


class Signer:
    """Holds the node key and every channel's keys, and uses them.

    A channel is named by its ``key_index``. ``current`` is everywhere the number of our current
    commitment by the channel's row: what is below is revoked.

    What needs the node key only may be called from any thread.

    Args:
        seed: 32 or 64 bytes, see :mod:`.seed`.
        coin_type: of the chain.
        in_recovery: refuse every signature on a commitment of ours.

    Attributes:
        node_id: 33 bytes.
        offers: signs what BOLT 12 has.
    """

    def __init__(self, seed: bytes, coin_type: int, *, in_recovery: bool = False) -> None:
        root = root_key(seed, coin_type)
        secret = node_secret(root)
        self._node_secret = SecretBytes(secret)
        self.node_id = public_key(secret)
        self.offers = OfferSigner(offers_secret(root), secret)
        self._guard = RevocationGuard(in_recovery=in_recovery)
        self._channel = lru_cache(maxsize=CACHED_CHANNELS)(partial(ChannelSigner, root))

    def __repr__(self) -> str:
        return f"Signer({self.node_id.hex()})"

    # --- recovery ----------------------------------------------------------------------------

    @property
    def in_recovery(self) -> bool:
        """Whether every signature on a commitment of ours is refused."""
        return self._guard.in_recovery

    def enter_recovery(self) -> None:
        """Sign no commitment of ours any more; until a new process starts without recovery."""
        self._guard.in_recovery = True

    # --- node key ------------------------------------------------------------------------------

    def answer_responder(self, act_one: bytes) -> noise.KeyAnswer:
        """Do the ECDH of an inbound handshake (BOLT 8), after checking its MAC.

        Raises:
            HandshakeFailed: not for us, or garbage.
        """
        return noise.answer_responder(
            self._node_secret.get_secret_value(), noise.ResponderRequest(act_one)
        )

    def answer_initiator(self, node_id: bytes, ephemeral: bytes, act_two: bytes) -> noise.KeyAnswer:
        """Do the ECDH of an outbound handshake (BOLT 8), after checking the peer's MAC.

        Args:
            node_id: the peer's.
            ephemeral: private key that act one was made with.
            act_two: as received.

        Raises:
            HandshakeFailed: not from that peer, or garbage.
        """
        request = noise.InitiatorRequest(node_id, ephemeral, act_two)
        return noise.answer_initiator(self._node_secret.get_secret_value(), request)

    def peel_onion(
        self, packet: bytes, associated_data: bytes, path_key: bytes | None = None
    ) -> sphinx.Peeled:
        """Peel our layer of an onion (BOLT 4 § Onion Decryption).

        Args:
            packet: onion_routing_packet.
            associated_data: the payment hash; empty for onion messages.
            path_key: inside a blinded route.

        Raises:
            InvalidOnion: carries the failure code to answer.
        """
        return sphinx.peel(self._node_secret.get_secret_value(), packet, associated_data, path_key)

    def open_recipient_data(self, path_key: bytes, encrypted: bytes) -> Opened:
        """Read what the maker of a blinded path tells us (BOLT 4 § Route Blinding).

        Args:
            path_key: as it came with the onion, or in its payload.
            encrypted: encrypted_recipient_data.

        Raises:
            InvalidOnion: with invalid_onion_blinding.
        """
        secret = self._node_secret.get_secret_value()
        return open_recipient_data(secret, path_key, encrypted)

    def sign_gossip(self, digest: bytes) -> bytes:
        """Sign with the node key: 64 bytes (BOLT 7)."""
        return sign_compact(self._node_secret.get_secret_value(), digest)

    def sign_invoice(self, digest: bytes) -> bytes:
        """Sign a BOLT 11 invoice: 64 bytes and the recovery id."""
        return sign_recoverable(self._node_secret.get_secret_value(), digest)

    def sign_channel_announcement(
        self, key_index: int, announcement: ChannelAnnouncement
    ) -> tuple[bytes, bytes]:
        """Make our node_signature and bitcoin_signature; its signature fields do not matter.

        Raises:
            InvariantError: it is not of this channel of ours.
        """
        side = int(announcement.node_id_2 == self.node_id)
        nodes = (announcement.node_id_1, announcement.node_id_2)
        keys = (announcement.bitcoin_key_1, announcement.bitcoin_key_2)
        channel = self._channel(key_index)
        if nodes[side] != self.node_id or keys[side] != channel.public.funding_pubkey:
            raise InvariantError("not an announcement of this channel of ours")
        digest = _announcement_digest(announcement)
        return self.sign_gossip(digest), channel.sign_announcement(digest)

    def sign_node_announcement(self, announcement: NodeAnnouncement) -> NodeAnnouncement:
        """Return it with our signature.

        Raises:
            InvariantError: it is another node's.
        """
        if announcement.node_id != self.node_id:
            raise InvariantError("not an announcement of our node")
        return self._signed(announcement)

    def sign_channel_update(self, update: ChannelUpdate) -> ChannelUpdate:
        """Return it with our signature."""
        return self._signed(update)

    def _signed(self, message: Announced) -> Announced:
        signature = self.sign_gossip(_announcement_digest(message))
        return message.model_copy(update={"signature": signature})

    # --- channels --------------------------------------------------------------------------------

    def new_key_index(self) -> int:
        """A key index for a new channel; random, for the reason that :mod:`.keys` gives."""
        return draw_key_index()

    def channel_keys(self, key_index: int) -> LocalKeys:
        """Our public keys of a channel, and the points of its first two commitments."""
        return self._channel(key_index).public

    def per_commitment_point(self, key_index: int, number: int) -> bytes:
        """Our per_commitment_point of commitment ``number``."""
        return self._channel(key_index).per_commitment_point(number)

    def release_secret(self, key_index: int, number: int, *, current: int) -> bytes:
        """Give the per-commitment secret of ``number`` for revoke_and_ack; never sign it again.

        Raises:
            InvariantError: ``number`` is not below ``current``.
        """
        self._guard.release(key_index, number, current=current)
        return self._channel(key_index).per_commitment_secret(number)

    def is_secret_of(self, key_index: int, number: int, secret: bytes) -> bool:
        """Whether ``secret`` is ours of commitment ``number`` (channel_reestablish)."""
        return self._channel(key_index).is_secret_of(number, secret)

    def sign_remote_commitment(
        self, key_index: int, commitment: "CommitmentTransaction", per_commitment_point: bytes
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """Sign the peer's commitment, and its HTLC transactions in output order.

        Raises:
            InvariantError: not a commitment of this channel held by the peer.
        """
        return self._channel(key_index).sign_remote_commitment(commitment, per_commitment_point)

    def sign_local_commitment(
        self, key_index: int, commitment: "CommitmentTransaction", *, current: int
    ) -> bytes:
        """Sign our own commitment, to publish it.

        Raises:
            SigningRefused: in recovery.
            InvariantError: it is revoked, or not ours.
        """
        self._guard.check(key_index, commitment.parameters.number, current=current)
        return self._channel(key_index).sign_local_commitment(commitment)

    def sign_local_htlc(
        self,
        key_index: int,
        commitment: "CommitmentTransaction",
        transaction: "HtlcTransaction",
        *,
        current: int,
    ) -> bytes:
        """Sign our HTLC transaction on our own commitment, to publish it.

        Raises:
            SigningRefused: in recovery.
            InvariantError: the commitment is revoked, or not ours.
        """
        self._guard.check(key_index, commitment.parameters.number, current=current)
        return self._channel(key_index).sign_local_htlc(commitment, transaction)

    def sign_closing(self, key_index: int, closing: "ClosingTransaction") -> bytes:
        """Sign a cooperative close.

        Raises:
            InvariantError: it does not close this channel.
        """
        return self._channel(key_index).sign_closing(closing)

    def answer(self, channel: "Channel", request: "Request") -> "Answer":
        """Answer one request of a step that makes ``channel``; see :func:`.answers.answer`."""
        return answers.answer(self, channel, request)

    def reloaded(self, key_index: int) -> None:
        """The channel was read from the database again: what was not committed was never said."""
        self._guard.forget(key_index)


def _announcement_digest(
    message: ChannelAnnouncement | ChannelUpdate | NodeAnnouncement,
) -> bytes:
    """What BOLT 7's signatures sign: everything after them."""
    return double_sha256(encode(message)[TYPE_BYTES + SIGNATURE_BYTES * message.SIGNATURES :])
