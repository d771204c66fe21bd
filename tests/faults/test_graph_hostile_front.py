"""A stolen front and the routing table: it may spoil a value for a moment, never change the map.

The broker answers where it was asked to, and knows no rights for that: a front has answers, or
copies of other values, sent to subjects of the stream.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nats.aio.client import Client
from support.broker import client, running
from support.graph import Sink, ask, channel, following, table_of, writing
from support.waiting import until

from back.graph.writer import GraphWriter
from shared.errors import FabricError
from shared.fabric import subjects
from shared.fabric.client import FabricClient
from shared.fabric.envelope import decode
from shared.fabric.gossip import decode_submission
from shared.fabric.requests import Alive, Hello, NodeSelf, read
from shared.gossip.record import Change, Kind, change_subject, parse_change

if TYPE_CHECKING:
    from shared.fabric.interface import Received

VALUES = [channel(number) for number in range(5)]


@dataclass
class Scene:
    """A back that owns the table, an honest front, and a stolen one.

    Attributes:
        refused: keys whose value made no sense, as the back's follower said.
    """

    writer: GraphWriter
    back: FabricClient
    honest: FabricClient
    stolen: FabricClient
    sink: Sink
    refused: list[tuple[Kind, int | bytes]]

    @property
    def connection(self) -> Client:
        """What the thief types into."""
        found = self.stolen.connection
        assert found is not None
        return found


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    refused: list[tuple[Kind, int | bytes]] = []
    by_key = {(change.kind, change.key): change for change in VALUES}

    async with (
        running(tmp_path) as broker,
        client(broker, "back") as back,
        client(broker, "front") as honest,
        client(broker, "front-alone") as stolen,
        writing(back) as writer,
        following(honest) as (_, sink),
    ):

        def repair(kind: Kind, key: int | bytes) -> None:
            refused.append((kind, key))
            writer.put(by_key[kind, key])

        async with following(back, on_refused=repair):
            for change in VALUES:
                writer.put(change)
            await until(lambda: sink.table == table_of(VALUES))
            yield Scene(writer, back, honest, stolen, sink, refused)


async def answer_of_the_api(scene: Scene, target: str) -> None:
    await scene.connection.publish("$JS.API.STREAM.INFO.GRAPH", b"", reply=target)


async def empty_answer(scene: Scene, target: str) -> None:
    """A pull for which there is nothing is answered with a header and no payload."""
    name = await consumer(scene, deliver_policy="new")
    body = b'{"batch":1,"no_wait":true}'
    await scene.connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.GRAPH.{name}", body, reply=target)


async def consumer(scene: Scene, **config: object) -> str:
    """Make a consumer as the stolen front."""
    body = {
        "stream_name": "GRAPH",
        "config": {"name": "thief", "ack_policy": "none", "mem_storage": True, **config},
    }
    found = await ask(scene.stolen, "CONSUMER.CREATE.GRAPH.thief", **body)
    return str(found["name"])


@pytest.mark.parametrize("attack", [answer_of_the_api, empty_answer])
async def test_an_answer_sent_to_a_channel_deletes_and_changes_nothing(
    scene: Scene, attack
) -> None:
    target = change_subject(VALUES[3])
    await attack(scene, target)
    await until(lambda: scene.refused == [(Kind.CHANNEL, 3)], "the back noticed")
    await scene.writer.flushed()
    assert scene.sink.table == table_of(VALUES)
    # Whoever comes now gets the true value.
    async with following(scene.honest) as (follower, later):
        await until(follower.ready.is_set)
        assert later.table == table_of(VALUES)
        assert follower.refused == 0


async def test_a_copy_of_another_value_is_stored_as_that_value(scene: Scene) -> None:
    """The broker keeps the subject that a message had, so nothing is where it should not be."""
    name = await consumer(scene, deliver_policy="all")
    before = await last_seq(scene)
    await scene.connection.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.GRAPH.{name}",
        b'{"batch":1,"no_wait":true}',
        reply=change_subject(VALUES[3]),
    )

    async def copied() -> bool:
        return await last_seq(scene) > before

    await until(copied)
    async with following(scene.honest) as (follower, later):
        await until(follower.ready.is_set)
        assert later.table == scene.sink.table == table_of(VALUES)
        assert scene.refused == []


async def last_seq(scene: Scene) -> int:
    return int((await ask(scene.stolen, "STREAM.INFO.GRAPH"))["state"]["last_seq"])


PEER = b"\x02" * 33


@pytest.mark.parametrize(
    ("subscribed", "group", "target", "parse"),
    [
        ("ln.hello.*", "", "ln.hello.7", partial(read, Hello)),
        ("ln.alive.*", "", "ln.alive.f1", partial(read, Alive)),
        ("ln.in.>", "back.1", subjects.inbound(PEER, None, "connected"), decode),
        ("ln.gossip.>", "", "ln.gossip.node_announcement", decode_submission),
        ("ln.graph.self", "", "ln.graph.self", partial(read, NodeSelf)),
    ],
)
async def test_an_answer_sent_to_those_who_did_not_ask_is_nothing_that_they_understand(
    scene: Scene, subscribed: str, group: str, target: str, parse
) -> None:
    heard: list[Received] = []
    await scene.back.subscribe(subscribed, heard.append, group=group)
    await answer_of_the_api(scene, target)
    await until(lambda: heard)
    assert heard[0].subject == target
    with pytest.raises(FabricError):
        parse(heard[0].payload)


async def test_a_reader_of_ours_takes_nothing_of_anothers(scene: Scene) -> None:
    """Sent to the honest front's inbox, had the thief guessed it."""
    before = scene.sink.put_count
    other = channel(1, spent_height=5)
    scene.writer.put(other)
    await until(lambda: scene.sink.put_count == before + 1)
    async with following(scene.honest) as (follower, sink):
        await until(follower.ready.is_set)
        reader = follower._consumer
        assert reader is not None
        puts = sink.put_count
        await consumer(scene, deliver_policy="all", deliver_subject=reader._inbox)
        await until(lambda: reader.garbage > 0)
        assert sink.put_count == puts
        assert not reader.ended.is_set()


async def test_the_broker_refuses_a_reader_too_many(scene: Scene) -> None:
    """A bound for its memory; the readers that are there go on."""
    for number in range(2_000):
        body = {"stream_name": "GRAPH", "config": {"name": f"t{number}", "ack_policy": "none"}}
        try:
            await ask(scene.stolen, f"CONSUMER.CREATE.GRAPH.t{number}", **body)
        except AssertionError as error:
            assert "maximum consumers" in str(error)  # noqa: PT017  # the broker's words
            break
    else:
        pytest.fail("there is no limit")
    more = channel(70)
    scene.writer.put(more)
    await until(lambda: scene.sink.table == table_of([*VALUES, more]))


def test_every_value_is_of_its_subject_alone() -> None:
    gone = Change(VALUES[0].kind, VALUES[0].key, None)
    with pytest.raises(FabricError):
        parse_change(change_subject(gone), b"")
