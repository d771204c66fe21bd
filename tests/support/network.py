"""A synthetic Lightning network from a seed: valid signatures, plausible shape, any size.

::

    network = generate(Shape(channels=3_000, nodes=1_000), newest=recently())

Nothing here needs a chain: the short_channel_ids follow from ``first_block`` and the shape, and
`support.network_on_chain` makes blocks in which they are true. Made once, a network is read again
from ``.cache/network``.
"""

import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

from support.network_signing import ChannelJob, NodeJob, seeded, sign_channels, sign_nodes

from back.chain.block import Output
from back.chain.regtest import cache_folder, locked
from back.transactions.scripts import funding_script_pubkey
from shared.chain import REGTEST
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.view import channel_view, direction_of, node_view, update_key

__all__ = ["FULL", "Network", "Shape", "generate", "recently"]

_FORMAT = 1
_KEPT_FILES = 12
_JOB = 500
_POOL_FROM = 400
"""Channels from which worker processes are worth their start, and the cache its space."""
_MOST_OUTPUTS = 2_000
"""Of one funding transaction: 43 vbytes each, standard up to 100,000."""
_DAY_S = 86_400

Job = TypeVar("Job")
Made = TypeVar("Made")


def recently() -> int:
    """Return a unix time that stays the same for a day: so a network is found in the cache."""
    return int(time.time()) // _DAY_S * _DAY_S


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of network.

    Attributes:
        channels: how many; each has two updates.
        nodes: how many, all announced; at most ``channels`` + 1, so that each has a channel.
        seed: of keys, edges, amounts, fees, names.
        transactions: how many funding transactions share the channels; 0 chooses.
        transactions_per_block: of those.
        spread_s: how much older than the newest an update may be.
    """

    channels: int
    nodes: int
    seed: int = 1
    transactions: int = 0
    transactions_per_block: int = 5
    spread_s: int = 5 * _DAY_S

    @property
    def outputs_per_transaction(self) -> int:
        """Channels that one transaction funds."""
        wanted = self.transactions or max(24, math.ceil(self.channels / _MOST_OUTPUTS))
        return math.ceil(self.channels / wanted)

    def place(self, number: int, first_block: int) -> int:
        """Return the short_channel_id of a channel's number."""
        transaction, output = divmod(number, self.outputs_per_transaction)
        block, index = divmod(transaction, self.transactions_per_block)
        return (first_block + block) << 40 | (index + 1) << 16 | output


FULL = Shape(channels=50_000, nodes=17_000)
"""What Squall's figures are promised for: about the size of mainnet."""


@dataclass(frozen=True)
class Network:
    """Announcements of a whole network; all raw, with their types.

    Attributes:
        shape: what it was made from.
        channels: `channel_announcement` by short_channel_id, ascending.
        updates: `channel_update` by ``scid << 1 | direction``.
        nodes: `node_announcement` by node id.
        capacities_sat: of the funding outputs, by short_channel_id.
    """

    shape: Shape
    channels: dict[int, bytes] = field(repr=False)
    updates: dict[int, bytes] = field(repr=False)
    nodes: dict[bytes, bytes] = field(repr=False)
    capacities_sat: dict[int, int] = field(repr=False)

    @property
    def signatures(self) -> int:
        """How many signatures all announcements carry."""
        return 4 * len(self.channels) + len(self.updates) + len(self.nodes)

    @cached_property
    def raw_bytes(self) -> int:
        """Bytes of all announcements."""
        parts = (self.channels, self.updates, self.nodes)
        return sum(len(raw) for part in parts for raw in part.values())

    def output(self, scid: int) -> Output | None:
        """A stubbed UTXO set: the unspent output at a place, or None."""
        raw = self.channels.get(scid)
        if raw is None:
            return None
        view = channel_view(raw)
        script = funding_script_pubkey(view.bitcoin_key_1, view.bitcoin_key_2)
        return Output(self.capacities_sat[scid], script)

    @staticmethod
    def funding_txid(scid: int) -> bytes:
        """A stubbed txid for the transaction at a place."""
        return sha256((scid >> 16).to_bytes(6, "big")).digest()

    def of_channel(self, scid: int, flags: int = 0b111) -> Iterator[bytes]:
        """Announcement and updates of a channel, chosen by the bits of BOLT 7's ``query_flag``.

        Bit 3 and 4 give the nodes' announcements.
        """
        raw = self.channels[scid]
        if flags & 1:
            yield raw
        for direction in (0, 1):
            update = self.updates.get(update_key(scid, direction))
            if update is not None and flags >> 1 + direction & 1:
                yield update
        if flags >> 3:
            view = channel_view(raw)
            for direction, name in enumerate((view.node_id_1, view.node_id_2)):
                if flags >> 3 + direction & 1 and name in self.nodes:
                    yield self.nodes[name]

    def messages(self) -> Iterator[bytes]:
        """Everything once: each channel with its updates, and a node after its first channel."""
        told: set[bytes] = set()
        for scid, raw in self.channels.items():
            yield from self.of_channel(scid)
            view = channel_view(raw)
            for name in (view.node_id_1, view.node_id_2):
                if name not in told and name in self.nodes:
                    told.add(name)
                    yield self.nodes[name]

    def changes(self) -> Iterator[Change]:
        """What the routing table holds of it, as the stream GRAPH brings it; channels first."""
        for scid, raw in self.channels.items():
            record = ChannelRecord(raw, self.capacities_sat[scid], 0, self.funding_txid(scid))
            yield Change(Kind.CHANNEL, scid, record)
        for key, raw in self.updates.items():
            yield Change(Kind.UPDATE, key, raw)
        for name, raw in self.nodes.items():
            yield Change(Kind.NODE, name, raw)

    def degrees(self) -> Counter[bytes]:
        """How many channels each node has."""
        found: Counter[bytes] = Counter()
        for raw in self.channels.values():
            view = channel_view(raw)
            found.update((view.node_id_1, view.node_id_2))
        return found

    def part(self, first: int, end: int) -> "Network":
        """The channels of a range of their order, with the nodes that have one of them."""
        scids = list(self.channels)[first:end]
        channels = {scid: self.channels[scid] for scid in scids}
        names = {name for raw in channels.values() for name in channel_view(raw)[2:4]}
        return Network(
            self.shape,
            channels,
            {key: raw for key, raw in self.updates.items() if key >> 1 in channels},
            {name: raw for name, raw in self.nodes.items() if name in names},
            {scid: self.capacities_sat[scid] for scid in scids},
        )


