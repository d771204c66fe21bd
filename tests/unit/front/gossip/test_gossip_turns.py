"""Much work is done one piece a turn of the event loop, everybody's in its order."""

import asyncio
from collections.abc import Callable

from support.waiting import until

from front.gossip.answers.turns import Turns


def worker(name: str, pieces: int, done: list[str]) -> Callable[[], bool]:
    """Return work of so many pieces, which notes each."""
    left = [pieces]

    def work() -> bool:
        done.append(name)
        left[0] -= 1
        return left[0] > 0

    return work


async def test_pieces_of_work_take_turns() -> None:
    turns, done = Turns(), list[str]()
    for name, pieces in (("a", 3), ("b", 1), ("c", 2)):
        turns.add(worker(name, pieces, done))
    await until(lambda: len(done) == 6)
    assert done == ["a", "b", "c", "a", "c", "a"]


async def test_nothing_is_done_within_the_call_that_asks_for_it() -> None:
    turns, done = Turns(), list[str]()
    turns.add(worker("a", 1, done))
    assert not done
    await until(lambda: done)


async def test_one_turn_of_the_loop_does_one_piece_however_many_wait() -> None:
    turns, done, seen = Turns(), list[str](), list[int]()
    for number in range(50):
        turns.add(worker(str(number), 2, done))
    while len(done) < 100:
        before = len(done)
        await asyncio.sleep(0)
        seen.append(len(done) - before)
    assert max(seen) == 1


async def test_work_that_fails_is_dropped_and_the_next_is_done() -> None:
    turns, done = Turns(), list[str]()

    def fails() -> bool:
        done.append("fails")
        raise RuntimeError("a bug")

    turns.add(fails)
    turns.add(worker("b", 2, done))
    await until(lambda: done == ["fails", "b", "b"])


async def test_work_that_adds_work_is_followed_by_it() -> None:
    turns, done = Turns(), list[str]()

    def adds() -> bool:
        turns.add(worker("added", 1, done))
        return False

    turns.add(adds)
    await until(lambda: done == ["added"])
    turns.add(worker("later", 1, done))
    await until(lambda: done == ["added", "later"])


async def test_nothing_is_done_after_the_stop() -> None:
    turns, done = Turns(), list[str]()
    turns.add(worker("a", 2, done))
    turns.stop()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not done


async def test_work_that_stops_all_work_is_the_last() -> None:
    turns, done = Turns(), list[str]()

    def stops() -> bool:
        turns.stop()
        return False

    turns.add(stops)
    turns.add(worker("b", 1, done))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not done
