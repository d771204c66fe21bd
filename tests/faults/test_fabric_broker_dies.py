"""The broker is killed, restarted, frozen, or only one of several is left."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import AsyncExitStack

from support.broker import client, cluster, running, until
from support.sessions import CONNECTED, EPOCH, PEER, SESSION, body

from shared.errors import FabricUnavailable
from shared.fabric import certificates, server, subjects
from shared.fabric.client import FabricClient
from shared.fabric.envelope import decode
from shared.fabric.interface import Received
from shared.fabric.session import BackSession, Deliver, Effect, FrontSession, Publish, Session

FRONT = "f1"


async def test_a_killed_and_restarted_broker_is_found_again_with_all_subscriptions(
    tmp_path,
) -> None:
    async with AsyncExitStack() as stack:
        broker = await server.start(cluster(), tmp_path / "a")
        back = await stack.enter_async_context(client(broker, "back"))
        front = await stack.enter_async_context(client(broker, "front"))
        calls: list[str] = []
        front.on_lost(lambda: calls.append("lost"))
        front.on_back(lambda: calls.append("back"))
        heard: list[Received] = []
        await front.subscribe("ln.out.f1.>", heard.append)
        await broker.kill()
        await until(lambda: not front.connected and not back.connected, 3)
        assert not back.publish("ln.out.f1.a.b.c", b"lost")
        late: list[Received] = []
        await front.subscribe("ln.hello.*", late.append)
        async with running(tmp_path / "a", port=broker.port):
            await until(lambda: front.connected and back.connected, 5)
            back.publish("ln.out.f1.a.b.c", b"again")
            back.publish("ln.hello.7", b"made while away")
            await until(lambda: heard and late)
        assert [r.payload for r in heard] == [b"again"]
        assert calls[:2] == ["lost", "back"]


async def test_a_frozen_broker_is_noticed_within_five_seconds(tmp_path) -> None:
    async with running(tmp_path) as broker, client(broker, "front") as front:
        broker.process.send_signal(signal.SIGSTOP)
        try:
            assert await until(lambda: not front.connected, 5) > 0.5
        finally:
            broker.process.send_signal(signal.SIGCONT)
        await until(lambda: front.connected, 5)


async def test_a_client_moves_from_a_frozen_broker_to_another(tmp_path) -> None:
    async with running(tmp_path / "a") as one, running(tmp_path / "b") as two:
        credentials = certificates.credentials(cluster(), "front")
        fabric = FabricClient([one.url, two.url], credentials, role="front", name="x")
        await fabric.start(timeout_s=5)
        one.process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        try:
            await until(lambda: not fabric.connected, 5)
            await until(lambda: fabric.connected, 5)
            assert time.monotonic() - start < 8
            await fabric.barrier()
        finally:
            one.process.send_signal(signal.SIGCONT)
            await fabric.stop()


async def test_a_process_that_starts_before_its_broker_waits_for_it(tmp_path) -> None:
    async with running(tmp_path / "probe") as broker:
        port = broker.port
    async with client(broker, "front", start=False) as front:
        starting = asyncio.create_task(front.start())
        await asyncio.sleep(0.3)
        assert not starting.done()
        async with running(tmp_path / "later", port=port):
            await asyncio.wait_for(starting, 5)
            await front.barrier()


async def test_a_broker_that_dies_during_a_request_fails_it(tmp_path) -> None:
    async with running(tmp_path) as broker, client(broker, "back") as back:
        await back.subscribe("ln.key.ecdh", lambda _r: None, group="key")
        async with client(broker, "front") as front:
            asking = asyncio.create_task(front.request("ln.key.ecdh", b"", timeout_s=1))
            await asyncio.sleep(0.05)
            await broker.kill()
            failed = (await asyncio.gather(asking, return_exceptions=True))[0]
            assert isinstance(failed, FabricUnavailable)


async def test_stopping_beside_a_frozen_broker_takes_no_longer_than_a_few_seconds(tmp_path) -> None:
    async with running(tmp_path) as broker:
        async with client(broker, "front") as front:
            await front.subscribe("ln.hello.*", lambda _r: None)
            broker.process.send_signal(signal.SIGSTOP)
            start = time.monotonic()
            await front.stop()
            took = time.monotonic() - start
        broker.process.send_signal(signal.SIGCONT)
        assert took < 5


def test_an_embedded_broker_dies_with_its_parent(tmp_path) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from shared.fabric import server
        async def main():
            broker = await server.start(Path(sys.argv[1]), Path(sys.argv[2]))
            print(broker.process.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(cluster()), str(tmp_path)], stdout=subprocess.PIPE
    )
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while _is_running(pid):
        assert time.monotonic() < deadline, "the broker outlived its parent"
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Side:
    """A session of one side driven by the clock and a real fabric, as the processes do it."""

    def __init__(self, fabric: FabricClient, session: Session) -> None:
        self.fabric = fabric
        self.session = session
        self.got: list[bytes] = []
        self.ended = False
        fabric.on_lost(session.fabric_lost)
        fabric.on_back(lambda: self.do(session.fabric_back(self.now)))
        self._ticking = asyncio.create_task(self._tick())

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def send(self, number: int) -> None:
        self.do(self.session.send("update_fee", b"\x22" * 32, body(number), 100, self.now))

    def receive(self, received: Received) -> None:
        parse = subjects.parse_inbound if received.subject[3] == "i" else subjects.parse_outbound
        parsed = parse(received.subject)
        envelope = decode(received.payload)
        self.do(self.session.receive(parsed.name, parsed.channel, envelope, self.now))

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Publish(subject, payload):
                    self.fabric.publish(subject, payload)
                case Deliver(seq, name, _, message):
                    if name == "update_fee":
                        self.got.append(message)
                    if isinstance(self.session, FrontSession):
                        self.do(self.session.written(seq, self.now))
                case _:
                    self.ended = True

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            deadline = self.session.next_deadline()
            if deadline is not None and deadline <= self.now:
                self.do(self.session.poll(self.now))

    def stop(self) -> None:
        self._ticking.cancel()


async def test_a_session_under_load_goes_on_over_two_broker_restarts(tmp_path) -> None:
    """Nothing is lost, nothing comes twice, nobody is disconnected."""
    async with AsyncExitStack() as stack:
        broker = await server.start(cluster(), tmp_path)
        back_fabric = await stack.enter_async_context(client(broker, "back"))
        front_fabric = await stack.enter_async_context(client(broker, "front"))
        front_session = FrontSession(SESSION, FRONT, PEER)
        back = Side(back_fabric, BackSession(SESSION, FRONT, PEER, EPOCH, True))
        front = Side(front_fabric, front_session)
        stack.callback(front.stop)
        stack.callback(back.stop)
        shard = subjects.shard_inbound(subjects.shard(PEER))
        await back_fabric.subscribe(shard, back.receive, group=subjects.back_group(EPOCH))
        await front_fabric.subscribe(subjects.front_outbound(FRONT), front.receive)
        front.do(front_session.opened(EPOCH, True, front.now))
        front.do(front_session.send("connected", None, CONNECTED, 0, front.now))
        sent = 800

        async def load() -> None:
            for number in range(sent):
                front.send(number)
                back.send(number)
                await asyncio.sleep(0.001)

        loading = asyncio.create_task(load())
        for enough in (200, 500):
            await until(lambda enough=enough: len(back.got) >= enough)
            await broker.kill()
            broker = await server.start(cluster(), tmp_path, port=broker.port)
            await until(lambda: front_fabric.connected and back_fabric.connected)
        await loading
        await until(lambda: len(back.got) == len(front.got) == sent, 15)
        await broker.stop()
        expected = [body(n) for n in range(sent)]
        assert back.got == expected
        assert front.got == expected
        assert not front.ended
        assert not back.ended
