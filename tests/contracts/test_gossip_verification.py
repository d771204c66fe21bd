"""The processes that check signatures: right answers in order, whatever becomes of them."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from io import BytesIO

import pytest
from support.gossip_intake import network
from support.waiting import until

from front.gossip.intake import verification
from front.gossip.intake.verification import AT_ONCE, Verification
from front.gossip.intake.worker import HIGH_S, RIGHT, UNCHECKED, WRONG, pack, serve
from shared.gossip.view import channel_view

NETWORK = network(channels=30, nodes=10)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
FRONT = """
import asyncio, sys
from front.gossip.intake.verification import Verification

async def main():
    it = Verification(2, lambda: None)
    it.check([(bytes([1, 0]) + bytes(500), b"")], lambda answers: None)
    while len(it.pids) < 2:
        await asyncio.sleep(0.01)
    print(*it.pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def right() -> list[tuple[bytes, bytes]]:
    """Announcements with who signed them."""
    jobs = [(raw, b"") for raw in (*NETWORK.channels.values(), *NETWORK.nodes.values())]
    for key, raw in NETWORK.updates.items():
        jobs.append((raw, channel_view(NETWORK.channels[key >> 1])[2 + (key & 1)]))
    return jobs


def wrong(job: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    raw, signer = job
    return raw[:-1] + bytes([raw[-1] ^ 1]), signer


def high_s(job: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    raw, signer = job
    s = ORDER - int.from_bytes(raw[34:66], "big")
    return raw[:34] + s.to_bytes(32, "big") + raw[66:], signer


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@asynccontextmanager
async def verifying(workers: int = 1):
    it = Verification(workers, lambda: None)
    answers: list[tuple[int, bytes]] = []
    try:
        yield it, answers
    finally:
        pids = it.pids
        await it.stop()
        assert not any(map(alive, pids))


def check(it: Verification, answers: list, number: int, jobs: list) -> None:
    it.check(jobs, lambda found: answers.append((number, found)))


def test_a_worker_tells_right_from_wrong_from_malformed_from_high_s():
    one = right()
    jobs = [one[0], wrong(one[0]), high_s(one[-1]), wrong(high_s(one[-1]))]
    jobs += [(b"", b""), (b"\1\0", b""), (one[-1][0], b""), (one[-1][0][:100], one[-1][1])]
    jobs += [(b"\0\x10" + bytes(10), b""), one[-1]]
    sink = BytesIO()
    serve(BytesIO(pack(jobs) + pack(jobs[:1])), sink)
    expected = [RIGHT, WRONG, HIGH_S, WRONG, WRONG, WRONG, WRONG, WRONG, WRONG, RIGHT, RIGHT]
    assert list(sink.getvalue()) == expected


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 10, -1])
def test_a_worker_whose_front_ended_within_a_batch_ends_without_an_answer(kept):
    sink = BytesIO()
    serve(BytesIO(pack(right()[:2])[:kept]), sink)
    assert not sink.getvalue()


async def test_batches_are_answered_in_order_with_an_answer_for_each_announcement():
    jobs = right()
    async with verifying() as (it, answers):
        for number in range(0, len(jobs), 10):
            await until(lambda: it.free)
            check(it, answers, number, [*jobs[number : number + 10], wrong(jobs[number])])
        await until(lambda: len(answers) == -(-len(jobs) // 10))
    for place, (number, found) in enumerate(answers):
        assert number == place * 10
        assert list(found) == [RIGHT] * (len(found) - 1) + [WRONG]


async def test_several_workers_share_what_there_is():
    jobs = right()
    async with verifying(2) as (it, answers):
        for number in range(2 * AT_ONCE):
            assert it.free
            check(it, answers, number, jobs)
        assert not it.free
        assert [len(worker.batches) for worker in it._workers] == [AT_ONCE, AT_ONCE]
        await until(lambda: len(answers) == 2 * AT_ONCE)
        assert len(it.pids) == 2
        assert it.free
    assert all(set(found) == {RIGHT} for _, found in answers)


async def test_a_worker_killed_within_a_batch_loses_nothing(monkeypatch):
    monkeypatch.setattr(verification, "RESTART_S", 0.01)
    jobs = right() * 20
    async with verifying() as (it, answers):
        check(it, answers, 0, jobs[:1])
        await until(lambda: len(answers) == 1)
        (pid,) = it.pids
        # so it has both batches when it dies, and has answered none
        os.kill(pid, signal.SIGSTOP)
        check(it, answers, 1, jobs)
        check(it, answers, 2, [wrong(job) for job in jobs[:10]])
        os.kill(pid, signal.SIGKILL)
        await until(lambda: len(answers) == 3)
        assert it.pids not in ([], [pid])
    assert [number for number, _ in answers] == [0, 1, 2]
    assert set(answers[1][1]) == {RIGHT}
    assert len(answers[1][1]) == len(jobs)
    assert list(answers[2][1]) == [WRONG] * 10


async def test_while_one_worker_is_dead_the_other_gets_no_more_than_its_share():
    jobs = right()
    async with verifying(2) as (it, answers):
        for number in range(2):
            check(it, answers, number, jobs)
        await until(lambda: len(answers) == 2 and len(it.pids) == 2)
        dead, living = it._workers
        os.kill(dead.process.pid, signal.SIGKILL)
        await until(lambda: dead.process is None)
        os.kill(living.process.pid, signal.SIGSTOP)
        given = 0
        while it.free:
            check(it, answers, given, jobs)
            given += 1
        assert len(living.batches) == len(dead.batches) == AT_ONCE
        os.kill(living.process.pid, signal.SIGCONT)
        await until(lambda: len(answers) == 2 + given)


async def test_a_batch_that_kills_every_worker_goes_unchecked_and_the_next_ones_are_checked(
    monkeypatch,
):
    monkeypatch.setattr(verification, "RESTART_S", 0.01)
    jobs = right()
    async with verifying() as (it, answers):
        deadly, real = [*jobs[:3]], Verification._write

        def write(worker, batch) -> None:
            real(worker, batch)
            if batch.items is deadly and worker.process is not None:
                worker.process.kill()

        monkeypatch.setattr(it, "_write", write)
        check(it, answers, 0, deadly)
        check(it, answers, 1, jobs)
        await until(lambda: len(answers) == 2)
    assert answers[0] == (0, bytes([UNCHECKED] * 3))
    assert set(answers[1][1]) == {RIGHT}


async def test_a_receiver_that_fails_does_not_end_the_checks():
    async with verifying() as (it, answers):
        it.check(right()[:1], lambda found: 1 / 0)
        check(it, answers, 1, right())
        await until(lambda: answers)
    assert set(answers[0][1]) == {RIGHT}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_front_however_it_ends(number):
    with subprocess.Popen([sys.executable, "-c", FRONT], stdout=subprocess.PIPE) as front:
        try:
            pids = [int(pid) for pid in front.stdout.readline().split()]
            assert len(pids) == 2
            assert all(map(alive, pids))
        finally:
            front.send_signal(number)
            front.wait()
    asyncio.run(until(lambda: not any(map(alive, pids))))
