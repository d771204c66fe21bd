"""What fronts have submitted and waits: bounded by front, and each front has its turn."""

from support.network import Shape, generate, recently

from back.graph.acceptance import Pending
from back.graph.submissions import Budget, Claim, PendingChannels, Submissions
from shared.fabric.gossip import Submission
from shared.gossip.view import channel_view

NETWORK = generate(Shape(channels=40, nodes=10, transactions=10), recently())


def submission(front: str, first_id: int, *items: bytes) -> Submission:
    return Submission(front, first_id, items)


def channel(block: int, place: int = 0, name: bytes = b"") -> bytes:
    """A channel announcement of a place; nobody checks signatures here."""
    raw = next(iter(NETWORK.channels.values()))
    at = raw.index(channel_view(raw).short_channel_id.to_bytes(8, "big"))
    return raw[:at] + (block << 40 | place << 16).to_bytes(8, "big") + raw[at + 8 :] + name


def wait_for_chain(channels: PendingChannels, front: str, raw: bytes, number: int = 0) -> None:
    seen = channel_view(raw)
    channels.add(Pending(raw, seen, b""), seen, [(front, number)])


# --- submissions ----------------------------------------------------------------------------------


def test_announcements_are_numbered_as_their_front_said() -> None:
    waiting = Submissions()
    assert waiting.add(submission("a", 7, b"x", b"yy"))
    assert waiting.take(10) == [(("a", 7), b"x"), (("a", 8), b"yy")]
    assert waiting.take(10) == []


def test_fronts_have_their_turn_one_submission_each() -> None:
    waiting = Submissions()
    for number in range(5):
        waiting.add(submission("greedy", number, b"g"))
    waiting.add(submission("modest", 0, b"m"))
    order = [front for (front, _), _ in waiting.take(4)]
    assert order == ["greedy", "modest", "greedy", "greedy"]


def test_a_front_is_full_until_something_of_it_is_decided() -> None:
    waiting = Submissions(Budget(items=3, size=100))
    assert waiting.add(submission("a", 0, b"x", b"x", b"x"))
    assert not waiting.add(submission("a", 3, b"x"))
    waiting.take(3)
    assert not waiting.add(submission("a", 3, b"x")), "taken is not decided"
    waiting.settle("a", 1)
    assert waiting.add(submission("a", 3, b"x"))


def test_a_full_front_takes_no_room_of_another() -> None:
    waiting = Submissions(Budget(items=1))
    assert waiting.add(submission("full", 0, b"x"))
    assert not waiting.add(submission("full", 1, b"x"))
    assert waiting.add(submission("other", 0, b"x"))


def test_one_submission_cannot_go_over_the_budget() -> None:
    waiting = Submissions(Budget(items=3, size=10))
    assert not waiting.add(submission("a", 0, b"x", b"x", b"x", b"x"))
    assert not waiting.add(submission("a", 0, bytes(11)))
    assert len(waiting) == 0


def test_there_are_so_many_names_at_a_time() -> None:
    waiting = Submissions(Budget(fronts=2))
    assert waiting.add(submission("a", 0, b"x"))
    assert waiting.add(submission("b", 0, b"x"))
    assert not waiting.add(submission("made-up", 0, b"x"))
    waiting.take(9)
    waiting.settle("a", 1)
    assert waiting.add(submission("c", 0, b"x"))


def test_what_was_settled_is_not_counted_any_more() -> None:
    waiting = Submissions()
    waiting.add(submission("a", 0, b"x", b"x"))
    waiting.settle("a", 1)
    assert len(waiting) == 1
    waiting.settle("a", 1)
    waiting.settle("a", 1)
    assert len(waiting) == 0


# --- channels -------------------------------------------------------------------------------------


def blocks_of(channels: PendingChannels, blocks: int = 100, count: int = 1_000) -> list[int]:
    return [one.seen.short_channel_id >> 40 for one in channels.take(blocks, count)]


def test_the_lowest_blocks_come_first() -> None:
    channels = PendingChannels()
    for block in (9, 3, 7):
        wait_for_chain(channels, "a", channel(block))
    assert blocks_of(channels, blocks=2) == [3, 7]
    assert blocks_of(channels, blocks=2) == [9]


def test_a_front_with_thousands_of_low_blocks_does_not_keep_others_waiting() -> None:
    channels = PendingChannels()
    for block in range(1, 500):
        wait_for_chain(channels, "greedy", channel(block))
    wait_for_chain(channels, "modest", channel(9_000))
    assert 9_000 in blocks_of(channels, blocks=2)


def test_a_front_with_thousands_of_channels_in_one_block_does_not_keep_others_waiting() -> None:
    channels = PendingChannels()
    for place in range(500):
        wait_for_chain(channels, "greedy", channel(1, place))
    wait_for_chain(channels, "modest", channel(9_000))
    taken = blocks_of(channels, blocks=4, count=100)
    assert 9_000 in taken
    assert len(taken) == 100


def test_who_was_passed_over_comes_first_the_next_time() -> None:
    channels = PendingChannels()
    for number, front in enumerate("abc"):
        for block in (1, 2):
            wait_for_chain(channels, front, channel(10 * number + block))
    assert blocks_of(channels, blocks=2) == [1, 11]
    assert blocks_of(channels, blocks=1) == [21]


def test_everything_is_taken_once() -> None:
    channels = PendingChannels()
    raws = {channel(block, place) for block in range(20) for place in range(20)}
    for number, raw in enumerate(raws):
        wait_for_chain(channels, f"front-{number % 3}", raw)
    taken: list[bytes] = []
    while part := channels.take(3, 16):
        assert len(part) <= 16
        assert len({one.seen.short_channel_id >> 40 for one in part}) <= 3
        taken += [one.pending.raw for one in part]
        channels.done(part)
    assert len(taken) == len(raws)
    assert set(taken) == raws
    assert len(channels) == 0


def test_the_same_announcement_of_two_fronts_is_looked_up_once_for_both() -> None:
    channels = PendingChannels()
    wait_for_chain(channels, "a", channel(1), 5)
    wait_for_chain(channels, "b", channel(1), 6)
    (only,) = channels.take(9, 9)
    claims: list[Claim] = [("a", 5), ("b", 6)]
    assert only.claims == claims
    assert channels.join(channel(1), [("c", 7)]), "also while it is looked up"
    assert only.claims == [*claims, ("c", 7)]
    channels.done([only])
    assert not channels.join(channel(1), [("d", 8)])


def test_another_announcement_of_the_same_channel_is_judged_too() -> None:
    channels = PendingChannels()
    wait_for_chain(channels, "thief", channel(1, name=b"made up"))
    wait_for_chain(channels, "honest", channel(1))
    taken = channels.take(9, 9)
    assert [one.claims[0][0] for one in taken] == ["thief", "honest"]


def test_a_channel_is_awaited_until_all_its_announcements_are_decided() -> None:
    channels = PendingChannels()
    raws = [channel(1), channel(1, name=b"other")]
    for raw in raws:
        wait_for_chain(channels, "a", raw)
    scid = channel_view(raws[0]).short_channel_id
    one, other = channels.take(9, 9)
    channels.done([one])
    channels.done([one])
    assert channels.has(scid)
    channels.done([other])
    assert not channels.has(scid)
