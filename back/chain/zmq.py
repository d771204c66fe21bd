"""bitcoind's ZMQ notifications, with their gaps noticed.

They only say that it is time to look: what happened is always asked by RPC. So a lost, late or
forged notification costs time, never truth.
"""

import asyncio
from collections.abc import Callable, Mapping
from struct import Struct

import structlog
import zmq
import zmq.asyncio

__all__ = ["Notifications"]

log = structlog.get_logger()

_SEQUENCE = Struct("<I")
RECEIVE_QUEUE = 20_000
"""Messages: a block brings a rawtx for each of its transactions."""
PARTS = 3


class Notifications:
    """Subscriptions to some topics of one bitcoind.

    Args:
        addresses: topic (``hashblock``, ``rawtx``, …) to address (``tcp://…``); empty addresses are
            left out.
        heard: called with topic and body; in the event loop, must not raise.
        missed: called with a topic after a gap in its numbering: something was lost.

    Attributes:
        count: messages heard so far, by topic.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        heard: Callable[[str, bytes], None],
        missed: Callable[[str], None],
    ) -> None:
        self._topics: dict[str, list[str]] = {}
        for topic, address in addresses.items():
            if address:
                self._topics.setdefault(address, []).append(topic)
        self._heard = heard
        self._missed = missed
        self._expected: dict[str, int] = {}
        self.count: dict[str, int] = dict.fromkeys(addresses, 0)

    async def run(self) -> None:
        """Listen until cancelled. Without any address: return at once."""
        if not self._topics:
            return
        context = zmq.asyncio.Context()
        try:
            async with asyncio.TaskGroup() as group:
                for address, topics in self._topics.items():
                    group.create_task(self._listen(context, address, topics))
        finally:
            context.destroy(linger=0)

    async def _listen(self, context: zmq.asyncio.Context, address: str, topics: list[str]) -> None:
        socket = context.socket(zmq.SUB)
        try:
            socket.set(zmq.RCVHWM, RECEIVE_QUEUE)
            socket.set(zmq.TCP_KEEPALIVE, 1)
            socket.set(zmq.TCP_KEEPALIVE_IDLE, 30)
            for topic in topics:
                socket.subscribe(topic.encode())
            socket.connect(address)
            while True:
                self.take(await socket.recv_multipart())
        finally:
            socket.close(linger=0)

    def take(self, parts: list[bytes]) -> None:
        """Take one message: topic, body, number."""
        if len(parts) != PARTS or len(parts[2]) != _SEQUENCE.size:
            log.warning("zmq_message_not_understood", parts=len(parts))
            return
        topic = parts[0].decode(errors="replace")
        if topic not in self.count:
            return  # a longer name with the same beginning
        (number,) = _SEQUENCE.unpack(parts[2])
        expected = self._expected.get(topic)
        self._expected[topic] = (number + 1) % (1 << 32)
        self.count[topic] += 1
        if expected is not None and number != expected:
            log.info("zmq_messages_missed", topic=topic, expected=expected, number=number)
            self._missed(topic)
        self._heard(topic, parts[1])
