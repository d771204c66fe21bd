"""Which fronts count as dead, and when nobody may."""

from back.fronts import FRONT_SILENT_S, Fronts
from shared.fabric.requests import Alive


def alive(name: str) -> Alive:
    return Alive(front=name, instance=bytes(16), version="1", listen=())


def test_a_front_that_is_silent_too_long_is_dead_once():
    fronts = Fronts()
    assert fronts.heard(alive("a"), 0.0)
    assert not fronts.heard(alive("a"), 1.0)
    assert fronts.silent(1.0 + FRONT_SILENT_S, ["a"], is_connected=True) == []
    assert fronts.silent(1.1 + FRONT_SILENT_S, ["a"], is_connected=True) == ["a"]
    assert fronts.known == {}


def test_a_front_that_carries_sessions_and_was_never_heard_dies_too():
    fronts = Fronts()
    assert fronts.silent(10.0, ["a"], is_connected=True) == []
    assert fronts.silent(10.1 + FRONT_SILENT_S, ["a"], is_connected=True) == ["a"]


def test_nobody_dies_of_a_broker_that_stood_still():
    fronts = Fronts()
    fronts.heard(alive("a"), 0.0)
    fronts.silent(0.0, ["a", "b"], is_connected=True)
    fronts.excuse(9.0, 8.5)
    assert fronts.silent(9.0, ["a", "b"], is_connected=True) == []
    assert fronts.silent(9.0 + FRONT_SILENT_S, ["a", "b"], is_connected=True) == ["a", "b"]


def test_nobody_dies_while_nobody_can_be_heard():
    fronts = Fronts()
    fronts.heard(alive("a"), 0.0)
    assert fronts.silent(60.0, ["a", "b"], is_connected=False) == []
    assert fronts.silent(60.0 + FRONT_SILENT_S, ["a", "b"], is_connected=True) == []
    assert fronts.silent(60.1 + FRONT_SILENT_S, ["a", "b"], is_connected=True) == ["a", "b"]
