"""A payer that lost its lease does not know what became of its HTLC, and pays no second time."""

import asyncio
from pathlib import Path

import pytest
from support.payment_nodes import pair_of_nodes

from back.channel.events import Event
from back.channel.model import Channel
from back.runner import ChannelRunner
from back.storage.payments import PaymentState
from shared.errors import CommandError, LeaseLost


async def test_a_lost_lease_is_no_reason_to_try_another_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the commit may be all that was lost: the next owner sends that HTLC."""
    async with pair_of_nodes(tmp_path, channels=2) as pair:
        asked: list[ChannelRunner] = []

        def lost(
            runner: ChannelRunner, _event: Event, _writes: tuple[()] = ()
        ) -> asyncio.Future[Channel]:
            asked.append(runner)
            done = asyncio.get_running_loop().create_future()
            done.set_exception(LeaseLost((1,)))
            return done

        text = await pair.bob.invoice()
        monkeypatch.setattr(ChannelRunner, "request", lost)
        sending = await pair.alice.send(text)
        await asyncio.sleep(0.05)
        assert len(asked) == 1
        assert not sending.done.done()
        (found,) = await pair.alice.payments.find(sending.payment.id)
        assert found[0].state is PaymentState.PENDING


async def test_a_channel_that_did_nothing_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair_of_nodes(tmp_path, channels=2) as pair:
        asked: list[ChannelRunner] = []
        really = ChannelRunner.request

        def stopped(
            runner: ChannelRunner, event: Event, writes: tuple[()] = ()
        ) -> asyncio.Future[Channel]:
            asked.append(runner)
            if len(asked) > 1:
                return really(runner, event, writes)
            done = asyncio.get_running_loop().create_future()
            done.set_exception(CommandError("the channel is stopped"))
            return done

        text = await pair.bob.invoice()
        monkeypatch.setattr(ChannelRunner, "request", stopped)
        sending = await pair.alice.send(text)
        await asyncio.wait_for(asyncio.shield(sending.done), 15)
        assert asked[0] is not asked[1]
        assert sending.payment.state is PaymentState.SENT
