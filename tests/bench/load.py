"""Load from a process of its own: ``python -m tests.bench.load KIND JSON``; prints JSON."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.gossip_peers import feeding
from support.lightning_peer import LightningPeer
from support.network import Shape, generate

from shared.wire import ChannelReestablish, Error

FILLER_TLV = 65533
"""An unknown odd record: makes a message as long as wanted."""


async def handshakes(node_id: str, port: int, seconds: float, workers: int) -> dict[str, float]:
    """Connect, finish BOLT 8, hang up; as many a second as go."""
    done = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            peer = await LightningPeer.connect(bytes.fromhex(node_id), "127.0.0.1", port)
            done += 1
            await peer.close()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return {"handshakes_per_s": done / (time.perf_counter() - began)}


async def round_trips(node_id: str, port: int, count: int, size: int) -> dict[str, float]:
    """Time a message to the back and its answer: peer, front, NATS, back, NATS, front, peer."""
    peer = await LightningPeer.connect(bytes.fromhex(node_id), "127.0.0.1", port)
    await peer.init()
    plain = ChannelReestablish(
        channel_id=b"\x01" * 32,
        next_commitment_number=1,
        next_revocation_number=0,
        your_last_per_commitment_secret=bytes(32),
        my_current_per_commitment_point=b"\x02" + b"\x01" * 32,
    )
    message = ChannelReestablish(
        **{name: getattr(plain, name) for name in plain.model_fields_set},
        unknown_tlvs={FILLER_TLV: bytes(size - 113 - 2 - 6)},
    )
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await peer.send(message)
        await peer.expect(Error)
        times.append((time.perf_counter() - began) * 1000)
    await peer.close()
    times.sort()
    return {"p50_ms": times[len(times) // 2], "p99_ms": times[int(len(times) * 0.99)]}


async def idle(node_id: str, port: int, count: int) -> dict[str, float]:
    """Connect ``count`` peers with init, say so, and stay until stdin ends."""
    peers = []
    for start in range(0, count, 50):
        batch = await asyncio.gather(
            *(
                LightningPeer.connect(bytes.fromhex(node_id), "127.0.0.1", port)
                for _ in range(min(50, count - start))
            )
        )
        await asyncio.gather(*(peer.init() for peer in batch))
        peers += batch
    print(json.dumps({"connected": len(peers)}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    return {}


async def feed(
    node_id: str, port: int, channels: int, nodes: int, newest: int, first_block: int
) -> dict[str, float]:
    """Tell a synthetic network, answer queries about it, and stay until stdin ends."""
    network = generate(Shape(channels, nodes), newest, first_block=first_block)
    async with feeding(bytes.fromhex(node_id), port, network) as feeder:
        began = time.perf_counter()
        await feeder.feed()
        seconds = time.perf_counter() - began
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    return {"told_in_s": seconds}


KINDS: dict[str, Any] = {
    "feed": feed,
    "handshakes": handshakes,
    "idle": idle,
    "round_trips": round_trips,
}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(KINDS[sys.argv[1]](**json.loads(sys.argv[2])))), flush=True)
