"""A back's commits and its publisher of events, which dies where it is told to.

Usage: python dying_publisher.py DATABASE NATS CERTIFICATES MOMENT COUNT. Commits events one by one
while the publisher brings them to the stream; kills itself at a moment of its COUNT-th batch:
``publish`` (in the middle of its messages), ``delete`` (before) or ``deleted`` (after).
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.databases import storing  # noqa: E402
from support.events import QUICK, RETENTION  # noqa: E402

from back.events.publisher import EventPublisher  # noqa: E402
from back.events.rows import StoredRows  # noqa: E402
from back.storage import outbox  # noqa: E402
from shared.fabric import certificates  # noqa: E402
from shared.fabric.client import FabricClient  # noqa: E402


class Dying:
    """Counts batches and ends the process at a moment of one."""

    def __init__(self, moment: str, count: int) -> None:
        self.moment, self.left = moment, count

    def at(self, moment: str) -> None:
        """Die here, if it is time."""
        if moment == self.moment:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, nats: str, certs: str, moment: str, count: str) -> None:
    dying = Dying(moment, int(count))
    credentials = certificates.credentials(Path(certs), "back")
    fabric = FabricClient([nats], credentials, role="back", name="dying")
    publish = fabric.publish

    def half_way(subject: str, payload: bytes, **options: object) -> bool:
        is_sent = publish(subject, payload, **options)  # type: ignore[arg-type]
        if subject.startswith("ln.event."):
            dying.at("publish")
        return is_sent

    fabric.publish = half_way  # type: ignore[method-assign]
    await fabric.start(timeout_s=10)
    async with storing(url, owner="child", poll_s=0.1) as store:
        rows = StoredRows(store)
        forget = StoredRows.forget

        async def forgetting(self: StoredRows, numbers: list[int]) -> None:
            dying.at("delete")
            await forget(self, numbers)
            dying.at("deleted")

        StoredRows.forget = forgetting  # type: ignore[method-assign,assignment]
        publisher = EventPublisher(fabric, rows, RETENTION, rules=QUICK)
        store.committer.tell_rows(outbox.ADD, lambda _rows: publisher.wake())
        publisher.start()
        for n in range(10_000):
            event = outbox.event("payment_sent", f'{{"type":"payment-sent","n":{n}}}', 1)
            await store.committer.submit(0, [event] * 3)


asyncio.run(main(*sys.argv[1:]))
