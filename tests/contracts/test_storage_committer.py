"""The committer on both databases: all or nothing, in order, and only for the lease's holder."""

import asyncio
import threading
import time
import traceback
from collections.abc import Callable

import pytest
import uvloop
from support.databases import DEADLINE_S, SHARDS, Gate, Hooks, committing, storing, take_over
from support.waiting import until

from back.storage import committer as committer_module, outbox
from back.storage.committer import CommitReport, Committer
from back.storage.database import Database
from back.storage.fence import FencedWriter
from back.storage.lease import read_rows
from back.storage.statements import Write, delete, grouped, insert
from back.storage.tables import blocks, peers
from shared.errors import LeaseLost, LightningError, StorageUnavailable, WriteRefused

ADD_BLOCK = insert(blocks, "height")
REMOVE_BLOCK = delete(blocks, "height", rows=1)


def event(name: str) -> Write:
    return outbox.event(name, "{}", 1)


def block(height: int) -> Write:
    """A row that exists once: a second with its height is refused."""
    return ADD_BLOCK.write(height=height, block_hash=bytes(32))


def topics(database: Database) -> list[str]:
    with database.snapshot() as connection:
        return [each.topic for each in outbox.pending_events(connection)]


def heights(database: Database) -> list[int]:
    with database.snapshot() as connection:
        return sorted(connection.execute(blocks.select()).scalars())


def commit_numbers(database: Database) -> dict[int, int]:
    with database.snapshot() as connection:
        return {shard: row.commit_no for shard, row in read_rows(connection, SHARDS).items()}


def hold_first(hooks: Hooks, step: str = "begin") -> Gate:
    """Stop the writer before the first ``step`` from now."""
    gate = Gate()

    def before(name: str) -> None:
        if name == step:
            gate.wait()

    hooks.before = before
    return gate


async def held_batch(
    committer: Committer, hooks: Hooks, batch: Callable[[], list["asyncio.Future[None]"]]
) -> list["asyncio.Future[None]"]:
    """Submit ``batch`` while a first commit is under way, so that it becomes one transaction."""
    gate = hold_first(hooks)
    first = committer.submit(0)
    await gate.reached()
    futures = batch()
    gate.open()
    await first
    return futures


async def test_what_was_submitted_is_there_once_its_future_is_done(database: Database) -> None:
    async with committing(database, take_over(database)) as committer:
        await committer.submit(0, [event("a"), event("b")])
        assert topics(database) == ["a", "b"]
        await committer.submit([1, 2], [event("c")])
        assert topics(database) == ["a", "b", "c"]
    assert commit_numbers(database) == {0: 1, 1: 1, 2: 1}


async def test_a_commit_without_writes_passes_the_fence_and_counts(database: Database) -> None:
    async with committing(database, take_over(database)) as committer:
        await committer.submit(1)
        assert committer.commit_no(1) == commit_numbers(database)[1] == 1
        take_over(database, "bob")
        with pytest.raises(LeaseLost):
            await committer.submit(1)


async def test_what_queued_during_a_commit_goes_into_the_next_transaction(
    database: Database, hooks: Hooks
) -> None:
    reports: list[CommitReport] = []
    async with committing(database, take_over(database)) as committer:
        committer.on_report = reports.append
        futures = await held_batch(
            committer, hooks, lambda: [committer.submit(n % 3, [event(str(n))]) for n in range(50)]
        )
        await asyncio.gather(*futures)
    assert [(report.items, report.writes) for report in reports] == [(1, 0), (50, 50)]
    assert all(report.is_committed and report.seconds > 0 for report in reports)
    assert topics(database) == [str(n) for n in range(50)]
    assert commit_numbers(database) == {0: 2, 1: 1, 2: 1}


async def test_futures_resolve_in_the_order_of_their_submission(
    database: Database, hooks: Hooks
) -> None:
    order: list[int] = []
    async with committing(database, take_over(database)) as committer:

        def batch() -> list["asyncio.Future[None]"]:
            futures = [committer.submit(n % 3, [event(str(n))]) for n in range(20)]
            for n, future in enumerate(futures):
                future.add_done_callback(lambda _, n=n: order.append(n))
            return futures

        await asyncio.gather(*await held_batch(committer, hooks, batch))
    assert order == list(range(20))


