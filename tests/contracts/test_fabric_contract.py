"""What every `Fabric` keeps, whether a NATS server carries it or memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from support.broker import client, running, until

from shared.errors import FabricUnavailable, PermissionDenied
from shared.fabric.interface import Fabric, Received
from shared.fabric.memory import MemoryBroker, MemoryFabric


@dataclass
class Cast:
    """Two backs and a front on one broker."""

    back: Fabric
    other: Fabric
    front: Fabric


@pytest.fixture(params=["memory", "nats"])
async def cast(request, tmp_path) -> AsyncIterator[Cast]:
    if request.param == "nats":
        async with (
            running(tmp_path) as broker,
            client(broker, "back") as back,
            client(broker, "back") as other,
            client(broker, "front") as front,
        ):
            yield Cast(back, other, front)
        return
    memory = MemoryBroker()
    memory.denied = lambda action, subject: (
        (action, subject) in {("subscription", "ln.in.>"), ("publish", "ln.out.denied.a.b.c")}
    )
    members = [MemoryFabric(memory, name) for name in ("back", "other", "front")]
    for member in members:
        await member.start()
    yield Cast(*members)
    for member in members:
        await member.stop()


def payloads(received: list[Received]) -> list[bytes]:
    return [r.payload for r in received]


async def test_what_is_published_arrives_in_order(cast: Cast) -> None:
    got: list[Received] = []
    await cast.front.subscribe("ln.out.f.>", got.append)
    for n in range(1000):
        assert cast.back.publish("ln.out.f.a.b.c", b"%d" % n)
    await until(lambda: len(got) == 1000)
    assert payloads(got) == [b"%d" % n for n in range(1000)]
    assert {r.subject for r in got} == {"ln.out.f.a.b.c"}


async def test_a_subscription_stands_when_subscribe_returns(cast: Cast) -> None:
    for n in range(50):
        got: list[Received] = []
        subscription = await cast.front.subscribe("ln.out.f.>", got.append)
        cast.back.publish("ln.out.f.a.b.c", b"%d" % n)
        await until(lambda got=got: len(got) == 1)
        await subscription.close()


async def test_wildcards_select(cast: Cast) -> None:
    got: list[Received] = []
    await cast.front.subscribe("ln.hello.*", got.append)
    cast.back.publish("ln.hello.7", b"x")
    cast.back.publish("ln.out.f.a.b.c", b"y")
    cast.back.publish("ln.hello.8", b"z")
    await until(lambda: len(got) == 2)
    assert payloads(got) == [b"x", b"z"]


async def test_coroutine_handlers_run_one_after_the_other(cast: Cast) -> None:
    running_now, most, done = 0, 0, []

    async def handle(received: Received) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0)
        running_now -= 1
        done.append(received.payload)

    await cast.front.subscribe("ln.out.f.>", handle)
    for n in range(20):
        cast.back.publish("ln.out.f.a.b.c", b"%d" % n)
    await until(lambda: len(done) == 20)
    assert most == 1
    assert done == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_handler_that_fails_does_not_stop_the_next_message(cast: Cast, kind: str) -> None:
    got: list[bytes] = []

    def plain(received: Received) -> None:
        if received.payload == b"bad":
            raise ValueError("bad")
        got.append(received.payload)

    async def coroutine(received: Received) -> None:
        plain(received)

    await cast.front.subscribe("ln.out.f.>", plain if kind == "plain" else coroutine)
    for payload in (b"1", b"bad", b"2"):
        cast.back.publish("ln.out.f.a.b.c", payload)
    await until(lambda: len(got) == 2)
    assert got == [b"1", b"2"]


async def test_a_request_is_answered(cast: Cast) -> None:
    async def answer(request: Received) -> None:
        cast.back.respond(request, b"answer to " + request.payload)

    await cast.back.subscribe("ln.key.ecdh", answer, group="key")
    replies = await asyncio.gather(
        *(cast.front.request("ln.key.ecdh", b"%d" % n, timeout_s=2) for n in range(50))
    )
    assert replies == [b"answer to %d" % n for n in range(50)]


async def test_a_request_that_nobody_hears_fails_at_once(cast: Cast) -> None:
    with pytest.raises(FabricUnavailable, match="nobody listens"):
        await asyncio.wait_for(cast.front.request("ln.key.ecdh", b"", timeout_s=30), 5)


async def test_a_request_that_nobody_answers_times_out(cast: Cast) -> None:
    await cast.back.subscribe("ln.key.ecdh", lambda _request: None, group="key")
    with pytest.raises(FabricUnavailable, match="no answer"):
        await cast.front.request("ln.key.ecdh", b"", timeout_s=0.1)


async def test_one_member_of_a_queue_group_gets_each_message(cast: Cast) -> None:
    first: list[Received] = []
    second: list[Received] = []
    await cast.back.subscribe("ln.in.7.>", first.append, group="back.7")
    await cast.other.subscribe("ln.in.7.>", second.append, group="back.7")
    for n in range(200):
        cast.front.publish("ln.in.7.a.b.c", b"%d" % n)
    await until(lambda: len(first) + len(second) == 200)
    assert first
    assert second
    assert sorted(payloads(first) + payloads(second)) == sorted(b"%d" % n for n in range(200))


async def test_groups_of_two_epochs_both_get_everything(cast: Cast) -> None:
    former: list[Received] = []
    owner: list[Received] = []
    await cast.back.subscribe("ln.in.7.>", former.append, group="back.7")
    await cast.other.subscribe("ln.in.7.>", owner.append, group="back.8")
    for n in range(20):
        cast.front.publish("ln.in.7.a.b.c", b"%d" % n)
    await until(lambda: len(former) == len(owner) == 20)


async def test_draining_a_member_of_a_queue_group_loses_nothing(cast: Cast) -> None:
    """A hand-over under load: whatever the broker gave to the leaving member, it handles."""
    got: list[bytes] = []

    async def slow(received: Received) -> None:
        await asyncio.sleep(0)
        got.append(received.payload)

    stop = asyncio.Event()
    sent = 0

    async def load() -> None:
        nonlocal sent
        while not stop.is_set():
            for _ in range(20):
                cast.front.publish("ln.in.7.a.b.c", b"%d" % sent)
                sent += 1
            await asyncio.sleep(0)

    await cast.other.subscribe("ln.in.7.>", slow, group="back.7")
    loading = asyncio.create_task(load())
    for _ in range(10):
        leaving = await cast.back.subscribe("ln.in.7.>", slow, group="back.7")
        await asyncio.sleep(0.02)
        await leaving.drain()
    stop.set()
    await loading
    await until(lambda: len(got) >= sent)
    assert sorted(got, key=int) == [b"%d" % n for n in range(sent)]


async def test_a_drained_subscription_hears_no_more(cast: Cast) -> None:
    got: list[Received] = []
    subscription = await cast.front.subscribe("ln.out.f.>", got.append)
    cast.back.publish("ln.out.f.a.b.c", b"1")
    await cast.back.barrier()
    await subscription.drain()
    assert payloads(got) == [b"1"]
    cast.back.publish("ln.out.f.a.b.c", b"2")
    await cast.back.barrier()
    await cast.front.barrier()
    assert payloads(got) == [b"1"]


async def test_stop_handles_what_has_arrived(cast: Cast) -> None:
    got: list[bytes] = []

    async def slow(received: Received) -> None:
        await asyncio.sleep(0.001)
        got.append(received.payload)

    await cast.other.subscribe("ln.in.7.>", slow, group="back.1")
    for n in range(100):
        cast.front.publish("ln.in.7.a.b.c", b"%d" % n)
    await cast.front.barrier()
    await cast.other.barrier()
    await cast.other.stop()
    assert len(got) == 100


async def test_a_denied_subscription_raises(cast: Cast) -> None:
    with pytest.raises(PermissionDenied):
        await cast.front.subscribe("ln.in.>", lambda _received: None)


async def test_a_denied_publish_is_told(cast: Cast) -> None:
    denied: list[str] = []
    cast.front.on_denied(denied.append)
    cast.front.publish("ln.out.denied.a.b.c", b"forged")
    await until(lambda: denied)
    assert "ln.out.denied.a.b.c" in denied[0]


async def test_nothing_can_be_sent_after_stop(cast: Cast) -> None:
    await cast.front.stop()
    assert not cast.front.connected
    assert not cast.front.publish("ln.in.7.a.b.c", b"")
    with pytest.raises(FabricUnavailable):
        await cast.front.request("ln.key.ecdh", b"", timeout_s=1)
    with pytest.raises(FabricUnavailable):
        await cast.front.barrier()
