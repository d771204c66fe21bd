"""However a cooperative close is interrupted, both ends sign the same transaction."""

from embit.transaction import Transaction
from hypothesis import given, settings, strategies as st
from support.channels import ANCHORS, STATIC, End, opened, settle, wired

from back.channel.effects import CloseConnection, Publish
from back.channel.events import Close, FundingSpent
from back.channel.model import Phase

moves = st.one_of(
    st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("deliver"), st.integers(0, 1), st.just(1_000)),
    st.tuples(st.just("decide"), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("close"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("kill"), st.integers(0, 1), st.integers(0, 4)),
    st.tuples(st.just("cut"), st.just(0), st.just(0)),
    st.tuples(st.just("connect"), st.just(0), st.just(0)),
)


def close(end: End) -> None:
    end.do(Close(end.channel.parameters.default_shutdown_script))


def play(ends: tuple[End, End], move: tuple[str, int, int]) -> None:
    name, side, count = move
    end = ends[side]
    match name:
        case "deliver":
            end.receive(count)
        case "decide":
            end.decide(count)
        case "close":
            close(end)
        case "kill":
            end.crash_after = count
        case "cut":
            end.cut()
        case "connect" if not end.is_connected:
            end.connect()


@given(
    st.sampled_from([STATIC, ANCHORS]),
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 80_000_000)), max_size=4),
    st.lists(moves, max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_both_ends_close_with_one_transaction(
    kind: object, offers: list[tuple[int, int]], story: list[tuple[str, int, int]]
) -> None:
    ends = wired(opened(kind))
    for number, (side, amount_msat) in enumerate(offers):
        ends[side].offer(f"p{side}-{number}", amount_msat)
    for move in story:
        play(ends, move)
    for end in ends:
        end.crash_after = None
    close(ends[0])
    settle(*ends)

    opener, fundee = ends
    for end, other in ((opener, fundee), (fundee, opener)):
        if end.channel.phase is not Phase.CLOSING:
            # The last closing_signed was lost: this end learns of the close from the chain.
            assert other.channel.closing is not None
            end.do(FundingSpent(other.channel.closing.transaction, None))
    assert opener.channel.phase is fundee.channel.phase is Phase.CLOSING
    for end in ends:
        assert not end.took(CloseConnection)
        assert not end.channel.htlcs
    raws = {p.transaction for end in ends for p in end.took(Publish)}
    assert len(raws) == 1
    transaction = Transaction.parse(raws.pop())
    values = sorted(output.value for output in transaction.vout)
    fee = 1_000_000 - sum(values)
    assert 0 < fee < 10_000
    # The opener pays; both get what the channel says is theirs.
    assert fundee.channel.local_msat // 1000 in values
    assert any(abs(opener.channel.local_msat // 1000 - fee - value) <= 1 for value in values)
