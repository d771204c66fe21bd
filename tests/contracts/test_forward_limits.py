"""Forwards that a limit keeps out: of dust, of slots, of amounts; counted across restarts."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.payment_lines import Line, Node, Sent, ended, line_of_nodes, send
from support.waiting import until

from back.channel.effects import HtlcFailed
from back.channel.events import FailHtlc
from back.channel.model import Failed
from back.relay.limits import ForwardLimits, PendingForwards
from shared.crypto import sphinx
from shared.crypto.failures import decode_failure

AMOUNT = 10_000_000
DUST = 300_000


def hold(node: Node) -> None:
    """Have a node leave what it gets undecided."""
    sink = node.channels.payments
    sink._receiver = SimpleNamespace(received=lambda *_, **__: None)  # type: ignore[attr-defined]


def release(line: Line) -> None:
    """Have the last node fail all that it holds."""
    runner = line.nodes[-1].runner(line.nodes[-2])
    for htlc in runner.channel.htlcs.values():
        runner.post(FailHtlc(htlc.id, bytes(292)))


def pending(line: Line) -> int:
    """HTLCs that the last node holds for good."""
    channel = line.nodes[-1].channel(line.nodes[-2])
    return sum(h.state.name == "RCVD_ADD_ACK_REVOCATION" for h in channel.htlcs.values())


def limited(node: Node, **limits: object) -> None:
    """Give a node other limits; what is pending counts anew from here."""
    node.relay.market.pending = PendingForwards(ForwardLimits(**limits))  # type: ignore[arg-type]


def with_dust(node: Node, other: Node, most_msat: int) -> None:
    """Let a node bear less dust in its channel with another."""
    runner = node.runner(other)
    policy = replace(runner.channel.policy, max_dust_exposure_msat=most_msat)
    runner.channel = replace(runner.channel, policy=policy)


def offers(line: Line) -> Iterator[Sent]:
    """HTLCs of one size, each with its own hash."""
    number = 0
    while True:
        number += 1
        yield send(line, hashlib.sha256(b"%d" % number).digest(), bytes(32), AMOUNT)


async def is_refused(line: Line, sent: Sent) -> bool:
    """Whether the middle node fails an HTLC, as a passing trouble."""
    outcome = await ended(line, sent)
    assert isinstance(outcome, HtlcFailed)
    assert isinstance(outcome.htlc.resolution, Failed)
    error = sphinx.unwrap_error(sent.secrets, outcome.htlc.resolution.reason)
    if error is None:
        return False
    assert decode_failure(error.message).name == "temporary_channel_failure"
    return error.hop == 0


@pytest.mark.parametrize(
    "limits",
    [
        {"peer_max_pending": 3},
        {"peer_slot_share": 3 / 483},
        {"small_htlc_msat": AMOUNT + 1, "small_slot_share": 3 / 483},
        {"peer_value_share": 3 * AMOUNT / 1_000_000_000 + 1e-9},
    ],
)
async def test_one_peer_fills_its_share_and_no_more_until_something_ends(
    tmp_path: Path, limits: dict[str, object]
) -> None:
    async with line_of_nodes(tmp_path) as line:
        middle, last = line.nodes[1:]
        hold(last)
        limited(middle, **limits)
        offered = offers(line)
        held = [next(offered) for _ in range(3)]
        await until(lambda: pending(line) == 3, "three are held")
        assert await is_refused(line, next(offered))
        release(line)
        for sent in held:
            assert not await is_refused(line, sent)
        await line.quiet()
        assert len(middle.relay.market.pending) == 0
        next(offered)
        await until(lambda: pending(line) == 1, "there is room again")
        release(line)
        await line.quiet()


async def test_a_restarted_node_counts_what_its_ledger_holds(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        middle, last = line.nodes[1:]
        hold(last)
        offered = offers(line)
        for _ in range(2):
            next(offered)
        await until(lambda: pending(line) == 2, "two are held")
        await line.restart(middle)
        key_index = middle.channel(last).parameters.key_index
        load = middle.relay.market.pending.load(line.nodes[0].node_id, key_index, 10, 100)
        assert (load.peer_slots, load.peer_msat, load.peer_pending) == (2, 2 * AMOUNT, 2)
        release(line)
        await line.quiet()
        assert len(middle.relay.market.pending) == 0


@pytest.mark.parametrize("side", ["incoming", "outgoing"])
async def test_forwards_bring_no_more_dust_than_either_channel_bears(
    tmp_path: Path, side: str
) -> None:
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        hold(last)
        with_dust(middle, first if side == "incoming" else last, 2 * DUST + 10_000)
        sents = [
            send(line, bytes([number]) * 32, bytes(32), DUST, name=str(number))
            for number in range(2)
        ]
        await until(lambda: pending(line) == 2, "two are held")
        assert await is_refused(line, send(line, b"\7" * 32, bytes(32), DUST))
        # What has an output is no dust.
        large = send(line, b"\x08" * 32, bytes(32), AMOUNT)
        await until(lambda: pending(line) == 3, "a large one passes")
        release(line)
        for sent in (*sents, large):
            assert not await is_refused(line, sent)
        await line.quiet()


async def test_what_we_offer_ourselves_keeps_to_our_own_limits(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        middle, last = line.nodes[1:]
        hold(last)
        runner = middle.runner(last)
        policy = replace(runner.channel.policy, max_offered_htlcs=2)
        runner.channel = replace(runner.channel, policy=policy)
        limited(middle, peer_slot_share=1.0)
        offered = offers(line)
        for _ in range(2):
            next(offered)
        await until(lambda: pending(line) == 2, "two are held")
        assert await is_refused(line, next(offered))
        release(line)
        await line.quiet()
