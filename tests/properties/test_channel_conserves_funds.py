"""Two cores, any interleaving, any cut, any kill: no satoshi and no HTLC is ever lost or made.

The oracle knows nothing of our states: it reads the outputs of the raw commitment transactions,
and it counts payments by their outcomes.
"""

from dataclasses import dataclass

from embit.transaction import Transaction
from hypothesis import given, settings, strategies as st
from support.channels import ANCHORS, STATIC, End, opened, settle, wired
from support.openings import opened_by_messages

from back.channel import commitments
from back.channel.effects import CloseConnection, Publish
from back.channel.events import BlockConnected, FeerateChanged
from back.channel.model import Channel, Fulfilled, Htlc
from back.transactions import scripts
from back.transactions.commitment import CommitmentTransaction

FUNDING = 1_000_000
PUSHED = 400_000_000
ANCHOR = 330


@dataclass(frozen=True)
class Offer:
    side: int
    amount_msat: int
    outcome: str
    cltv_expiry: int


@dataclass(frozen=True)
class Deliver:
    side: int
    count: int


@dataclass(frozen=True)
class Decide:
    side: int
    count: int


@dataclass(frozen=True)
class Feerate:
    feerate_per_kw: int


@dataclass(frozen=True)
class Kill:
    """The next step of a side dies after its commit and so many of its effects."""

    side: int
    after: int


class Cut:
    def __repr__(self) -> str:
        return "Cut()"


class Connect:
    def __repr__(self) -> str:
        return "Connect()"


sides = st.integers(0, 1)
amounts = st.one_of(
    st.integers(1, 2_000_000),  # trimmed, with luck
    st.integers(2_000_000, 150_000_000),
    st.just(1_300_000),
)
actions = st.one_of(
    st.builds(Offer, sides, amounts, st.sampled_from("ppfm"), st.integers(500, 503)),
    st.builds(Deliver, sides, st.integers(1, 6)),
    st.builds(Deliver, sides, st.integers(1, 6)),
    st.builds(Deliver, sides, st.just(1_000)),
    st.builds(Decide, sides, st.integers(1, 4)),
    st.builds(Feerate, st.integers(253, 6_000)),
    st.builds(Kill, sides, st.integers(0, 5)),
    st.builds(Cut),
    st.builds(Connect),
)


def current_local(channel: Channel) -> CommitmentTransaction:
    local = channel.local_commitment
    return commitments.local_commitment(channel, local.number, local.current_point)


class Oracle:
    """Checks both ends after every commit of either."""

    def __init__(self, *ends: End) -> None:
        self.ends = ends
        self.seen: dict[tuple[str, int], bytes] = {}
        for end in ends:
            end.on_commit = self.check

    def check(self, end: End) -> None:
        channel = end.channel
        assert channel.local_msat + channel.remote_msat == FUNDING * 1000
        local = current_local(channel)
        assert commitments.is_funding_signature_valid(
            channel, local, channel.local_commitment.signature
        ), "we could not publish our own commitment"
        self._one_number_one_content(end.keys.name, channel.local_commitment.number, local.txid)
        remote = channel.remote_commitment
        other = "fundee" if end.keys.name == "opener" else "opener"
        theirs = commitments.remote_commitment(channel, remote.number, remote.current_point)
        self._one_number_one_content(other, remote.number, theirs.txid)
        if channel.unrevoked is not None:
            number = channel.unrevoked.number
            theirs = commitments.remote_commitment(channel, number, remote.next_point)
            self._one_number_one_content(other, number, theirs.txid)
        self._outputs_are_all_there(channel, local)
        self._nobody_is_short(end, local)
        self._outputs_are_all_there(channel, theirs)

    def _one_number_one_content(self, holder: str, number: int, txid: bytes) -> None:
        """Both ends, at all times, mean the same transaction by a commitment number."""
        assert self.seen.setdefault((holder, number), txid) == txid

    def _nobody_is_short(self, end: End, built: CommitmentTransaction) -> None:
        """What we could take on chain now is between what is safely ours and what may be."""
        is_opener = end.keys.name == "opener"
        other = self.ends[is_opener]
        initial = FUNDING * 1000 - PUSHED if is_opener else PUSHED
        at_risk = sum(
            amount_msat(o)
            for o, what in end.outcomes.items()
            if not {"failed", "refused"} & {*what}
        )
        won = sum(h.amount_msat for h in end.history if is_paid(h) and not h.offered)
        gone = sum(h.amount_msat for h in end.history if is_paid(h) and h.offered)
        hoped = sum(amount_msat(o) for o in other.outcomes if o[0] == "p")
        keys = built.parameters.keys
        script = scripts.to_local_script(
            keys.revocation_pubkey, built.parameters.to_self_delay, keys.local_delayed_pubkey
        )
        transaction = Transaction.parse(built.unsigned)
        ours = sum(
            output.value
            for output in transaction.vout
            if output.script_pubkey.data == scripts.p2wsh(script)
        )
        if is_opener:
            ours += FUNDING - sum(output.value for output in transaction.vout)
            ours += 2 * ANCHOR
        assert ours * 1000 <= initial - gone + hoped + 10 * 1_000_000 * is_opener
        if ours:
            assert ours * 1000 >= initial - at_risk + won - 1_000

    def _outputs_are_all_there(self, channel: Channel, built: CommitmentTransaction) -> None:
        transaction = Transaction.parse(built.unsigned)
        values = [output.value for output in transaction.vout]
        fee = FUNDING - sum(values)
        kind = channel.parameters.commitment_type
        weight = 724 if kind is STATIC else 1124
        count = len(built.htlc_transactions)
        base = (weight + 172 * count) * built.parameters.feerate_per_kw // 1000
        trimmed = sum(h.amount_msat for h in built.parameters.htlcs) // 1000 - sum(
            t.htlc.amount_msat // 1000 for t in built.htlc_transactions
        )
        # Beside the fee and the trimmed HTLCs only roundings and outputs below the dust limit go.
        assert (
            base <= fee <= base + trimmed + len(built.parameters.htlcs) + 2 + 2 * 354 + 2 * ANCHOR
        )
        assert all(value >= ANCHOR for value in values)


