"""The one place where NATS subjects are spelled (docs/fabric.md lists who may use which).

Values become tokens through functions that check them, so that a peer's bytes or a front's name can
never widen a subject (``.``, ``*``, ``>``) or move a message to another shard.

Raises:
    FabricError: from every parser, for a subject that this program would not have written.
    ValueError: from every builder, for a value that is no token; that is a bug of the caller.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from shared.errors import FabricError

__all__ = [
    "ALIVE",
    "CONNECT",
    "CONNECT_GROUP",
    "ECDH",
    "ECDH_GROUP",
    "GRAPH_SELF",
    "GRAPH_TIP",
    "HELLO",
    "SHARDS",
    "Inbound",
    "Outbound",
    "alive",
    "back_group",
    "event",
    "front_outbound",
    "front_token",
    "gossip",
    "graph_channel",
    "graph_node",
    "graph_update",
    "hello",
    "inbound",
    "inbound_prefix",
    "onion",
    "open_session",
    "outbound",
    "outbound_prefix",
    "parse_inbound",
    "parse_last_token",
    "parse_outbound",
    "resume_session",
    "session_subject",
    "shard",
    "shard_inbound",
    "tapped",
    "verdict",
]

SHARDS = 64
"""Number of shards; changing it is a change of the protocol."""

CONNECT = "ln.connect"
"""Back to one front: dial a peer (request)."""
CONNECT_GROUP = "front"
ECDH = "ln.key.ecdh"
"""Front to one back: one handshake secret (request)."""
ECDH_GROUP = "key"
GRAPH_SELF = "ln.graph.self"
"""Back to fronts, last value: who we are."""
GRAPH_TIP = "ln.graph.tip"
"""Routing table: up to which block it is worked through."""
HELLO = "ln.hello.*"
"""What a front subscribes to hear every owner."""
ALIVE = "ln.alive.*"
"""What a back subscribes to hear every front."""

_NO_CHANNEL = "-"
_FRONT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHARD = r"(?P<shard>0|[1-9][0-9]?)"
_PEER = r"(?P<peer>0[23][0-9a-f]{64})"
_TAIL = r"(?P<channel>-|[0-9a-f]{64})\.(?P<name>[a-z][a-z0-9_]{0,63})"
_INBOUND = re.compile(rf"ln\.in\.{_SHARD}\.{_PEER}\.{_TAIL}")
_OUTBOUND = re.compile(rf"ln\.out\.(?P<front>[A-Za-z0-9_-]{{1,64}})\.{_PEER}\.{_TAIL}")

_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193


@dataclass(frozen=True, slots=True)
class Inbound:
    """A parsed ``ln.in`` subject.

    Attributes:
        shard: 0 to 63; always the shard of ``peer``.
        peer: 33-byte node id.
        channel: 32-byte channel id, or None where the message has none.
        name: a BOLT message name or a session control.
    """

    shard: int
    peer: bytes
    channel: bytes | None
    name: str


@dataclass(frozen=True, slots=True)
class Outbound:
    """A parsed ``ln.out`` subject; ``front`` is the receiver's name, the rest as in `Inbound`."""

    front: str
    peer: bytes
    channel: bytes | None
    name: str


