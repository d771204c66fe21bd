"""Each role may do what it must, and nothing else: asked of a real server, both ways."""

import asyncio

import pytest
from support.broker import client, cluster, running, shared_cluster, until

from shared.errors import CommandError, FabricUnavailable, PermissionDenied
from shared.fabric import certificates
from shared.fabric.client import FabricClient
from shared.fabric.interface import Received

PEER = "02" + "11" * 32
IN = f"ln.in.39.{PEER}.-.connected"
OUT = f"ln.out.f1.{PEER}.-.ack"

EVERYTHING = [
    IN,
    OUT,
    f"ln.out.alone.{PEER}.-.ack",
    "ln.session.7.open",
    "ln.session.7.resume",
    "ln.hello.7",
    "ln.alive.f1",
    "ln.alive.alone",
    "ln.connect",
    "ln.key.ecdh",
    "ln.onion.7",
    "ln.graph.self",
    "ln.graph.channel.1",
    "ln.gossip.node_announcement",
    "ln.verdict.f1",
    "ln.verdict.alone",
    "ln.event.payment_received",
    "ln.unheard.of",
    "_INBOX.front.x.y",
    "_INBOX.front-alone.x.y",
    "_INBOX.back.x.y",
    "_INBOX.tap.x.y",
    "_INBOX.events.x.y",
    "_INBOX.admin.x.y",
    "_INBOX.x",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.CREATE.X",
    "$JS.API.STREAM.INFO.X",
    "$JS.API.STREAM.INFO.GRAPH",
    "$JS.API.STREAM.CREATE.GRAPH",
    "$JS.API.STREAM.UPDATE.GRAPH",
    "$JS.API.STREAM.PURGE.GRAPH",
    "$JS.API.STREAM.DELETE.GRAPH",
    "$JS.API.STREAM.SNAPSHOT.GRAPH",
    "$JS.API.STREAM.RESTORE.GRAPH",
    "$JS.API.STREAM.MSG.DELETE.GRAPH",
    "$JS.API.STREAM.MSG.GET.GRAPH",
    "$JS.API.DIRECT.GET.GRAPH",
    "$JS.API.STREAM.INFO.EVENTS",
    "$JS.API.STREAM.CREATE.EVENTS",
    "$JS.API.STREAM.UPDATE.EVENTS",
    "$JS.API.STREAM.PURGE.EVENTS",
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.STREAM.SNAPSHOT.EVENTS",
    "$JS.API.STREAM.MSG.DELETE.EVENTS",
    "$JS.API.STREAM.MSG.GET.EVENTS",
    "$JS.API.DIRECT.GET.EVENTS",
    "$JS.API.CONSUMER.CREATE.EVENTS.c",
    "$JS.API.CONSUMER.CREATE.EVENTS.c.ln.event.payment_sent",
    "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.c",
    "$JS.API.CONSUMER.INFO.EVENTS.c",
    "$JS.API.CONSUMER.MSG.NEXT.EVENTS.c",
    "$JS.API.CONSUMER.DELETE.EVENTS.c",
    "$JS.API.CONSUMER.LIST.EVENTS",
    "$JS.ACK.EVENTS.c.1.1.1.1.0",
    "$JS.FC.EVENTS.c.x",
    "$JS.API.CONSUMER.CREATE.X.c",
    "$JS.API.CONSUMER.CREATE.GRAPH",
    "$JS.API.CONSUMER.CREATE.GRAPH.c",
    "$JS.API.CONSUMER.CREATE.GRAPH.c.ln.graph.tip",
    "$JS.API.CONSUMER.DURABLE.CREATE.GRAPH.c",
    "$JS.API.CONSUMER.MSG.NEXT.X.c",
    "$JS.API.CONSUMER.MSG.NEXT.GRAPH.c",
    "$JS.API.CONSUMER.DELETE.GRAPH.c",
    "$JS.API.CONSUMER.NAMES.GRAPH",
    "$JS.ACK.GRAPH.c.1.1.1.1.0",
    "$JS.FC.GRAPH.c.x",
    "$SYS.REQ.SERVER.PING",
    "other",
]

