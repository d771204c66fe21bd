"""Derivation of every key from the seed (BIP 32, all hardened).

============================================  ==========================================================
path                                          key
============================================  ==========================================================
``m/9735'/coin'/0'``                          node key: node id, gossip, invoices
``m/9735'/coin'/1'/index'``                   funding key of channel ``index``
``m/9735'/coin'/2'/f0'/…/f7'/0'``             revocation basepoint secret
``m/9735'/coin'/2'/f0'/…/f7'/1'``             payment basepoint secret
``m/9735'/coin'/2'/f0'/…/f7'/2'``             delayed payment basepoint secret
``m/9735'/coin'/2'/f0'/…/f7'/3'``             htlc basepoint secret
``m/9735'/coin'/2'/f0'/…/f7'/4'``             shachain seed of our per-commitment secrets
============================================  ==========================================================

``coin`` is 0 on mainnet, 1 elsewhere. ``f0 … f7`` are the eight 32-bit words of SHA256(funding public key),
each without its highest bit.

**Recovery without a database.** Once a channel is closed by the peer, its funding outpoint leads on chain
to the 2-of-2 script, which shows both funding keys. Ours is one of the two; it alone, with the seed, gives the
payment basepoint, which is what ``to_remote`` pays in both channel types. The index is not needed.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from embit import bip32

from shared.crypto import shachain
from shared.crypto.signature import public_key

__all__ = ["ChannelSecrets", "NodeKeys", "channel_secrets"]

PURPOSE = 9735
HARDENED = 0x80000000
WORD_MASK = 0x7FFFFFFF


def _child(key: bip32.HDKey, *path: int) -> bip32.HDKey:
    return key.derive([HARDENED | step for step in path])


def _private(key: bip32.HDKey) -> bytes:
    secret: bytes = key.key.secret
    return secret


@dataclass(frozen=True)
class ChannelSecrets:
    """All private keys of one channel."""

    funding: bytes = field(repr=False)
    revocation: bytes = field(repr=False)
    payment: bytes = field(repr=False)
    delayed_payment: bytes = field(repr=False)
    htlc: bytes = field(repr=False)
    shachain_seed: bytes = field(repr=False)

    def per_commitment_secret(self, number: int) -> bytes:
        """The secret of our commitment ``number``."""
        return shachain.commitment_secret(self.shachain_seed, number)

    def per_commitment_point(self, number: int) -> bytes:
        """Its public point."""
        return public_key(self.per_commitment_secret(number))


def channel_secrets(root: bip32.HDKey, funding: bytes) -> ChannelSecrets:
    """Derive a channel's keys from its funding private key."""
    digest = hashlib.sha256(public_key(funding)).digest()
    words = [int.from_bytes(digest[i : i + 4], "big") & WORD_MASK for i in range(0, 32, 4)]
    base = _child(root, *words)
    revocation, payment, delayed, htlc, seed = (_private(_child(base, i)) for i in range(5))
    return ChannelSecrets(funding, revocation, payment, delayed, htlc, seed)


class NodeKeys:
    """The derivation tree of one node."""

    def __init__(self, seed: bytes, coin_type: int) -> None:
        self._base = _child(bip32.HDKey.from_seed(seed), PURPOSE, coin_type)

    def __repr__(self) -> str:
        return "NodeKeys(…)"

    @cached_property
    def node(self) -> bytes:
        """The node's private key."""
        return _private(_child(self._base, 0))

    @cached_property
    def _funding_root(self) -> bip32.HDKey:
        return _child(self._base, 1)

    @cached_property
    def _channel_root(self) -> bip32.HDKey:
        return _child(self._base, 2)

    def channel(self, index: int) -> ChannelSecrets:
        """The keys of channel ``index``."""
        return self.channel_of_funding_key(_private(_child(self._funding_root, index)))

    def channel_of_funding_key(self, funding: bytes) -> ChannelSecrets:
        """The keys of the channel with this funding private key."""
        return channel_secrets(self._channel_root, funding)

    def payment_secret_of(self, funding_pubkey: bytes) -> bytes:
        """The payment basepoint secret of the channel with this funding public key: recovery."""
        digest = hashlib.sha256(funding_pubkey).digest()
        words = [int.from_bytes(digest[i : i + 4], "big") & WORD_MASK for i in range(0, 32, 4)]
        return _private(_child(self._channel_root, *words, 1))
