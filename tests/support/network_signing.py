"""Signed announcements of made-up nodes, made in worker processes.

Every key, fee and alias comes from the seed: the same seed gives the same bytes. The messages are
packed here by hand, apart from `shared.wire` and `shared.gossip`, so that each tests the other.
"""

import random
from functools import cache
from hashlib import sha256
from struct import Struct
from typing import NamedTuple

import coincurve

__all__ = [
    "ChannelJob",
    "NodeJob",
    "funding_privates",
    "node_id",
    "seeded",
    "sign_channels",
    "sign_nodes",
]

_SCID = Struct(">Q")
_UPDATE = Struct(">32sQIBBHQIIQ")
_BASE_FEES_MSAT = (0, 0, 0, 1, 100, 1_000, 1_000, 1_000)
_CLTV_DELTAS = (34, 40, 40, 80, 80, 144)
_MINIMA_MSAT = (1, 1_000, 1_000, 1_000)
_DISABLED_SHARE = 0.04
_CHANNEL_FEATURES = (b"", b"", b"", b"", b"\x02")
"""As it is on mainnet: nearly always empty; the last is an odd bit that nobody knows."""
_NODE_FEATURES = tuple(
    bytes.fromhex(text) for text in ("8000000002aaa2", "88a0000a8a5961", "02aaa2", "800000080a69a2")
)
_WORDS = (
    "rain",
    "fjord",
    "köln",
    "yield",
    "node",
    "⚡",
    "swift",
    "acorn",
    "loop",
    "mesa",
    "zürich",
)


class ChannelJob(NamedTuple):
    """Channels to announce, in one worker.

    Attributes:
        seed: of the network.
        chain_hash: of their chain.
        first: number of the first channel; it seeds the job's randomness.
        newest: latest unix time of an update.
        spread_s: how much older an update may be.
        channels: short_channel_id, capacity_sat and the two nodes' numbers of each.
    """

    seed: int
    chain_hash: bytes
    first: int
    newest: int
    spread_s: int
    channels: tuple[tuple[int, int, int, int], ...]


class NodeJob(NamedTuple):
    """Nodes to announce, in one worker."""

    seed: int
    newest: int
    spread_s: int
    nodes: tuple[int, ...]


@cache
def _node(seed: int, number: int) -> tuple[coincurve.PrivateKey, bytes]:
    private = coincurve.PrivateKey(sha256(f"squall {seed} node {number}".encode()).digest())
    return private, private.public_key.format()


def seeded(text: str) -> random.Random:
    """Return randomness that is the same whenever the text is."""
    return random.Random(text)  # noqa: S311 - made-up data


def node_id(seed: int, number: int) -> bytes:
    """Return the node id of a number."""
    return _node(seed, number)[1]


def funding_privates(seed: int, number: int) -> tuple[bytes, bytes]:
    """Return the private keys of both bitcoin keys of a channel's number."""
    one, other = (sha256(f"squall {seed} funding {number} {n}".encode()).digest() for n in (1, 2))
    return one, other


def sign_channels(job: ChannelJob) -> list[tuple[bytes, bytes, bytes]]:
    """Return announcement and both updates of each channel."""
    chance = seeded(f"{job.seed} channels {job.first}")
    return [
        _channel(job, chance, job.first + offset, *channel)
        for offset, channel in enumerate(job.channels)
    ]


def _channel(
    job: ChannelJob,
    chance: random.Random,
    number: int,
    scid: int,
    capacity_sat: int,
    one: int,
    other: int,
) -> tuple[bytes, bytes, bytes]:
    ends = sorted((_node(job.seed, n) for n in (one, other)), key=lambda end: end[1])
    bitcoin = [coincurve.PrivateKey(key) for key in funding_privates(job.seed, number)]
    features = chance.choice(_CHANNEL_FEATURES)
    body = b"".join(
        (
            len(features).to_bytes(2, "big"),
            features,
            job.chain_hash,
            _SCID.pack(scid),
            ends[0][1],
            ends[1][1],
            bitcoin[0].public_key.format(),
            bitcoin[1].public_key.format(),
        )
    )
    announcement = _signed(256, body, ends[0][0], ends[1][0], *bitcoin)
    updates = (
        _signed(258, _update(job, chance, scid, direction, capacity_sat), private)
        for direction, (private, _) in enumerate(ends)
    )
    return (announcement, *updates)


def _update(
    job: ChannelJob, chance: random.Random, scid: int, direction: int, capacity_sat: int
) -> bytes:
    disabled = 2 if chance.random() < _DISABLED_SHARE else 0
    return _UPDATE.pack(
        job.chain_hash,
        scid,
        job.newest - chance.randrange(job.spread_s),
        1,
        direction | disabled,
        chance.choice(_CLTV_DELTAS),
        chance.choice(_MINIMA_MSAT),
        chance.choice(_BASE_FEES_MSAT),
        min(int(chance.lognormvariate(5, 1.6)), 50_000),
        capacity_sat * chance.choice((1_000, 990, 500)),
    )


def sign_nodes(job: NodeJob) -> list[bytes]:
    """Return the announcement of each node."""
    return [_announced(job, number) for number in job.nodes]


def _announced(job: NodeJob, number: int) -> bytes:
    chance = seeded(f"{job.seed} node {number}")
    private, public = _node(job.seed, number)
    features = chance.choice(_NODE_FEATURES)
    addresses = _addresses(chance, number)
    alias = f"{chance.choice(_WORDS)} {chance.choice(_WORDS)} {number}".encode()
    body = b"".join(
        (
            len(features).to_bytes(2, "big"),
            features,
            (job.newest - chance.randrange(job.spread_s)).to_bytes(4, "big"),
            public,
            chance.randbytes(3),
            alias.ljust(32, b"\0"),
            len(addresses).to_bytes(2, "big"),
            addresses,
        )
    )
    return _signed(257, body, private)


def _addresses(chance: random.Random, number: int) -> bytes:
    """Descriptors in ascending order; some nodes have none, many only Tor."""
    port = chance.choice((9735, 9735, 9735, chance.randrange(1024, 65535))).to_bytes(2, "big")
    parts = []
    if chance.random() < 0.5:
        parts.append(b"\1" + bytes((chance.randrange(11, 100),)) + chance.randbytes(3) + port)
    if chance.random() < 0.08:
        parts.append(b"\2\x26\x07" + chance.randbytes(14) + port)
    if chance.random() < 0.6:
        parts.append(b"\4" + chance.randbytes(34) + b"\3" + port)
    if chance.random() < 0.03:
        host = f"node-{number}.example.net".encode()
        parts.append(b"\5" + bytes((len(host),)) + host + port)
    return b"".join(parts)


def _signed(kind: int, body: bytes, *signers: coincurve.PrivateKey) -> bytes:
    digest = sha256(sha256(body).digest()).digest()
    signatures = [key.sign_recoverable(digest, hasher=None)[:64] for key in signers]
    return b"".join((kind.to_bytes(2, "big"), *signatures, body))
