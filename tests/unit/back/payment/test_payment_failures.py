"""What a failed attempt teaches: every failure code, told from every place of the way."""

from typing import Any
from uuid import UUID

import pytest
from support.channels import secret

from back.channel.model import Failed, Malformed
from back.payment.failures import Tried, Verdict, judge, passed
from back.payment.recipient import STAND_IN
from back.payment.route import Edge, Hop, Lesson
from back.payment.sending import Sending, SendLimits
from back.storage.payments import Payment
from shared.chain import MAINNET, REGTEST
from shared.crypto import sphinx
from shared.crypto.failures import BADONION, FAILURES, NODE, PERM, encode_failure
from shared.crypto.signature import public_key, sign_compact
from shared.gossip.signed import digest
from shared.wire import ChannelUpdate, encode

NOW = 1_700_000_000.0
KEYS = [secret("node", number) for number in range(4)]
NODES = [public_key(key) for key in KEYS]
SECRETS = tuple(secret("shared", number) for number in range(4))
CLEAR = Tried(
    tuple(Hop(NODES[n], NODES[n + 1], 101 + n, 10 * n, n, 40 * n) for n in range(3)),
    (1_030, 1_010, 1_000),
    SECRETS[:3],
)
"""We, a direct peer, one more, the payee."""
BLINDED = Tried(
    (*CLEAR.hops[:2], Hop(NODES[2], STAND_IN, 0, 30, 3, 120)), CLEAR.carried, SECRETS[:4]
)
"""The last hop stands for a path: of the introduction node and one more."""
NAMES = [name for name, _ in FAILURES.values()]
PASSED = [Lesson(102, NODES[1], 1_010, True, NOW), Lesson(103, NODES[2], 1_000, True, NOW)]


def message(name: str, **values: Any) -> bytes:
    layout = next(layout for each, layout in FAILURES.values() if each == name)
    given = {
        field: bytes(32) if size == 32 else 1 for field, size in layout if field != "channel_update"
    }
    return encode_failure(name, **{**given, **values})


def told(tried: Tried, layer: int, failure: bytes) -> Verdict:
    """The verdict on an error of a node, wrapped by those before it."""
    packet = sphinx.create_error(tried.shared_secrets[layer], failure)
    for each in reversed(tried.shared_secrets[:layer]):
        packet = sphinx.wrap_error(each, packet)
    return judge(Failed(packet), tried, REGTEST.chain_hash, NOW)


def code_of(name: str) -> int:
    return next(code for code, (each, _) in FAILURES.items() if each == name)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_node_on_the_way_says_another_way_is_tried(name: str, layer: int) -> None:
    verdict = told(CLEAR, layer, message(name))
    code, node, following = code_of(name), NODES[layer + 1], CLEAR.hops[layer + 1]
    assert verdict.may_retry
    assert verdict.summary["failedNode"] == node.hex()
    assert verdict.summary["failureMessage"].partition(" (")[0] == name
    assert list(verdict.lessons[:layer]) == PASSED[:layer]
    if code & NODE:
        assert (verdict.ignored_nodes, verdict.ignored_channels) == ({node}, frozenset())
        assert len(verdict.lessons) == layer
    else:
        assert verdict.ignored_channels == {(following.short_channel_id, node)}
        assert not verdict.ignored_nodes
        lesson = verdict.lessons[layer]
        assert (lesson.short_channel_id, lesson.node_id) == (following.short_channel_id, node)
        assert not lesson.passed
        assert lesson.is_permanent == (bool(code & PERM) and not code & BADONION)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_payee_says_is_final_unless_it_passes(name: str) -> None:
    verdict = told(CLEAR, 2, message(name))
    assert verdict.may_retry == (name in {"mpp_timeout", "temporary_node_failure"})
    assert list(verdict.lessons) == PASSED, "it came all the way"
    assert not verdict.ignored_nodes
    assert verdict.summary["failedNode"] == NODES[3].hex()


@pytest.mark.parametrize("flag", [0, PERM])
def test_a_code_that_nobody_knows_is_final_where_it_says_so(flag: int) -> None:
    verdict = told(CLEAR, 2, (flag | 0x0FFF).to_bytes(2, "big"))
    assert verdict.may_retry == (not flag)
    middle = told(CLEAR, 1, (flag | 0x0FFF).to_bytes(2, "big"))
    assert middle.ignored_channels == {(103, NODES[2])}


def test_a_message_without_a_code_is_the_fault_of_its_node() -> None:
    assert told(CLEAR, 1, b"").ignored_nodes == {NODES[2]}
    assert told(CLEAR, 2, b"").ignored_channels == {(103, NODES[2])}


@pytest.mark.parametrize("name", NAMES)
def test_of_a_blinded_path_nothing_is_learned_that_outlives_its_invoice(name: str) -> None:
    """Its edge has the number of its place in one invoice: another payee's has the same."""
    for layer in (1, 2, 3):
        verdict = told(BLINDED, layer, message(name))
        assert verdict.may_retry
        assert list(verdict.lessons) == PASSED[:1]
        assert verdict.summary["failedNode"] == NODES[2].hex()
        ignored = (0, NODES[2]) in verdict.ignored_channels or NODES[2] in verdict.ignored_nodes
        assert ignored, "this path is not tried again"
    assert passed(BLINDED, NOW) == PASSED[:1]
    assert passed(CLEAR, NOW) == PASSED