FOLLOWS_GRAPH = {
    "$JS.API.STREAM.INFO.GRAPH",
    "$JS.API.CONSUMER.CREATE.GRAPH.c",
    "$JS.API.CONSUMER.MSG.NEXT.GRAPH.c",
}
FRONT_PUBLISHES = FOLLOWS_GRAPH | {
    IN,
    "ln.session.7.open",
    "ln.session.7.resume",
    "ln.key.ecdh",
    "ln.onion.7",
    "ln.gossip.node_announcement",
}
PUBLISHES = {
    "back": FOLLOWS_GRAPH
    | {
        "$JS.API.STREAM.CREATE.GRAPH",
        "$JS.API.STREAM.UPDATE.GRAPH",
        "$JS.API.STREAM.INFO.EVENTS",
        "$JS.API.STREAM.CREATE.EVENTS",
        "$JS.API.STREAM.UPDATE.EVENTS",
        "$JS.API.STREAM.MSG.GET.EVENTS",
        OUT,
        f"ln.out.alone.{PEER}.-.ack",
        "ln.hello.7",
        "ln.connect",
        "ln.graph.self",
        "ln.graph.channel.1",
        "ln.verdict.f1",
        "ln.verdict.alone",
        "ln.event.payment_received",
    },
    "front": FRONT_PUBLISHES | {"ln.alive.f1", "ln.alive.alone"},
    "front-alone": FRONT_PUBLISHES | {"ln.alive.alone"},
    "tap": set(),
    "events": {
        "$JS.API.STREAM.INFO.EVENTS",
        "$JS.API.CONSUMER.CREATE.EVENTS.c",
        "$JS.API.CONSUMER.CREATE.EVENTS.c.ln.event.payment_sent",
        "$JS.API.CONSUMER.INFO.EVENTS.c",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.c",
        "$JS.ACK.EVENTS.c.1.1.1.1.0",
        "$JS.FC.EVENTS.c.x",
    },
    "admin": {subject for subject in EVERYTHING if subject.startswith("$JS.API.")},
}

SUBSCRIPTIONS = [
    (">", ""),
    ("*", ""),
    ("ln.>", ""),
    ("ln.in.>", ""),
    ("ln.in.7.>", ""),
    ("ln.in.7.>", "back.17"),
    ("ln.in.7.>", "another"),
    ("ln.out.>", ""),
    ("ln.out.f1.>", ""),
    ("ln.out.alone.>", ""),
    ("ln.out.*.>", ""),
    ("ln.session.7.open", "back.17"),
    ("ln.session.7.open", ""),
    ("ln.session.7.resume", "back.17"),
    ("ln.onion.7", "back.17"),
    ("ln.hello.*", ""),
    ("ln.alive.*", ""),
    ("ln.*.*.*.*.commitment_signed", ""),
    ("ln.*.*.*.*.commitment_signed", "back.17"),
    ("ln.connect", "front"),
    ("ln.connect", ""),
    ("ln.connect", "mine"),
    ("ln.key.ecdh", "key"),
    ("ln.key.ecdh", ""),
    ("ln.graph.self", ""),
    ("ln.graph.>", ""),
    ("ln.gossip.>", ""),
    ("ln.verdict.f1", ""),
    ("ln.verdict.alone", ""),
    ("ln.event.>", ""),
    ("_INBOX.>", ""),
    ("_INBOX.*.>", ""),
    ("_INBOX.back.>", ""),
    ("_INBOX.front.>", ""),
    ("_INBOX.front-alone.>", ""),
    ("_INBOX.tap.>", ""),
    ("_INBOX.events.>", ""),
    ("_INBOX.admin.>", ""),
    ("$JS.>", ""),
    ("$SYS.>", ""),
]
SUBSCRIBES = {
    "back": {
        ("ln.in.7.>", "back.17"),
        ("ln.session.7.open", "back.17"),
        ("ln.session.7.resume", "back.17"),
        ("ln.onion.7", "back.17"),
        ("ln.hello.*", ""),
        ("ln.alive.*", ""),
        ("ln.key.ecdh", "key"),
        ("ln.graph.self", ""),
        ("ln.gossip.>", ""),
        ("_INBOX.back.>", ""),
    },
    "front": {
        ("ln.out.f1.>", ""),
        ("ln.out.alone.>", ""),
        ("ln.out.*.>", ""),
        ("ln.hello.*", ""),
        ("ln.connect", "front"),
        ("ln.graph.self", ""),
        ("ln.verdict.f1", ""),
        ("ln.verdict.alone", ""),
        ("_INBOX.front.>", ""),
    },
    "front-alone": {
        ("ln.out.alone.>", ""),
        ("ln.hello.*", ""),
        ("ln.connect", "front"),
        ("ln.graph.self", ""),
        ("ln.verdict.alone", ""),
        ("_INBOX.front-alone.>", ""),
    },
    "tap": {
        ("ln.in.>", ""),
        ("ln.in.7.>", ""),
        ("ln.out.>", ""),
        ("ln.out.f1.>", ""),
        ("ln.out.alone.>", ""),
        ("ln.out.*.>", ""),
        ("ln.*.*.*.*.commitment_signed", ""),
    },
    "events": {("ln.event.>", ""), ("_INBOX.events.>", "")},
    "admin": {("ln.hello.*", ""), ("ln.alive.*", ""), ("_INBOX.admin.>", "")},
}