async def test_one_bad_item_of_a_batch_fails_alone(database: Database, hooks: Hooks) -> None:
    async with committing(database, take_over(database)) as committer:
        await committer.submit(0, [block(7)])
        futures = await held_batch(
            committer,
            hooks,
            lambda: [
                committer.submit(0, [block(1), event("good")]),
                committer.submit(1, [event("bad"), block(7)]),
                committer.submit(1, [block(2)]),
                committer.submit(2, [REMOVE_BLOCK.write(height=99), event("bad too")]),
                committer.submit(2, [block(3)]),
            ],
        )
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [
        type(None),
        WriteRefused,
        type(None),
        WriteRefused,
        type(None),
    ]
    assert heights(database) == [1, 2, 3, 7]
    assert topics(database) == ["good"]


async def test_a_value_that_no_database_takes_is_refused_alone(
    database: Database, hooks: Hooks
) -> None:
    async with committing(database, take_over(database)) as committer:
        futures = await held_batch(
            committer,
            hooks,
            lambda: [
                committer.submit(0, [ADD_BLOCK.write(height=1 << 70, block_hash=bytes(32))]),
                committer.submit(0, [ADD_BLOCK.write(height=1, block_hash=object())]),
                committer.submit(0, [ADD_BLOCK.write(height=1)]),
                committer.submit(0, [block(1)]),
            ],
        )
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert [isinstance(result, WriteRefused) for result in results] == [True, True, True, False]
    assert heights(database) == [1]


async def test_a_refused_row_is_quoted_nowhere(database: Database) -> None:
    quoting = insert(peers, "node_id").write(
        node_id=b"hush", addresses=None, features=b"hush", last_seen=1, storage=b"hush"
    )
    async with committing(database, take_over(database)) as committer:
        with pytest.raises(WriteRefused) as error:
            await committer.submit(0, [quoting])
    shown = "".join(traceback.format_exception(error.value)) + repr(quoting)
    assert "addresses" in shown, "the column at fault is named"
    assert "hush" not in shown
    assert b"hush".hex() not in shown


async def test_writes_that_meet_in_a_row_keep_their_order(database: Database, hooks: Hooks) -> None:
    async with committing(database, take_over(database)) as committer:
        again = [block(1), REMOVE_BLOCK.write(height=1)]
        futures = await held_batch(
            committer,
            hooks,
            lambda: [
                *(committer.submit(0, again) for _ in range(3)),
                committer.submit(1, [block(1)]),
                committer.submit(2, [REMOVE_BLOCK.write(height=1)]),
                committer.submit(0, [block(1)]),
            ],
        )
        await asyncio.gather(*futures)
    assert heights(database) == [1]


async def test_nothing_is_written_once_another_took_the_lease(database: Database) -> None:
    async with committing(database, take_over(database)) as committer:
        lost: list[tuple[int, ...]] = []
        committer.on_lost = lost.append
        await committer.submit(0, [event("ours")])
        take_over(database, "bob")
        with pytest.raises(LeaseLost) as error:
            await committer.submit([0, 1], [event("void")])
        assert error.value.shards == (0, 1)
        with pytest.raises(LeaseLost):
            await committer.submit(1, [event("void")])
        assert lost == [(0, 1)]
    assert topics(database) == ["ours"]


async def test_shards_that_another_took_are_lost_for_good_and_the_others_go_on(
    database: Database, hooks: Hooks
) -> None:
    async with committing(database, take_over(database)) as committer:
        take_over(database, "bob", (1,))
        futures = await held_batch(
            committer,
            hooks,
            lambda: [committer.submit(shard, [event(str(shard))]) for shard in (0, 1, 2)],
        )
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [isinstance(result, LeaseLost) for result in results] == [False, True, False]
        with pytest.raises(LeaseLost):
            await committer.submit(1, [event("again")])
        await committer.submit(2, [event("more")])
    assert topics(database) == ["0", "2", "more"]


async def test_rows_that_a_new_owner_changed_mean_a_lost_lease_not_a_refused_write(
    database: Database,
) -> None:
    first = FencedWriter(database, take_over(database))
    second = FencedWriter(database, take_over(database, "bob"))
    second.commit((0,), grouped([[block(1)]]))
    with pytest.raises(LeaseLost):
        first.commit((0,), grouped([[block(1)]]))
    first.close()
    second.close()


