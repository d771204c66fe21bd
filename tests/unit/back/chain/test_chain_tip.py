"""What to take back and on is decided from hashes alone."""

import pytest
from hypothesis import given, strategies as st

from back.chain.events import BlockRef
from back.chain.tip import KEPT_BLOCKS, Branch, Follow, NeedOlder, Wait, reconcile
from shared.errors import InvariantError


def _chain(name: str, heights: range) -> list[BlockRef]:
    return [BlockRef(h, f"{name}{h}".encode()) for h in heights]


def _hashes(*parts: list[BlockRef]) -> dict[int, bytes]:
    return {b.height: b.hash for part in parts for b in part}


@given(
    ours=st.integers(1, 200),
    common=st.integers(0, 200),
    new=st.integers(0, 200),
    loading=st.booleans(),
)
def test_what_is_taken_back_ends_at_the_last_common_block(
    ours: int, common: int, new: int, loading: bool
) -> None:
    common = min(common, ours)
    branch = _chain("a", range(1000, 1000 + ours))
    shared, rival = branch[:common], _chain("b", range(1000 + common, 1000 + common + new))
    height = 999 + common + new
    plan = reconcile(branch, _hashes(shared, rival), height, is_initial_download=loading)
    if isinstance(plan, Follow):
        assert plan.fork == shared[-1]
        assert list(plan.disconnect) == branch[common:][::-1]
        assert not (plan.disconnect and new == 0 and (loading or ours - common > 144))
    elif isinstance(plan, NeedOlder):
        assert common == 0
        assert plan.oldest == branch[0]
    else:
        assert plan.blocks_behind == ours - common
        assert new == 0


def test_a_bitcoind_that_indexes_anew_takes_nothing_back() -> None:
    branch = _chain("a", range(100, 110))
    theirs = _hashes(branch[:3])
    assert reconcile(branch, theirs, 102, is_initial_download=True) == Wait(7)
    assert reconcile(branch, {}, 5, is_initial_download=True) == Wait(104)
    plan = reconcile(branch, theirs, 102, is_initial_download=False)
    assert plan == Follow(branch[2], tuple(reversed(branch[3:])))


def test_a_longer_rival_is_followed_even_while_loading() -> None:
    branch = _chain("a", range(100, 110))
    theirs = _hashes(branch[:3], _chain("b", range(103, 120)))
    plan = reconcile(branch, theirs, 119, is_initial_download=True)
    assert isinstance(plan, Follow)
    assert len(plan.disconnect) == 7


def test_a_branch_keeps_its_last_blocks_only() -> None:
    branch = Branch()
    for block in _chain("a", range(1000)):
        branch = branch.connect(block)
    assert len(branch.blocks) == KEPT_BLOCKS
    assert branch.tip == BlockRef(999, b"a999")
    assert branch.hash_at(999) == b"a999"
    assert branch.hash_at(1000 - KEPT_BLOCKS) is not None
    assert branch.hash_at(999 - KEPT_BLOCKS) is None
    assert branch.hash_at(1000) is None
    assert branch.disconnect().tip == BlockRef(998, b"a998")
    assert branch.remember(BlockRef(999 - KEPT_BLOCKS, b"x")).hash_at(999 - KEPT_BLOCKS) == b"x"


def test_a_branch_never_skips_a_block() -> None:
    branch = Branch().connect(BlockRef(5, b"5"))
    with pytest.raises(InvariantError):
        branch.connect(BlockRef(7, b"7"))
    with pytest.raises(InvariantError):
        branch.remember(BlockRef(3, b"3"))
    with pytest.raises(InvariantError):
        Branch().remember(BlockRef(3, b"3"))
    assert Branch().hash_at(0) is None