def test_a_peer_that_cannot_read_the_onion_is_avoided() -> None:
    verdict = judge(Malformed(bytes(32), BADONION | PERM | 5), CLEAR, REGTEST.chain_hash, NOW)
    assert (verdict.may_retry, verdict.ignored_nodes) == (True, {NODES[1]})
    assert verdict.summary["failureMessage"] == "invalid_onion_hmac"
    direct = Tried(CLEAR.hops[:1], (1_000,), SECRETS[:1])
    assert not judge(Malformed(bytes(32), BADONION), direct, REGTEST.chain_hash, NOW).may_retry


@pytest.mark.parametrize("reason", [b"", b"x", bytes(292), bytes(70_000)])
def test_an_error_that_nobody_can_read_rules_out_the_way_it_took(reason: bytes) -> None:
    verdict = judge(Failed(reason), CLEAR, REGTEST.chain_hash, NOW)
    assert verdict.may_retry
    assert verdict.ignored_channels == {(102, NODES[1]), (103, NODES[2])}
    assert not verdict.lessons
    assert verdict.summary["failureType"] == "UnreadableRemote"
    direct = Tried(CLEAR.hops[:1], (1_000,), SECRETS[:1])
    assert not judge(Failed(reason), direct, REGTEST.chain_hash, NOW).may_retry


def test_an_htlc_without_an_answer_rules_out_our_own_channel() -> None:
    verdict = judge(None, CLEAR, REGTEST.chain_hash, NOW)
    assert (verdict.may_retry, verdict.ignored_channels) == (True, {(101, NODES[0])})
    assert not verdict.lessons


# --- fresher terms --------------------------------------------------------------------------------


def update(key: bytes = KEYS[1], **changes: Any) -> bytes:
    """The update of the second hop's channel, by the node that forwards into it."""
    values: dict[str, Any] = {
        "signature": bytes(64),
        "chain_hash": REGTEST.chain_hash,
        "short_channel_id": 102,
        "timestamp": 1,
        "message_flags": 1,
        "channel_flags": 0 if NODES[1] < NODES[2] else 1,
        "cltv_expiry_delta": 80,
        "htlc_minimum_msat": 1,
        "fee_base_msat": 77,
        "fee_proportional_millionths": 7,
        "htlc_maximum_msat": 10**9,
        **changes,
    }
    raw = encode(ChannelUpdate(**values))
    return raw[:2] + sign_compact(key, digest(raw)) + raw[66:]


def fresher(raw: bytes, name: str = "fee_insufficient") -> Verdict:
    return told(CLEAR, 0, message(name, channel_update=raw))


@pytest.mark.parametrize(
    "name", ["amount_below_minimum", "fee_insufficient", "incorrect_cltv_expiry"]
)
@pytest.mark.parametrize("skipped", [0, 2])
def test_fresher_terms_in_an_error_serve_this_payment(name: str, skipped: int) -> None:
    """Some nodes leave out the message type."""
    verdict = fresher(update()[skipped:], name)
    assert verdict.extra == (Edge(Hop(NODES[1], NODES[2], 102, 77, 7, 80), 1, 10**9),)
    assert (verdict.ignored_channels, verdict.ignored_nodes) == (frozenset(), frozenset())
    assert not verdict.lessons, "for nobody else"


OTHER_SIDE = 1 if NODES[1] < NODES[2] else 0


@pytest.mark.parametrize(
    "raw",
    [
        update(KEYS[2]),
        update(short_channel_id=103),
        update(chain_hash=MAINNET.chain_hash),
        update(channel_flags=OTHER_SIDE),
        update(channel_flags=2 + 1 - OTHER_SIDE),
        update(fee_base_msat=10, fee_proportional_millionths=1, cltv_expiry_delta=40),
        update()[:-3],
        b"x",
        b"",
    ],
    ids=["signature", "scid", "chain", "side", "disabled", "met", "short", "junk", "none"],
)
def test_terms_that_are_not_right_rule_the_channel_out(raw: bytes) -> None:
    verdict = fresher(raw)
    assert not verdict.extra
    assert verdict.ignored_channels == {(102, NODES[1])}


def test_terms_that_come_with_other_codes_are_not_taken() -> None:
    verdict = fresher(update(), "temporary_channel_failure")
    assert not verdict.extra
    assert verdict.ignored_channels == {(102, NODES[1])}


def test_a_node_that_tells_fresher_terms_twice_is_left_alone() -> None:
    payment = Payment(UUID(int=1), None, None, bytes(32), 1_000, NODES[3], None, 0)
    sending = Sending(payment, None, SendLimits(), NOW, None)  # type: ignore[arg-type]
    sending.learn(fresher(update()))
    assert not sending.ignored_channels
    assert [edge.hop.fee_base_msat for edge in sending.extra.values()] == [77]
    sending.learn(fresher(update(fee_base_msat=78)))
    assert sending.ignored_channels == {(102, NODES[1])}