async def test_a_takeover_before_the_fence_voids_what_was_decided(
    database: Database, hooks: Hooks
) -> None:
    """Between check and write, the near side: the decision is made, the write has not begun."""
    async with committing(database, take_over(database)) as committer:
        gate = hold_first(hooks)
        late = committer.submit(0, [event("void")])
        await gate.reached()
        new = take_over(database, "bob")
        gate.open()
        with pytest.raises(LeaseLost):
            await late
        async with committing(database, new) as other:
            await other.submit(0, [event("bob's")])
    assert topics(database) == ["bob's"]


async def test_a_takeover_between_fence_and_commit_waits_and_then_sees_that_commit(
    database: Database, hooks: Hooks
) -> None:
    """Between check and write, the far side: the fence has passed, the commit has not."""
    async with committing(database, take_over(database)) as committer:
        gate = hold_first(hooks, "commit")
        ours = committer.submit(0, [event("ours")])
        await gate.reached()
        # Its first try waits for our transaction, sees that the owner lives, and is refused.
        takeover = asyncio.create_task(asyncio.to_thread(take_over, database, "bob"))
        done, _ = await asyncio.wait([takeover], timeout=0.3)
        assert not done, "another took the lease under an open transaction"
        assert not ours.done()
        gate.open()
        await ours
        new = await takeover
        assert new.commit_numbers[0] == 1
        with pytest.raises(LeaseLost):
            await committer.submit(0, [event("void")])
        async with committing(database, new) as other:
            await other.submit(0, [event("bob's")])
    assert topics(database) == ["ours", "bob's"]


@pytest.mark.parametrize("has_happened", [True, False])
async def test_a_commit_whose_answer_is_lost_is_settled_by_its_number(
    database: Database, hooks: Hooks, has_happened: bool
) -> None:
    async with committing(database, take_over(database)) as committer:
        await committer.submit(0, [event("a")])

        def lose(name: str) -> None:
            if name == "commit":
                hooks.before = hooks.after = lambda _step: None
                raise ConnectionError("the wire was cut")

        if has_happened:
            hooks.after = lose
        else:
            hooks.before = lose
        future = committer.submit([0, 1], [event("b")])
        if has_happened:
            await future
        else:
            with pytest.raises(StorageUnavailable):
                await future
            assert topics(database) == ["a"]
            await committer.submit([0, 1], [event("b")])
        await committer.submit(0, [event("c")])
    assert topics(database) == ["a", "b", "c"]
    assert commit_numbers(database) == {0: 3, 1: 1, 2: 0}


async def test_a_commit_whose_answer_is_lost_in_a_takeover_is_not_spoken_of(
    database: Database, hooks: Hooks
) -> None:
    async with committing(database, take_over(database)) as committer:

        def lose(name: str) -> None:
            if name == "commit":
                hooks.after = lambda _step: None
                take_over(database, "bob")
                raise ConnectionError("the wire was cut")

        hooks.after = lose
        with pytest.raises(LeaseLost):
            await committer.submit(0, [event("a")])
    assert topics(database) == ["a"]


async def test_a_database_that_is_away_for_a_moment_costs_only_that_transaction(
    database: Database, hooks: Hooks
) -> None:
    async with committing(database, take_over(database)) as committer:

        def lose(name: str) -> None:
            if name == "run":
                hooks.before = lambda _step: None
                raise ConnectionError("the wire was cut")

        hooks.before = lose
        with pytest.raises(StorageUnavailable):
            await committer.submit(0, [event("a")])
        await committer.submit(0, [event("a")])
    assert topics(database) == ["a"]


async def test_a_reader_neither_waits_for_an_open_commit_nor_sees_it(
    database_url: str, hooks: Hooks
) -> None:
    async with storing(database_url) as store:
        await store.committer.submit(0, [event("before")])
        gate = hold_first(hooks, "commit")
        future = store.committer.submit(0, [event("during")])
        await gate.reached()
        during = await asyncio.wait_for(store.read(outbox.pending_events), 5)
        assert [each.topic for each in during] == ["before"]
        gate.open()
        await future
        after = await store.read(outbox.pending_events)
        assert [each.topic for each in after] == ["before", "during"]


