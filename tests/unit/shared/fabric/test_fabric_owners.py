"""What a front remembers of owners."""

from shared.fabric.owners import Owners
from shared.fabric.requests import Hello


def hello(epoch: int, commit_no: int = 0, shard: int = 7) -> Hello:
    return Hello(shard=shard, owner="b", epoch=epoch, commit_no=commit_no)


def test_the_first_hello_and_each_higher_epoch_are_new() -> None:
    owners = Owners(0.0)
    assert owners.heard(hello(5), 1.0)
    assert not owners.heard(hello(5), 2.0)
    assert owners.heard(hello(6), 3.0)
    assert owners[7].epoch == 6
    assert owners[8].epoch == 0


def test_a_lower_epoch_is_dropped() -> None:
    owners = Owners(0.0)
    owners.heard(hello(6), 0.0)
    assert not owners.heard(hello(5), 9.0)
    assert owners[7].epoch == 6
    assert owners[7].heard_at == 0.0


def test_the_highest_commit_number_outlives_its_epoch() -> None:
    owners = Owners(0.0)
    owners.heard(hello(5, commit_no=100), 0.0)
    restored = hello(6, commit_no=99)
    assert owners.is_restored(restored)
    owners.heard(restored, 1.0)
    assert owners[7].commit_no == 100
    assert not owners.is_restored(hello(6, commit_no=100))


def test_an_owner_is_present_until_three_hellos_are_missed() -> None:
    owners = Owners(0.0)
    assert not owners.is_present(7, 0.0)
    owners.heard(hello(5), 10.0)
    assert owners.is_present(7, 12.9)
    assert not owners.is_present(7, 13.0)


def test_silence_of_thirty_seconds_is_told_once() -> None:
    owners = Owners(0.0)
    owners.heard(hello(5), 10.0)
    assert 7 not in owners.silent(30.0)
    assert owners.silent(39.9) == []
    assert owners.silent(40.0) == [7]
    assert owners.silent(41.0) == []
    owners.heard(hello(5), 42.0)
    assert 7 in owners.silent(72.0)


def test_a_shard_that_was_never_owned_is_silent_too() -> None:
    assert len(Owners(0.0).silent(30.0)) == 64


def test_without_a_broker_silence_means_nothing() -> None:
    owners = Owners(0.0)
    owners.heard(hello(5), 0.0)
    owners.fabric_lost()
    assert not owners.is_present(7, 1.0)
    assert owners.silent(100.0) == []
    owners.fabric_back(100.0)
    assert owners.silent(129.0) == []
    assert 7 in owners.silent(130.0)
