"""A scripted peer that speaks onion messages: unwraps them, answers them, sends its own."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from support.lightning_peer import FEATURES, TIMEOUT_S, LightningPeer, node_id_of

from shared.crypto import onion_message, sphinx
from shared.crypto.onion_message import Delivered, Forwarded
from shared.crypto.recipient_data import Opened, open_recipient_data
from shared.features import Feature, FeatureSet
from shared.wire import BlindedPath, OnionMessage

__all__ = ["ONION_FEATURES", "Keys", "OnionPeer"]

ONION_FEATURES = FEATURES.union(FeatureSet.of(optional=[Feature.option_onion_messages]))


@dataclass(frozen=True)
class Keys:
    """A node that has a key and nothing else (:class:`shared.crypto.onion_message.Opens`)."""

    private: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def node_id(self) -> bytes:
        """33 bytes."""
        return node_id_of(self.private)

    def peel_onion(
        self, packet: bytes, associated_data: bytes, path_key: bytes | None = None
    ) -> sphinx.Peeled:
        """Take a layer off."""
        return sphinx.peel(self.private, packet, associated_data, path_key)

    def open_recipient_data(self, path_key: bytes, encrypted: bytes) -> Opened:
        """Read what a path's maker says."""
        return open_recipient_data(self.private, path_key, encrypted)

    def unwrap(self, message: OnionMessage) -> Delivered | Forwarded:
        """Take all layers off that are for this node."""
        step = onion_message.unwrap(message, self)
        while isinstance(step, Forwarded) and step.next_node_id == self.node_id:
            step = onion_message.unwrap(step.message, self)
        return step


class OnionPeer:
    """A connected peer.

    Attributes:
        keys: its own.
        line: the connection.
    """

    def __init__(self, keys: Keys, line: LightningPeer) -> None:
        self.keys = keys
        self.line = line

    @classmethod
    async def connect(
        cls,
        node_id: str,
        port: int,
        *,
        keys: Keys | None = None,
        features: FeatureSet = ONION_FEATURES,
    ) -> Self:
        """Connect to a front of a node and exchange `init`."""
        keys = keys or Keys()
        line = await LightningPeer.connect(
            bytes.fromhex(node_id), "127.0.0.1", port, private=keys.private
        )
        await line.init(features)
        return cls(keys, line)

    @property
    def node_id(self) -> bytes:
        """33 bytes."""
        return self.keys.node_id

    async def send(
        self,
        path: BlindedPath,
        contents: Mapping[int, bytes],
        reply_path: BlindedPath | None = None,
    ) -> OnionMessage:
        """Send a message by a path that begins at the node; return it."""
        message = onion_message.build(secrets.token_bytes(32), path, contents, reply_path)
        await self.line.send(message)
        return message

    async def answer(self, question: Delivered, contents: Mapping[int, bytes]) -> None:
        """Send an answer by the reply path, through the node where it does not begin here."""
        path = question.reply_path
        assert path is not None
        key = secrets.token_bytes(32)
        if path.first_node_id == self.node_id:
            first = onion_message.build(key, path, contents)
            step = self.keys.unwrap(first)
            assert isinstance(step, Forwarded)
            assert step.next_node_id == self.line.remote
            await self.line.send(step.message)
        elif path.first_node_id == self.line.remote:
            await self.send(path, contents)
        else:
            whole = onion_message.lead_to(key, [self.line.remote], path.first_node_id, path)
            await self.send(whole, contents)

    async def hear(self, timeout_s: float = TIMEOUT_S) -> Delivered | Forwarded:
        """Return the next onion message, unwrapped."""
        message = await self.line.expect(OnionMessage, timeout_s=timeout_s)
        return self.keys.unwrap(message)

    async def hears_nothing(self, within_s: float = 0.5) -> None:
        """Check that no message comes."""
        await self.line.expect_nothing(within_s)

    async def close(self) -> None:
        """Close the connection."""
        await self.line.close()
