"""Which key comes from where: BIP 32 paths, all hardened.

With ``c`` the chain's coin type (0 on mainnet, 1 elsewhere)::

    m/9735'/c'/0'                     node key
    m/9735'/c'/1'/high'/low'          funding key of a channel: its key index, 31 and 31 bits
    m/9735'/c'/2'/w0'/.../w7'         the channel's other keys; w0 to w7: the eight big-endian
                                      32-bit words of SHA256(our funding pubkey), without their
                                      highest bits. Below it the secrets of the basepoints:
        0' revocation   1' payment   2' delayed payment   3' HTLC   4' (shachain seed)
    m/9735'/c'/3'                     secret from which the keys of offers are made

**What a seed alone recovers.** Everything but the funding key follows from the funding *pubkey*,
which open_channel and accept_channel carry anyway and which the chain shows when the funding
output is spent: the 2-of-2 script is in the witness. So with seed and funding outpoint, and no
database, :func:`recover_payment_key` gives the key of ``to_remote`` once the peer force-closes
(asked by a channel_reestablish that shows our loss of data). With option_static_remotekey that
needs no per-commitment point. It recovers neither ``to_local`` of a commitment of ours nor HTLCs:
those need the database.

**A key index is used once for ever.** A second channel under the same index would reveal from its
start the secrets that the first one released. So indexes are drawn at random
(:func:`draw_key_index`), not counted: a counter in a database that was restored, or made anew from
the same seed, would repeat itself.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

from back.transactions.scripts import funding_keys, p2wpkh, p2wsh, to_remote_anchors_script
from shared.crypto.signature import ORDER, public_key

__all__ = [
    "MAX_KEY_INDEX",
    "ChannelSecrets",
    "ExtendedKey",
    "channel_secrets",
    "draw_key_index",
    "funding_secret",
    "node_secret",
    "offers_secret",
    "recover_payment_key",
    "root_key",
]

HARDENED = 1 << 31
PURPOSE = 9735
MAX_KEY_INDEX = (1 << 62) - 1
_NODE, _FUNDING, _CHANNEL, _OFFERS = range(4)


@dataclass(frozen=True, slots=True)
class ExtendedKey:
    """A BIP 32 private key; only hardened children, which need no curve arithmetic."""

    secret: bytes = field(repr=False)
    chain_code: bytes = field(repr=False)

    @classmethod
    def of_seed(cls, seed: bytes) -> "ExtendedKey":
        """The master key."""
        digest = hmac.digest(b"Bitcoin seed", seed, "sha512")
        return cls(digest[:32], digest[32:])

    def child(self, *path: int) -> "ExtendedKey":
        """The key at ``path`` below this one, each step hardened.

        Raises:
            ValueError: a step is not in 0..2^31-1 (or, once in 2^127, has no key).
        """
        key = self
        for step in path:
            key = key._hardened(step)
        return key

    def _hardened(self, step: int) -> "ExtendedKey":
        if not 0 <= step < HARDENED:
            raise ValueError(f"a step of a path is 0 to 2^31-1, got {step}")
        data = b"\0" + self.secret + (HARDENED | step).to_bytes(4, "big")
        digest = hmac.digest(self.chain_code, data, "sha512")
        tweak = int.from_bytes(digest[:32], "big")
        number = (tweak + int.from_bytes(self.secret, "big")) % ORDER
        if tweak >= ORDER or number == 0:
            raise ValueError(f"step {step} has no key")
        return ExtendedKey(number.to_bytes(32, "big"), digest[32:])


@dataclass(frozen=True, slots=True)
class ChannelSecrets:
    """The secrets of one channel but its funding key."""

    revocation_basepoint: bytes = field(repr=False)
    payment_basepoint: bytes = field(repr=False)
    delayed_payment_basepoint: bytes = field(repr=False)
    htlc_basepoint: bytes = field(repr=False)
    shachain_seed: bytes = field(repr=False)


def root_key(seed: bytes, coin_type: int) -> ExtendedKey:
    """The key below which all of ours on one chain are."""
    return ExtendedKey.of_seed(seed).child(PURPOSE, coin_type)


def node_secret(root: ExtendedKey) -> bytes:
    """The node's private key."""
    return root.child(_NODE).secret


def offers_secret(root: ExtendedKey) -> bytes:
    """The secret of :class:`back.signer.offers.OfferSigner`."""
    return root.child(_OFFERS).secret


def draw_key_index() -> int:
    """A key index for a new channel, at random: never used before, here or in any lost database."""
    return secrets.randbelow(MAX_KEY_INDEX + 1)


def funding_secret(root: ExtendedKey, key_index: int) -> bytes:
    """The funding private key of a channel.

    Raises:
        ValueError: the index is not in 0..2^62-1.
    """
    if not 0 <= key_index <= MAX_KEY_INDEX:
        raise ValueError(f"a key index is 0 to 2^62-1, got {key_index}")
    return root.child(_FUNDING, key_index >> 31, key_index & (HARDENED - 1)).secret


def channel_secrets(root: ExtendedKey, funding_pubkey: bytes) -> ChannelSecrets:
    """The other secrets of the channel with this funding pubkey of ours."""
    digest = hashlib.sha256(funding_pubkey).digest()
    words = (int.from_bytes(digest[at : at + 4], "big") for at in range(0, 32, 4))
    base = root.child(_CHANNEL, *(word & (HARDENED - 1) for word in words))
    return ChannelSecrets(*(base.child(number).secret for number in range(5)))


def recover_payment_key(
    root: ExtendedKey, funding_witness_script: bytes, script_pubkeys: Collection[bytes]
) -> tuple[bytes, bytes] | None:
    """Find the private key of ``to_remote`` with nothing but the seed and the chain.

    Args:
        root: from the seed.
        funding_witness_script: the 2-of-2 in the witness of what spent the funding output.
        script_pubkeys: of that transaction's outputs.

    Returns:
        The private key and the scriptpubkey that it owns; None if it owns none.

    Raises:
        MalformedMessage: no 2-of-2 script.
    """
    for funding_pubkey in funding_keys(funding_witness_script):
        secret = channel_secrets(root, funding_pubkey).payment_basepoint
        payment_basepoint = public_key(secret)
        for ours in (p2wpkh(payment_basepoint), p2wsh(to_remote_anchors_script(payment_basepoint))):
            if ours in script_pubkeys:
                return secret, ours
    return None
