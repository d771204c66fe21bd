"""Two channel cores wired back to back, with real keys, and a wire that can be cut."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from back.channel import commitments, machine, opening
from back.channel.effects import (
    AnnouncementSigned,
    Answer,
    CheckSecret,
    CloseConnection,
    ClosingSignature,
    CommitmentSignatures,
    Effect,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    OfferRefused,
    Publish,
    Request,
    Revocation,
    RevokeLocalCommitment,
    SecretCheck,
    Send,
    SignAnnouncement,
    SignClosing,
    SignedCommitment,
    SignFundingCreated,
    SignFundingSigned,
    SignLocalCommitment,
    SignRemoteCommitment,
)
from back.channel.events import (
    Connected,
    Disconnected,
    Event,
    FailHtlc,
    FailMalformedHtlc,
    FulfillHtlc,
    OfferHtlc,
    Received,
)
from back.channel.model import (
    AnnouncementTurn,
    Channel,
    ChannelParameters,
    FeeState,
    FeeUpdate,
    Funding,
    Htlc,
    Link,
    LocalCommitment,
    PartyParameters,
    Phase,
    RemoteCommitment,
)
from back.channel.policy import ChannelPolicy, channel_type_bits
from back.transactions.commitment import CommitmentType
from back.transactions.witness import signed_commitment, signed_funding_spend
from shared.chain import Outpoint
from shared.crypto.keys import derive_private_key
from shared.crypto.shachain import commitment_secret
from shared.crypto.signature import public_key, sign_compact
from shared.gossip.signed import digest
from shared.wire import Message, Warning as WarningMessage, decode, encode

STATIC = CommitmentType.STATIC_REMOTEKEY
ANCHORS = CommitmentType.ANCHORS_ZERO_FEE_HTLC
POLICY = ChannelPolicy(chain_hash=bytes(32), regtest_slack=True, max_dust_exposure_msat=5_000_000)
ONION = bytes(1366)


def secret(*names: object) -> bytes:
    """32 bytes that follow from their names."""
    return sha256("/".join(map(str, names)).encode()).digest()


class Keys:
    """The private keys of one side of one channel: a signer for tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seed = secret(name, "seed")
        for key in ("funding", "revocation", "payment", "delayed", "htlc", "node"):
            setattr(self, key, secret(name, key))

    funding: bytes
    revocation: bytes
    payment: bytes
    delayed: bytes
    htlc: bytes
    node: bytes

    def point(self, number: int) -> bytes:
        return public_key(commitment_secret(self.seed, number))

    def party(self, **limits: int) -> PartyParameters:
        chosen = {
            "dust_limit_satoshis": 354,
            "max_htlc_value_in_flight_msat": 1_000_000_000,
            "channel_reserve_satoshis": 10_000,
            "htlc_minimum_msat": 1,
            "to_self_delay": 144,
            "max_accepted_htlcs": 483,
        } | limits
        return PartyParameters(
            funding_pubkey=public_key(self.funding),
            revocation_basepoint=public_key(self.revocation),
            payment_basepoint=public_key(self.payment),
            delayed_payment_basepoint=public_key(self.delayed),
            htlc_basepoint=public_key(self.htlc),
            **chosen,
        )

    def opening_keys(self) -> opening.LocalKeys:
        party = self.party()
        return opening.LocalKeys(
            key_index=0,
            funding_pubkey=party.funding_pubkey,
            revocation_basepoint=party.revocation_basepoint,
            payment_basepoint=party.payment_basepoint,
            delayed_payment_basepoint=party.delayed_payment_basepoint,
            htlc_basepoint=party.htlc_basepoint,
            first_point=self.point(0),
            second_point=self.point(1),
        )

    def answer(self, request: Request) -> Answer:  # noqa: PLR0911 - one case each
        """Answer as the real signer would."""
        match request:
            case RevokeLocalCommitment(number=number):
                return Revocation(commitment_secret(self.seed, number), self.point(number + 2))
            case SignRemoteCommitment(commitment=commitment, per_commitment_point=point):
                key = derive_private_key(self.htlc, point)
                return CommitmentSignatures(
                    sign_compact(self.funding, commitment.sighash),
                    tuple(sign_compact(key, h.sighash) for h in commitment.htlc_transactions),
                )
            case (
                SignFundingCreated(commitment=commitment) | SignFundingSigned(commitment=commitment)
            ):
                return CommitmentSignatures(sign_compact(self.funding, commitment.sighash))
            case SignLocalCommitment(commitment=commitment, remote_signature=theirs):
                ours = sign_compact(self.funding, commitment.sighash)
                return SignedCommitment(signed_commitment(commitment, ours, theirs))
            case SignClosing(closing=closing, remote_signature=theirs):
                ours = sign_compact(self.funding, closing.sighash)
                if theirs is None:
                    return ClosingSignature(ours)
                pair = (closing.local_funding_pubkey, ours), (closing.remote_funding_pubkey, theirs)
                return ClosingSignature(ours, signed_funding_spend(closing.unsigned, *pair))
            case SignAnnouncement(announcement=announcement):
                signed = digest(encode(announcement))
                return AnnouncementSigned(
                    sign_compact(self.node, signed), sign_compact(self.funding, signed)
                )
            case CheckSecret(number=number, secret=candidate):
                return SecretCheck(commitment_secret(self.seed, number) == candidate)
        raise AssertionError(request)