def amount_msat(origin: str) -> int:
    return int(origin.split("-")[2])


def is_paid(htlc: Htlc) -> bool:
    return isinstance(htlc.resolution, Fulfilled)


def run(action: object, ends: tuple[End, End], counter: list[int]) -> None:
    match action:
        case Offer():
            counter[0] += 1
            origin = f"{action.outcome}{action.side}-{counter[0]}-{action.amount_msat}"
            ends[action.side].offer(origin, action.amount_msat, action.cltv_expiry)
        case Deliver(side=side, count=count):
            ends[side].receive(count)
        case Decide(side=side, count=count):
            ends[side].decide(count)
        case Feerate(feerate_per_kw=feerate):
            for end in ends:
                end.do(FeerateChanged(feerate))
        case Kill(side=side, after=after):
            ends[side].crash_after = after
        case Cut():
            ends[0].cut()
        case Connect():
            if not ends[0].is_connected:
                ends[0].connect()


def paid_msat(end: End) -> int:
    return sum(amount_msat(o) for o, what in end.outcomes.items() if "fulfilled" in what)


@given(
    st.sampled_from([STATIC, ANCHORS]),
    st.booleans(),
    st.lists(actions, min_size=5, max_size=60),
)
@settings(max_examples=80, deadline=None)
def test_any_interleaving_any_cut_any_kill(
    kind: object, is_opened_by_messages: bool, story: list[object]
) -> None:
    ends = opened_by_messages(kind) if is_opened_by_messages else wired(opened(kind))
    Oracle(*ends)
    counter = [0]
    for action in story:
        run(action, ends, counter)
    for end in ends:
        end.crash_after = None
    settle(*ends)

    for end in ends:
        assert not end.took(CloseConnection), "no end found fault with the other"
        assert not end.took(Publish)
        assert commitments.is_empty_and_clean(end.channel) or end.channel.fees[1:]
        assert not end.channel.htlcs
        for origin, what in end.outcomes.items():
            expected = {"p": "fulfilled", "f": "failed", "m": "failed"}[origin[0]]
            assert what in (["offered", expected], ["refused"]), (origin, what)
    opener, fundee = ends
    assert opener.channel.local_msat == (
        FUNDING * 1000 - PUSHED - paid_msat(opener) + paid_msat(fundee)
    )
    assert fundee.channel.local_msat == opener.channel.remote_msat
    # Every settled HTLC is in the history, with the remote commitments that held it.
    for end in ends:
        assert {h.origin for h in end.history if h.offered} == {
            origin for origin, what in end.outcomes.items() if what[0] == "offered"
        }
    # Nothing is left undone: one more round changes nothing.
    for end in ends:
        assert end.do(BlockConnected(111)).effects == ()


def test_an_htlc_output_pays_what_was_offered() -> None:
    opener, fundee = wired(opened(ANCHORS))
    opener.offer("p1", 70_000_000)
    opener.peer.receive()
    opener.receive()
    transaction = Transaction.parse(current_local(fundee.channel).unsigned)
    assert 70_000 in [output.value for output in transaction.vout]
    assert all(len(output.script_pubkey.data) == 34 for output in transaction.vout)
    assert scripts.p2wsh(b"")[:2] == b"\0\x20"