async def test_commits_go_on_while_a_reader_holds_its_snapshot(database: Database) -> None:
    async with committing(database, take_over(database)) as committer:
        with database.snapshot() as connection:
            assert outbox.pending_events(connection) == []
            for n in range(3):
                await asyncio.wait_for(committer.submit(0, [event(str(n))]), 5)
            assert outbox.pending_events(connection) == []
    assert topics(database) == ["0", "1", "2"]


async def test_what_is_queued_at_a_stop_is_committed_and_what_comes_later_is_not(
    database: Database, hooks: Hooks
) -> None:
    async with committing(database, take_over(database)) as committer:
        gate = hold_first(hooks)
        futures = [committer.submit(0, [event(str(n))]) for n in range(5)]
        await gate.reached()
        stopping = asyncio.create_task(committer.stop())
        await asyncio.sleep(0)
        with pytest.raises(StorageUnavailable):
            await committer.submit(0, [event("late")])
        gate.open()
        await stopping
        await asyncio.gather(*futures)
    assert topics(database) == [str(n) for n in range(5)]


async def test_a_commit_that_nobody_waits_for_any_more_still_happens(
    database: Database, hooks: Hooks
) -> None:
    async with committing(database, take_over(database)) as committer:
        gate = hold_first(hooks)
        first = committer.submit(0, [event("a")])
        second = committer.submit(0, [event("b")])
        await gate.reached()
        first.cancel()
        gate.open()
        await second
    assert topics(database) == ["a", "b"]


def test_two_writers_never_both_succeed(database: Database) -> None:
    """Two threads take the lease from each other and commit as fast as they can.

    The oracle: every commit that was reported as done is there, none that was refused is, and the
    row's number counts exactly the former.
    """
    take_over(database)
    written: dict[str, list[int]] = {"alice": [], "bob": []}
    refused: dict[str, list[int]] = {"alice": [], "bob": []}
    failures: list[BaseException] = []

    def fight(owner: str, base: int) -> None:
        try:
            for turn in range(8):
                held = take_over(database, owner, unix_s=turn)
                writer = FencedWriter(database, held)
                for n in range(6):
                    number = base + turn * 100 + n
                    try:
                        writer.commit((0, 1, 2), grouped([[block(number)]]))
                        written[owner].append(number)
                    except LightningError:
                        refused[owner].append(number)
                writer.close()
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            failures.append(error)

    threads = [
        threading.Thread(target=fight, args=("alice", 1_000)),
        threading.Thread(target=fight, args=("bob", 2_000)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    done = written["alice"] + written["bob"]
    assert heights(database) == sorted(done)
    assert not set(done) & set(refused["alice"] + refused["bob"])
    assert set(commit_numbers(database).values()) == {len(done)}
    assert done, "nobody ever wrote"


def test_a_loop_that_is_never_idle_does_not_stop_commits(database: Database) -> None:
    """Its turns are so short that it always has the interpreter back before another wakes."""

    async def commit_beside_a_busy_loop() -> None:
        is_done = False

        async def never_idle() -> None:
            while not is_done:
                until = time.perf_counter() + 0.000_05
                while time.perf_counter() < until:
                    pass
                await asyncio.sleep(0)

        async with committing(database, take_over(database)) as committer:
            busy = asyncio.create_task(never_idle())
            async with asyncio.timeout(DEADLINE_S):
                for n in range(20):
                    await committer.submit(0, [event(f"{n}.{k}") for k in range(20)])
            is_done = True
            await busy

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(commit_beside_a_busy_loop())
    assert len(topics(database)) == 400


async def test_the_loop_lends_its_time_while_a_commit_computes_and_only_then(
    database: Database, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "LEND_AFTER_S", 0.001)
    lent: list[float] = []
    async with committing(database, take_over(database)) as committer:
        monkeypatch.setattr(committer._needs_nothing, "wait", lent.append)
        gate = hold_first(hooks, "run")
        future = committer.submit(0, [event("a")])
        await gate.reached()
        await until(lambda: len(lent) > 3, "the loop lends")
        gate.open()
        await future
        await until(lambda: committer._lending is None, "the end of lending")
        assert set(lent) == {committer_module.LEND_S}