def opened(  # the defaults of most tests
    kind: CommitmentType = STATIC,
    *,
    funding_satoshis: int = 1_000_000,
    push_msat: int = 400_000_000,
    feerate_per_kw: int = 1_000,
    announce: bool = False,
    policy: ChannelPolicy = POLICY,
    opener_limits: dict[str, int] | None = None,
    fundee_limits: dict[str, int] | None = None,
) -> "tuple[Channel, Channel]":
    """Return the two ends of a channel that is NORMAL and connected: (opener, fundee)."""
    keys = Keys("opener"), Keys("fundee")
    parties = keys[0].party(**opener_limits or {}), keys[1].party(**fundee_limits or {})
    outpoint = Outpoint(secret("funding"), 0)
    balances = funding_satoshis * 1000 - push_msat, push_msat
    ends = [
        Channel(
            channel_id=outpoint.txid,
            parameters=ChannelParameters(
                node_id=public_key(keys[1 - side].node),
                temporary_channel_id=secret("temporary"),
                key_index=0,
                is_opener=side == 0,
                commitment_type=kind,
                channel_type=channel_type_bits(kind),
                funding_satoshis=funding_satoshis,
                push_msat=push_msat,
                announce=announce,
                local=parties[side],
                remote=parties[1 - side],
                default_shutdown_script=b"\0\x14" + secret(side, "shutdown")[:20],
            ),
            phase=Phase.NORMAL,
            policy=policy if not announce else replace(policy, node_id=public_key(keys[side].node)),
            link=Link.ONLINE,
            funding=Funding(outpoint, is_published=True, confirmed_height=100),
            local_msat=balances[side],
            remote_msat=balances[1 - side],
            fees=(FeeUpdate(feerate_per_kw, FeeState.COMMITTED),),
            local_commitment=LocalCommitment(
                0, current_point=keys[side].point(0), next_point=keys[side].point(1)
            ),
            remote_commitment=RemoteCommitment(0, keys[1 - side].point(0), keys[1 - side].point(1)),
            is_channel_ready_sent=True,
            is_channel_ready_received=True,
            height=110,
        )
        for side in (0, 1)
    ]
    signed = []
    for side, end in enumerate(ends):
        commitment = commitments.local_commitment(end, 0, end.local_commitment.current_point)
        signature = sign_compact(keys[1 - side].funding, commitment.sighash)
        assert commitments.is_funding_signature_valid(end, commitment, signature)
        signed.append(
            replace(end, local_commitment=replace(end.local_commitment, signature=signature))
        )
    return signed[0], signed[1]