@pytest.mark.parametrize("role", PUBLISHES)
async def test_a_role_publishes_what_it_must_and_nothing_else(role: str, tmp_path) -> None:
    async with running(tmp_path) as broker, client(broker, role) as fabric:
        denied: list[str] = []
        fabric.on_denied(denied.append)
        allowed = set()
        for subject in EVERYTHING:
            before = len(denied)
            fabric.publish(subject, b"{}")
            await fabric.barrier()
            if len(denied) == before:
                allowed.add(subject)
        assert allowed == PUBLISHES[role]


@pytest.mark.parametrize("role", SUBSCRIBES)
async def test_a_role_subscribes_what_it_must_and_nothing_else(role: str, tmp_path) -> None:
    async with running(tmp_path) as broker, client(broker, role) as fabric:
        allowed = set()
        for subject, group in SUBSCRIPTIONS:
            try:
                await fabric.subscribe(subject, lambda _received: None, group=group)
            except PermissionDenied:
                continue
            allowed.add((subject, group))
        assert allowed == SUBSCRIBES[role]


async def test_a_denied_subscription_hears_nothing(tmp_path) -> None:
    async with (
        running(tmp_path) as broker,
        client(broker, "front") as front,
        client(broker, "tap") as tap,
    ):
        heard: list[Received] = []
        with pytest.raises(PermissionDenied):
            await tap.subscribe("ln.session.>", heard.append)
        front.publish("ln.session.7.open", b"{}")
        await front.barrier()
        await tap.barrier()
        assert heard == []


async def test_a_denied_publish_reaches_nobody(tmp_path) -> None:
    async with (
        running(tmp_path) as broker,
        client(broker, "back") as back,
        client(broker, "front") as front,
        client(broker, "tap") as tap,
    ):
        heard: list[Received] = []
        await front.subscribe("ln.out.f1.>", heard.append)
        tap.publish(OUT, b"forged by tap")
        front.publish(OUT, b"forged by front")
        await tap.barrier()
        await front.barrier()
        back.publish(OUT, b"true")
        await until(lambda: heard)
        assert [r.payload for r in heard] == [b"true"]


async def test_a_listener_that_fails_does_not_make_the_client_deaf(tmp_path) -> None:
    """In nats-py an error callback that raises ends the read loop and nobody notices."""

    def fail(*_words: str) -> None:
        raise ValueError("a bug of the listener")

    async with (
        running(tmp_path) as broker,
        client(broker, "back") as back,
        client(broker, "front", start=False) as front,
    ):
        front.on_denied(fail)
        front.on_back(fail)
        await front.start(timeout_s=5)
        heard: list[Received] = []
        await front.subscribe("ln.out.f1.>", heard.append)
        front.publish(OUT, b"denied")
        await front.barrier()
        back.publish(OUT, b"x")
        await until(lambda: heard)


async def test_a_denied_request_says_so(tmp_path) -> None:
    async with running(tmp_path) as broker, client(broker, "front") as front:
        with pytest.raises(PermissionDenied):
            await front.request("ln.connect", b"{}", timeout_s=0.3)


