import boto3
import pytest
from moto import mock_aws
from support.front_in_test import front_settings
from support.lightning_peer import node_id_of

from front.keys.local import LocalKey, load
from front.keys.remote import RemoteKey
from front.process import FrontProcess
from front.transport.connection import Connection
from shared.crypto.noise import InitiatorRequest, KeyAnswer, ResponderRequest
from shared.errors import CommandError, FabricError, FabricUnavailable, HandshakeFailed
from shared.fabric import subjects
from shared.fabric.interface import Received
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.fabric.requests import EcdhReply, EcdhResponder, read_ecdh_request

PRIVATE = b"\x42" * 32
NODE_ID = node_id_of(PRIVATE)


def act_one(to: bytes = NODE_ID) -> bytes:
    return Connection.initiator(node_id_of(b"\x22" * 32), b"\x33" * 32, to).take_outgoing()


# --- local ----------------------------------------------------------------------------------------


async def test_a_local_key_answers_both_roles():
    key = LocalKey(PRIVATE)
    assert key.node_id == NODE_ID
    initiator = Connection.initiator(NODE_ID, b"\x33" * 32, NODE_ID)
    responder = Connection.responder(NODE_ID, b"\x44" * 32)
    responder.feed(initiator.take_outgoing())
    request = responder.next_event()
    assert isinstance(request, ResponderRequest)
    responder.answer(await key.answer(request))
    initiator.feed(responder.take_outgoing())
    asked = initiator.next_event()
    assert isinstance(asked, InitiatorRequest)
    initiator.answer(await key.for_dial(bytes(16)).answer(asked))
    assert initiator.node_id == NODE_ID


async def test_a_local_key_refuses_an_act_for_another_node():
    with pytest.raises(HandshakeFailed):
        await LocalKey(PRIVATE).answer(ResponderRequest(act_one(node_id_of(b"\x55" * 32))))


def test_a_local_key_is_not_in_its_repr():
    assert PRIVATE.hex() not in repr(LocalKey(PRIVATE))


@pytest.mark.parametrize("text", ["", "42", "zz" * 32, "00" * 32, "ff" * 32, "42" * 33])
def test_refuses_what_is_no_key_without_showing_it(text):
    settings = front_settings(key_provider="env", node_key=text)
    with pytest.raises(CommandError, match="SQUALL_FRONT_NODE_KEY is no private key") as refused:
        load(settings)
    assert not text or text not in str(refused.value)


def test_reads_a_file_that_only_we_may_read(tmp_path):
    path = tmp_path / "node.key"
    path.write_text(f"  {PRIVATE.hex()}\n")
    path.chmod(0o600)
    settings = front_settings(key_provider="file", node_key_file=path)
    assert load(settings) == PRIVATE
    path.chmod(0o640)
    with pytest.raises(CommandError, match="chmod 600"):
        load(settings)


def test_says_when_there_is_no_file(tmp_path):
    settings = front_settings(key_provider="file", node_key_file=tmp_path / "absent")
    with pytest.raises(CommandError, match=r"cannot read .*FileNotFoundError"):
        load(settings)