def stored(channel: Channel) -> Channel:
    """What a database gives back: all but the fields that are memory only."""
    return replace(
        channel,
        link=Link.OFFLINE,
        features=frozenset(),
        queue=(),
        batch=None,
        announcement_turn=AnnouncementTurn.OWED,
    )


Facts = HtlcOffered | OfferRefused | HtlcReceived | HtlcFulfilled | HtlcFailed


@dataclass
class End:
    """One end: the shell around a channel.

    Attributes:
        wire: messages of the peer that are on their way to here, encoded.
        effects: everything that was done, in order.
        undecided: received HTLCs that wait for :meth:`decide`.
        history: HTLCs that storage keeps after they are gone.
    """

    channel: Channel
    keys: Keys
    peer: "End | None" = None
    wire: deque[bytes] = field(default_factory=deque)
    effects: list[Effect] = field(default_factory=list)
    undecided: list[HtlcReceived] = field(default_factory=list)
    history: list[Htlc] = field(default_factory=list)
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    refusals: list[tuple[int, Exception]] = field(default_factory=list)
    is_connected: bool = True
    crash_after: int | None = None
    on_commit: "Callable[[End], None]" = lambda _end: None

    def do(self, *events: Event) -> machine.Step:
        """Apply events as one batch: decide, commit, act; or die in the middle of acting."""
        prepared = [machine.prepare(self.channel, event, self.keys.answer) for event in events]
        step = machine.fill(machine.apply_batch(self.channel, prepared), self.keys.answer)
        self._check_storage_can_follow(step)
        self.channel = step.channel
        self.history.extend(step.removed)
        self.refusals.extend(step.refusals)
        for effect in step.effects:
            self._record(effect)
        self.on_commit(self)
        if self.crash_after is not None:
            for effect in step.effects[: self.crash_after]:
                self._perform(effect)
            self.crash_after = None
            self.restart()
            return step
        for effect in step.effects:
            self._perform(effect)
        return step

    def _check_storage_can_follow(self, step: machine.Step) -> None:
        """Every row that vanishes is either settled (and told) or was never in a commitment."""
        gone = {htlc.key for htlc in step.removed}
        assert not gone & step.channel.htlcs.keys()
        assert all(h.remote_first is not None and h.remote_last is not None for h in step.removed)
        for key in self.channel.htlcs.keys() - step.channel.htlcs.keys() - gone:
            assert self.channel.htlcs[key].remote_first is None

    def _record(self, effect: Effect) -> None:
        """Facts are rows of the commit."""
        match effect:
            case HtlcOffered(htlc=htlc):
                self._outcome(htlc.origin, "offered")
            case OfferRefused(origin=origin):
                self._outcome(origin, "refused")
            case HtlcFulfilled(htlc=htlc):
                self._outcome(htlc.origin, "fulfilled")
            case HtlcFailed(htlc=htlc):
                self._outcome(htlc.origin, "failed")

    def _outcome(self, origin: str | None, what: str) -> None:
        assert origin is not None
        self.outcomes.setdefault(origin, []).append(what)

    def _perform(self, effect: Effect) -> None:
        assert not isinstance(effect, Request)
        self.effects.append(effect)
        match effect:
            case Send(message=message):
                if self.is_connected and self.peer is not None:
                    self.peer.wire.append(encode(message))
            case CloseConnection():
                self.cut()
            case HtlcReceived():
                self.undecided.append(effect)

    # --- the connection -----------------------------------------------------------------------

    def receive(self, count: int = 1_000) -> machine.Step | None:
        """Take up to ``count`` messages off the wire, as one batch."""
        taken: list[Message] = []
        while self.wire and len(taken) < count:
            message = decode(self.wire.popleft())
            assert message is not None
            if not isinstance(message, WarningMessage):  # told to people, not to channels
                taken.append(message)
        return self.do(*map(Received, taken)) if taken else None

    def cut(self) -> None:
        """End the connection; what is on the wire is lost."""
        assert self.peer is not None
        ends = [end for end in (self, self.peer) if end.is_connected]
        for end in (self, self.peer):
            end.is_connected = False
            end.wire.clear()
        for end in ends:
            end.do(Disconnected())

    def connect(self) -> None:
        """Connect both ends; the reestablishes are on the wire then."""
        assert self.peer is not None
        assert not self.is_connected
        for end in (self, self.peer):
            end.is_connected = True
        for end in (self, self.peer):
            if end.is_connected:  # a crash may have cut it again
                end.do(Connected(frozenset()))

    def restart(self) -> None:
        """Stop at once; start from what was stored."""
        self.cut()
        self.crash_after = None
        self.undecided.clear()
        self.channel = stored(self.channel)
        self.do(Disconnected())
        for effect in machine.resume(self.channel):
            if isinstance(effect, HtlcReceived):
                self.undecided.append(effect)

    # --- payments -----------------------------------------------------------------------------

    def offer(self, origin: str, amount_msat: int, cltv_expiry: int = 500) -> None:
        """Offer an HTLC whose preimage follows from its origin."""
        self.do(offered(origin, amount_msat, cltv_expiry))

    def decide(self, count: int = 1_000) -> None:
        """Answer received HTLCs as their payment hash says."""
        events: list[Event] = []
        while self.undecided and len(events) < count:
            htlc = self.undecided.pop(0).htlc
            events.append(decision(htlc))
        if events:
            self.do(*events)

    @property
    def sent(self) -> list[Message]:
        """All messages that this end sent."""
        return [effect.message for effect in self.effects if isinstance(effect, Send)]

    def took(self, kind: type[Effect]) -> list[Effect]:
        """All effects of one kind."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def is_healthy(self) -> bool:
        """Neither closed nor about to."""
        return self.channel.phase is Phase.NORMAL and not self.took(Publish)


def preimage(origin: str) -> bytes:
    """The preimage of a payment."""
    return secret("preimage", origin)


ORIGINS: dict[bytes, str] = {}


def offered(origin: str, amount_msat: int, cltv_expiry: int = 500) -> OfferHtlc:
    """An OfferHtlc. Its origin's first letter tells the receiver what to do: p(ay), f(ail), m."""
    payment_hash = sha256(preimage(origin)).digest()
    ORIGINS[payment_hash] = origin
    return OfferHtlc(amount_msat, payment_hash, cltv_expiry, ONION, origin)