@lru_cache(maxsize=1 << 16)
def shard(node_id: bytes) -> int:
    """Return the shard of a peer: FNV-1a32 over its subject token (66 hex digits), mod 64.

    The server's own ``partition`` function gives the same number for the same token.
    """
    digest = _FNV_OFFSET
    for byte in _peer(node_id).encode():
        digest = ((digest ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return digest % SHARDS


# --- sessions ---------------------------------------------------------------------------------


def inbound_prefix(node_id: bytes) -> str:
    """Return ``ln.in.<shard>.<peer>.``, the start of every subject from this peer."""
    return f"ln.in.{shard(node_id)}.{_peer(node_id)}."


def outbound_prefix(front: str, node_id: bytes) -> str:
    """Return ``ln.out.<front>.<peer>.``, the start of every subject to this peer's front."""
    return f"ln.out.{front_token(front)}.{_peer(node_id)}."


def session_subject(prefix: str, channel: bytes | None, name: str) -> str:
    """Complete a prefix; the hot path, so ``name`` must come from our own declarations."""
    return f"{prefix}{channel.hex() if channel else _NO_CHANNEL}.{name}"


def inbound(node_id: bytes, channel: bytes | None, name: str) -> str:
    """Return the subject of one message or control from a peer's front to its owner."""
    return session_subject(inbound_prefix(node_id), _channel(channel), _name(name))


def outbound(front: str, node_id: bytes, channel: bytes | None, name: str) -> str:
    """Return the subject of one message or control from the owner to a peer's front."""
    return session_subject(outbound_prefix(front, node_id), _channel(channel), _name(name))


def shard_inbound(number: int) -> str:
    """Return what the owner of a shard subscribes, in the group `back_group`."""
    return f"ln.in.{_number(number)}.>"


def front_outbound(front: str) -> str:
    """Return what a front subscribes."""
    return f"ln.out.{front_token(front)}.>"


def back_group(epoch: int) -> str:
    """Return the queue group of one ownership: a frozen former owner is never in it."""
    return f"back.{epoch}"


def parse_inbound(subject: str) -> Inbound:
    """Read an ``ln.in`` subject back, refusing a shard that is not the peer's."""
    if (match := _INBOUND.fullmatch(subject)) is None:
        raise FabricError(f"not an inbound subject: {subject[:200]!r}")
    peer = bytes.fromhex(match["peer"])
    if int(match["shard"]) != shard(peer):
        raise FabricError(
            f"shard {match['shard']} is not {shard(peer)}, that of the peer: {subject!r}"
        )
    return Inbound(shard(peer), peer, _parsed_channel(match["channel"]), match["name"])


def parse_outbound(subject: str) -> Outbound:
    """Read an ``ln.out`` subject back."""
    if (match := _OUTBOUND.fullmatch(subject)) is None:
        raise FabricError(f"not an outbound subject: {subject[:200]!r}")
    peer = bytes.fromhex(match["peer"])
    return Outbound(match["front"], peer, _parsed_channel(match["channel"]), match["name"])


def tapped(
    peer: bytes | None = None, channel: bytes | None = None, message: str | None = None
) -> tuple[str, str]:
    """What a tap hears: sessions' messages, both ways, of all peers and channels or of one."""
    of_peer = "*" if peer is None else _peer(peer)
    checked = _channel(channel)
    of_channel = "*" if checked is None else checked.hex()
    tail = f"{of_peer}.{of_channel}.{'*' if message is None else _name(message)}"
    return f"ln.in.*.{tail}", f"ln.out.*.{tail}"


# --- requests, heartbeats, gossip ----------------------------------------------------------------


def open_session(number: int) -> str:
    """Front to owner, request: may this peer in."""
    return f"ln.session.{_number(number)}.open"


def resume_session(number: int) -> str:
    """Front to owner, request: what do you expect next, for a batch of sessions."""
    return f"ln.session.{_number(number)}.resume"


def hello(number: int) -> str:
    """Owner to all: I own this shard."""
    return f"ln.hello.{_number(number)}"


def alive(front: str) -> str:
    """Front to all: its heartbeat."""
    return f"ln.alive.{front_token(front)}"


def relay(number: int, message: str) -> str:
    """Back to the owner of a shard: one side of a forward to the other."""
    return f"ln.relay.{_number(number)}.{_name(message)}"


def shard_relay(number: int) -> str:
    """Return what the owner of a shard subscribes for forwards, in the group `back_group`."""
    return f"ln.relay.{_number(number)}.*"


def onion(number: int) -> str:
    """Front to owner: onion messages, unnumbered."""
    return f"ln.onion.{_number(number)}"


def gossip(kind: str) -> str:
    """Front to back: a new announcement, ``kind`` being the BOLT 7 message name."""
    return f"ln.gossip.{_name(kind)}"


def verdict(front: str) -> str:
    """Back to one front: what became of an announcement."""
    return f"ln.verdict.{front_token(front)}"


def graph_channel(short_channel_id: int) -> str:
    """Routing table: the announcement of a channel."""
    return f"ln.graph.channel.{_scid(short_channel_id)}"


def graph_update(short_channel_id: int, direction: int) -> str:
    """Routing table: the last update of one direction (0 or 1) of a channel."""
    if direction not in {0, 1}:
        raise ValueError(f"direction {direction} is neither 0 nor 1")
    return f"ln.graph.update.{_scid(short_channel_id)}.{direction}"


def graph_node(node_id: bytes) -> str:
    """Routing table: the last announcement of a node."""
    return f"ln.graph.node.{_peer(node_id)}"


def event(topic: str) -> str:
    """Back to users: the event log."""
    return f"ln.event.{_name(topic)}"


def parse_last_token(subject: str) -> str:
    """Return the last token: the shard of a hello, the front of a heartbeat."""
    return subject.rpartition(".")[2]


# --- tokens -----------------------------------------------------------------------------------


def front_token(name: str) -> str:
    """Check a front's name: letters, digits, ``_`` and ``-``, at most 64."""
    if not _FRONT.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not a front's name: letters, digits, _ and - only")
    return name


def _peer(node_id: bytes) -> str:
    if len(node_id) != 33 or node_id[0] not in {2, 3}:
        raise ValueError(
            f"a node id has 33 bytes and starts with 02 or 03, got {node_id[:40].hex()}"
        )
    return node_id.hex()


def _channel(channel_id: bytes | None) -> bytes | None:
    if channel_id is not None and len(channel_id) != 32:
        raise ValueError(f"a channel id has 32 bytes, got {len(channel_id)}")
    return channel_id


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not a message name")
    return name


def _number(number: int) -> int:
    if not 0 <= number < SHARDS:
        raise ValueError(f"shard {number} is not in 0..{SHARDS - 1}")
    return number


def _scid(short_channel_id: int) -> int:
    if not 0 <= short_channel_id < 1 << 64:
        raise ValueError(f"{short_channel_id} is not a short channel id")
    return short_channel_id


def _parsed_channel(token: str) -> bytes | None:
    return None if token == _NO_CHANNEL else bytes.fromhex(token)