@pytest.fixture
def aws(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        yield boto3.client("secretsmanager")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "secret",
    [
        {"SecretString": PRIVATE.hex()},
        {"SecretBinary": PRIVATE},
        {"SecretString": f'{{"node-priv-key": "{PRIVATE.hex()}", "other": "1"}}'},
        {"SecretString": f'{{"any": "{PRIVATE.hex()}"}}'},
    ],
    ids=["hex", "binary", "named pair", "one pair"],
)
def test_reads_the_secret_of_the_default_name_from_aws(aws, secret):
    aws.create_secret(Name="node-priv-key", **secret)
    assert load(front_settings(key_provider="aws-sm")) == PRIVATE


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_says_which_secret_is_missing(aws):
    with pytest.raises(CommandError, match="cannot get the secret absent from AWS"):
        load(front_settings(key_provider="aws-sm", aws_secret_name="absent"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("text", ["{broken", "{}", "not hex"])
def test_a_secret_that_is_no_key_is_refused(aws, text):
    aws.create_secret(Name="node-priv-key", SecretString=text)
    with pytest.raises(CommandError, match="node-priv-key"):
        load(front_settings(key_provider="aws-sm"))


async def test_a_key_of_another_node_is_refused_at_the_start():
    settings = front_settings(key_provider="env", node_key=PRIVATE.hex(), node_id=NODE_ID)
    fabric = MemoryFabric(MemoryBroker())
    assert FrontProcess(settings, fabric, fabric).bridge.node_id == NODE_ID
    other = front_settings(
        key_provider="env", node_key=PRIVATE.hex(), node_id=node_id_of(b"\x55" * 32)
    )
    with pytest.raises(CommandError, match=f"is of node {NODE_ID.hex()}"):
        FrontProcess(other, fabric, fabric)


# --- remote --------------------------------------------------------------------------------------


class Keeper:
    """Whoever answers ``ln.key.ecdh`` in a test."""

    def __init__(self, *replies: EcdhReply | None) -> None:
        self.asked: list[bytes] = []
        self.fabric = MemoryFabric(MemoryBroker())
        self._replies = list(replies)

    async def start(self) -> RemoteKey:
        await self.fabric.start()
        await self.fabric.subscribe(subjects.ECDH, self._answer, group=subjects.ECDH_GROUP)
        return RemoteKey(self.fabric, "f1")

    def _answer(self, received: Received) -> None:
        self.asked.append(received.payload)
        reply = self._replies.pop(0)
        if reply is not None:
            self.fabric.respond(received, reply.to_bytes())


GOOD = EcdhReply(ck=b"\x01" * 32, temp_k=b"\x02" * 32)


async def test_sends_the_transcript_and_takes_the_answer():
    keeper = Keeper(GOOD)
    key = await keeper.start()
    assert await key.answer(ResponderRequest(act_one())) == KeyAnswer(b"\x01" * 32, b"\x02" * 32)
    request = read_ecdh_request(keeper.asked[0])
    assert request == EcdhResponder(front="f1", act_one=act_one())
    await keeper.fabric.stop()


async def test_asks_again_when_nobody_answers_in_time(monkeypatch):
    monkeypatch.setattr("front.keys.remote.TIMEOUT_S", 0.02)
    keeper = Keeper(None, None, GOOD)
    key = await keeper.start()
    assert (await key.answer(ResponderRequest(act_one()))).ck == b"\x01" * 32
    assert len(keeper.asked) == 3
    await keeper.fabric.stop()


async def test_gives_up_after_three_times(monkeypatch):
    monkeypatch.setattr("front.keys.remote.TIMEOUT_S", 0.02)
    keeper = Keeper(None, None, None)
    key = await keeper.start()
    with pytest.raises(FabricUnavailable):
        await key.answer(ResponderRequest(act_one()))
    assert len(keeper.asked) == 3
    await keeper.fabric.stop()


async def test_a_refusal_is_not_asked_again():
    keeper = Keeper(EcdhReply(refused="authentication tag does not match"))
    key = await keeper.start()
    with pytest.raises(HandshakeFailed, match="tag does not match"):
        await key.answer(ResponderRequest(act_one()))
    assert len(keeper.asked) == 1
    await keeper.fabric.stop()


async def test_an_outbound_handshake_names_its_order():
    keeper = Keeper(GOOD)
    key = await keeper.start()
    request = InitiatorRequest(NODE_ID, b"\x33" * 32, bytes(50))
    with pytest.raises(FabricError, match="did not order"):
        await key.answer(request)
    await key.for_dial(b"\x09" * 16).answer(request)
    sent = read_ecdh_request(keeper.asked[0])
    assert (sent.role, sent.dial_id, sent.node_id) == ("initiator", b"\x09" * 16, NODE_ID)
    assert "33333333" not in repr(sent)
    await keeper.fabric.stop()