def generate(
    shape: Shape,
    newest: int,
    *,
    first_block: int = 600_000,
    chain_hash: bytes = REGTEST.chain_hash,
    cached: bool = True,
) -> Network:
    """Make a network, or find it in the cache. Blocks: a second per 10,000 channels and core.

    Args:
        shape: its size and seed.
        newest: unix time of the newest announcement; see `recently`.
        first_block: where the funding transactions begin.
        chain_hash: of its chain.
        cached: read and write the cache, unless the network is small.
    """
    if not 2 <= shape.nodes <= shape.channels + 1:
        raise ValueError(f"{shape.nodes} nodes cannot share {shape.channels} channels")
    key = json.dumps([_FORMAT, asdict(shape), newest, first_block, chain_hash.hex()])
    file = cache_folder() / "network" / f"{sha256(key.encode()).hexdigest()[:20]}.bin"
    if not cached or shape.channels < _POOL_FROM:
        return _read(shape, _generate(shape, newest, first_block, chain_hash))
    if parent_process() is not None:
        raise RuntimeError("a program that makes networks needs `if __name__ == '__main__'`")
    with locked(file.parent):
        if file.exists():
            file.touch()
        else:
            _write(file, _generate(shape, newest, first_block, chain_hash))
    return _read(shape, _split(file.read_bytes()))


def _generate(shape: Shape, newest: int, first_block: int, chain_hash: bytes) -> Iterator[bytes]:
    ends, capacities = _edges(shape), _capacities(shape)
    channels = tuple(
        (shape.place(number, first_block), capacity, *pair)
        for number, (pair, capacity) in enumerate(zip(ends, capacities, strict=True))
    )
    channel_jobs = [
        ChannelJob(
            shape.seed, chain_hash, first, newest, shape.spread_s, channels[first : first + _JOB]
        )
        for first in range(0, shape.channels, _JOB)
    ]
    node_jobs = [
        NodeJob(shape.seed, newest, shape.spread_s, tuple(numbers))
        for numbers in _batches(range(shape.nodes), _JOB)
    ]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        run = pool.map if shape.channels >= _POOL_FROM else map
        signed = list(_flat(run, sign_channels, channel_jobs))
        nodes = list(_flat(run, sign_nodes, node_jobs))
    for announcement, *updates in signed:
        yield announcement
        yield from updates
    yield from nodes


def _flat(
    run: Callable[..., Iterator[list[Made]]], work: Callable[[Job], list[Made]], jobs: list[Job]
) -> Iterator[Made]:
    return itertools.chain.from_iterable(run(work, jobs))


def _batches(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[first : first + size] for first in range(0, len(numbers), size))


def _edges(shape: Shape) -> list[tuple[int, int]]:
    """Pairs of node numbers: few hubs, many leaves, connected, several channels between some."""
    chance = seeded(f"{shape.seed} edges")
    weights = list(itertools.accumulate(1 / (rank + 4) ** 0.85 for rank in range(shape.nodes)))
    pairs = []
    for number in range(1, shape.nodes):
        (hub,) = chance.choices(range(number), cum_weights=weights[:number])
        pairs.append((number, hub))
    while len(pairs) < shape.channels:
        one, other = chance.choices(range(shape.nodes), cum_weights=weights, k=2)
        if one != other:
            pairs.append((one, other))
    chance.shuffle(pairs)
    return pairs


def _capacities(shape: Shape) -> list[int]:
    """Small, so that a regtest miner can pay for all: 20,000 to 200,000 sat, more small ones."""
    chance = seeded(f"{shape.seed} capacities")
    return [round(20_000 * 10 ** chance.random()) for _ in range(shape.channels)]


def _write(file: Path, messages: Iterator[bytes]) -> None:
    parts = []
    for raw in messages:
        parts.append(len(raw).to_bytes(2, "big"))
        parts.append(raw)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_bytes(b"".join(parts))
    unfinished.replace(file)
    newest_first = sorted(file.parent.glob("*.bin"), key=lambda f: f.stat().st_mtime, reverse=True)
    for old in newest_first[_KEPT_FILES:]:
        old.unlink(missing_ok=True)


def _split(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : end]
        at = end


def _read(shape: Shape, messages: Iterator[bytes]) -> Network:
    channels: dict[int, bytes] = {}
    updates: dict[int, bytes] = {}
    nodes: dict[bytes, bytes] = {}
    for raw in messages:
        match int.from_bytes(raw[:2], "big"):
            case 256:
                channels[channel_view(raw).short_channel_id] = raw
            case 258:
                updates[update_key(*direction_of(raw))] = raw
            case _:
                nodes[node_view(raw).node_id] = raw
    capacities = dict(zip(channels, _capacities(shape), strict=True))
    return Network(shape, channels, updates, nodes, capacities)