async def test_an_answer_may_be_given_once_and_only_to_who_asked(tmp_path) -> None:
    async with (
        running(tmp_path) as broker,
        client(broker, "back") as back,
        client(broker, "front") as front,
        client(broker, "front-alone") as alone,
    ):
        denied: list[str] = []
        back.on_denied(denied.append)
        requests: list[Received] = []

        def answer(request: Received) -> None:
            requests.append(request)
            back.respond(request, b"secret")

        await back.subscribe("ln.key.ecdh", answer, group="key")
        assert await alone.request("ln.key.ecdh", b"", timeout_s=2) == b"secret"
        assert requests[0].reply.startswith("_INBOX.front-alone.")
        with pytest.raises(PermissionDenied):
            await front.subscribe("_INBOX.front-alone.>", lambda _received: None)
        back.respond(requests[0], b"again")
        await back.barrier()
        assert len(denied) == 1


async def test_the_owner_of_a_shared_inbox_prefix_is_the_shared_certificate(tmp_path) -> None:
    async with running(tmp_path) as broker, client(broker, "front") as front:
        requests: list[Received] = []
        async with client(broker, "back") as back:
            await back.subscribe("ln.key.ecdh", requests.append, group="key")
            with pytest.raises(FabricUnavailable):
                await front.request("ln.key.ecdh", b"", timeout_s=0.1)
        assert requests[0].reply.startswith("_INBOX.front.")


async def test_a_front_with_its_own_certificate_hears_only_its_own_peers(tmp_path) -> None:
    async with (
        running(tmp_path) as broker,
        client(broker, "back") as back,
        client(broker, "front-alone") as alone,
    ):
        heard: list[Received] = []
        await alone.subscribe("ln.out.alone.>", heard.append)
        with pytest.raises(PermissionDenied):
            await alone.subscribe("ln.out.f1.>", heard.append)
        back.publish(OUT, b"of another")
        back.publish(f"ln.out.alone.{PEER}.-.ack", b"mine")
        await until(lambda: heard)
        assert [r.payload for r in heard] == [b"mine"]


async def test_a_front_added_later_comes_in_after_a_reload_and_not_after_its_removal(
    tmp_path,
) -> None:
    certs = tmp_path / "certs"
    certificates.create(certs)
    async with running(tmp_path / "nats", certs) as broker:
        certificates.add_front(certs, "late")
        async with client(broker, "front-late", certs=certs, start=False) as late:
            with pytest.raises(FabricUnavailable, match=r"(?i)authorization"):
                await late.start(timeout_s=0.5)
        broker.reload()
        async with client(broker, "front-late", certs=certs, start=False) as late:
            await late.start(timeout_s=5)
            await late.subscribe("ln.out.late.>", lambda _received: None)
            moved = certificates.credentials(certs, "front-late")
            revoked = tmp_path / "revoked.pem"
            moved.cert.rename(revoked)
            certificates.renew(certs)
            broker.reload()
            await until(lambda: not late.connected)
            revoked.rename(moved.cert)
            await asyncio.sleep(0.3)
            assert not late.connected


async def test_a_process_refuses_a_certificate_of_another_role() -> None:
    credentials = certificates.credentials(cluster(), "tap")
    with pytest.raises(CommandError, match="role tap, this process is a back"):
        FabricClient(["tls://127.0.0.1:1"], credentials, role="back", name="x")


async def test_with_a_shared_certificate_every_member_may_do_everything(tmp_path) -> None:
    certs = shared_cluster()
    credentials = certificates.credentials(certs, "shared")
    async with running(tmp_path, certs) as broker:
        back = FabricClient([broker.url], credentials, role="back", name="b")
        front = FabricClient([broker.url], credentials, role="front", name="f")
        await back.start(timeout_s=5)
        await front.start(timeout_s=5)
        heard: list[Received] = []
        await back.subscribe("ln.>", heard.append)
        front.publish(OUT, b"x")
        await until(lambda: heard)
        await back.subscribe("ln.key.ecdh", lambda r: back.respond(r, b"y") and None, group="key")
        assert await front.request("ln.key.ecdh", b"", timeout_s=2) == b"y"
        await back.stop()
        await front.stop()