def decision(htlc: Htlc) -> FulfillHtlc | FailHtlc | FailMalformedHtlc:
    """What the receiver of an HTLC does; always the same."""
    origin = ORIGINS[htlc.payment_hash]
    match origin[0]:
        case "p":
            return FulfillHtlc(htlc.id, preimage(origin))
        case "m":
            return FailMalformedHtlc(htlc.id, sha256(ONION).digest(), 0x8000 | 5)
        case _:
            return FailHtlc(htlc.id, b"reason of " + origin.encode())


def wired(ends: tuple[Channel, Channel]) -> tuple[End, End]:
    """Wire the two ends of a channel: (opener, fundee)."""
    opener, fundee = End(ends[0], Keys("opener")), End(ends[1], Keys("fundee"))
    opener.peer, fundee.peer = fundee, opener
    return opener, fundee


def deliver_all(*ends: End, limit: int = 200) -> None:
    """Let both ends talk until nothing is on the wire."""
    for _ in range(limit):
        if not [step for end in ends if (step := end.receive())]:
            return
    raise AssertionError("the two ends never stop talking")


def settle(*ends: End, limit: int = 200) -> None:
    """Reconnect if need be, then talk and decide until all is quiet."""
    for _ in range(limit):
        if not ends[0].is_connected:
            ends[0].connect()
        deliver_all(*ends)
        if not any(end.undecided for end in ends) and all(end.is_connected for end in ends):
            return
        for end in ends:
            end.decide()
    raise AssertionError("the two ends never come to rest")


def messages_named(messages: Sequence[Message]) -> list[str]:
    """Names, for assertions about order."""
    return [message.NAME for message in messages]
