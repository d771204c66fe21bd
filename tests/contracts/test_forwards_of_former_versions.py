"""An HTLC that a former process forwarded, and that this one would refuse: it may still be paid."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from support.payment_lines import ended, held, hold, line_of_nodes, send
from support.waiting import until

from back import htlcs
from back.channel.effects import HtlcFailed, HtlcFulfilled
from back.channel.events import FailHtlc, FulfillHtlc
from back.channel.model import Failed
from back.payment.decision import Fail
from shared.crypto import sphinx
from shared.crypto.failures import decode_failure, encode_failure

AMOUNT = 10_000_000
PREIMAGE = hashlib.sha256(b"former").digest()
HASH = hashlib.sha256(PREIMAGE).digest()


def refuse_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have onions read by rules that no forward keeps."""

    def stricter(*_: Any) -> Fail:
        return Fail(encode_failure("invalid_onion_payload", type=2, offset=0))

    monkeypatch.setattr(htlcs, "interpret", stricter)


@pytest.mark.parametrize("is_paid", [True, False])
async def test_it_ends_as_the_outgoing_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_paid: bool
) -> None:
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        hold(last)
        sent = send(line, HASH, bytes(32), AMOUNT)
        await until(lambda: held(last, middle), "it is at the end")
        (htlc,) = held(last, middle)
        refuse_everything(monkeypatch)
        await line.restart(middle)
        assert middle.relay.downstream.pending == 1
        if is_paid:
            last.runner(middle).post(FulfillHtlc(htlc.id, PREIMAGE))
            assert isinstance(await ended(line, sent), HtlcFulfilled)
        else:
            last.runner(middle).post(FailHtlc(htlc.id, bytes(292)))
            outcome = await ended(line, sent)
            assert isinstance(outcome, HtlcFailed)
            assert isinstance(outcome.htlc.resolution, Failed)
            error = sphinx.unwrap_error(sent.secrets, outcome.htlc.resolution.reason)
            assert error is not None
            assert error.hop == 0
            assert decode_failure(error.message).name == "invalid_onion_blinding"
        await line.quiet()


async def test_one_that_was_never_forwarded_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with line_of_nodes(tmp_path) as line:
        refuse_everything(monkeypatch)
        sent = send(line, HASH, bytes(32), AMOUNT)
        assert isinstance(await ended(line, sent), HtlcFailed)
        assert line.nodes[1].relay.downstream.pending == 0
