"""A Lightning node made by hand: honest until the test makes it lie.

Our own pure channel core plays its side honestly, over a real connection to a running node and with
real money of bitcoind; so a test can go as far as it wants and then send anything::

    mallory = HostilePeer(node, bitcoind, "mallory")
    await mallory.connect()
    await mallory.open_channel()
    add, signed = mallory.do(await mallory.offer(1_000_000))
    await mallory.say(add, signed.model_copy(update={"signature": bytes(64)}))
    await mallory.fails("signature is not valid")

Its core checks Squall as Squall checks it: what Squall does wrong fails the test.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from support.bitcoind import bitcoind
from support.channels import Keys
from support.lightning_peer import FEATURES, LightningPeer
from support.squall import squall_node

from back.chain.regtest import Regtest
from back.channel import commitments, machine, opening
from back.channel.effects import (
    CloseConnection,
    Effect,
    HtlcFailed,
    HtlcFulfilled,
    HtlcReceived,
    MakeFundingTransaction,
    Send,
)
from back.channel.events import (
    Connected,
    Disconnected,
    Event,
    FulfillHtlc,
    FundingConfirmed,
    FundingTransactionMade,
    OfferHtlc,
    Received,
)
from back.channel.model import Channel, HtlcState, Link, Phase
from back.channel.policy import ChannelPolicy
from back.demo.cluster import Cluster, until
from back.payment import send
from back.payment.route import Hop, Route
from back.transactions.commitment import CommitmentType
from back.transactions.transaction import parse_transaction
from shared import bolt11
from shared.chain import REGTEST, Outpoint
from shared.crypto.signature import public_key, sign_recoverable
from shared.fabric import certificates
from shared.features import Feature, FeatureSet
from shared.wire import (
    AcceptChannel,
    ChannelReestablish,
    Error,
    FundingCreated,
    FundingSigned,
    Message,
    OpenChannel,
    Warning as WarningMessage,
    channel_token,
)

__all__ = [
    "POLICY",
    "SPOILS",
    "STOLEN",
    "TIMEOUT_S",
    "Cut",
    "Engine",
    "HostilePeer",
    "Refused",
    "RuleBroken",
    "Target",
    "bitcoind",
    "funding_transaction",
    "mallory",
    "spoiled",
    "target",
    "unharmed",
]

STOLEN = "stolen"
"""Name of a front that no process is, with a certificate of its own."""
TIMEOUT_S = 10.0
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of the curve's group."""
POLICY = ChannelPolicy(
    chain_hash=REGTEST.chain_hash, regtest_slack=True, minimum_depth=1, max_dust_exposure_msat=10**9
)
"""What the hostile side accepts: nearly everything, its tests are about the other side."""
PAYEE_FEATURES = FeatureSet.of(required=[Feature.var_onion_optin, Feature.payment_secret])
FINAL_DELTA = 42

M = TypeVar("M", bound=Message)


class Cut(Exception):
    """The connection ends here, as the test wanted."""


class RuleBroken(Exception):
    """Squall did what BOLT 2 does not allow, as the honest side's core sees it."""


class Refused(Exception):
    """Squall said `error` or `warning`."""

    def __init__(self, message: Error | WarningMessage) -> None:
        super().__init__(f"{message.NAME}: {message.data.decode(errors='replace')}")
        self.message = message

    @property
    def text(self) -> str:
        """Its words."""
        return self.message.data.decode(errors="replace")


def spoiled(signature: bytes) -> dict[str, bytes]:
    """Signatures that are none, by what is wrong with them."""
    r, s = signature[:32], int.from_bytes(signature[32:], "big")
    return {
        "zero": bytes(64),
        "ones": b"\xff" * 64,
        # Valid mathematics, and malleable: bitcoind would not relay it.
        "high S": r + (ORDER - s).to_bytes(32, "big"),
        "another": signature[:63] + bytes([signature[63] ^ 1]),
    }


SPOILS = tuple(spoiled(bytes(64)))


async def funding_transaction(
    bitcoind: Regtest, script_pubkey: bytes, amount_sat: int
) -> tuple[bytes, int]:
    """Make and sign, but do not publish, a transaction of the miner; return it and the index."""
    address = (await bitcoind.call("decodescript", script_pubkey.hex()))["address"]
    raw = await bitcoind.call(
        "createrawtransaction", [], [{address: f"{amount_sat / 100_000_000:.8f}"}]
    )
    options = {"lockUnspents": True, "change_type": "bech32", "fee_rate": 10}
    funded = await bitcoind.wallet_call("fundrawtransaction", raw, options)
    signed = await bitcoind.wallet_call("signrawtransactionwithwallet", funded["hex"])
    transaction = bytes.fromhex(signed["hex"])
    outputs = parse_transaction(transaction).outputs
    return transaction, [o.script_pubkey for o in outputs].index(script_pubkey)


@dataclass
class Engine:
    """The hostile side of one channel.

    Attributes:
        effects: everything but messages that followed, in order.
    """

    channel: Channel
    keys: Keys
    effects: list[Effect] = field(default_factory=list)
    _before: Channel | None = None

    def roll_back(self) -> None:
        """Undo the last step: what came of it was never said, or never counted."""
        assert self._before is not None
        self.channel, self._before = self._before, None

    def do(self, *events: Event) -> list[Message]:
        """Apply events as one batch; return what an honest node would send now."""
        self._before = self.channel
        prepared = [machine.prepare(self.channel, event, self.keys.answer) for event in events]
        step = machine.fill(machine.apply_batch(self.channel, prepared), self.keys.answer)
        if step.refusals:
            raise RuleBroken(f"the test asks for the impossible: {step.refusals}")
        self.channel = step.channel
        said: list[Message] = []
        for effect in step.effects:
            if isinstance(effect, CloseConnection):
                raise RuleBroken(effect.warning)
            if isinstance(effect, Send):
                if isinstance(effect.message, Error | WarningMessage):
                    raise RuleBroken(effect.message.data.decode())
                said.append(effect.message)
            else:
                self.effects.append(effect)
        return said

    def took(self, kind: type[Effect]) -> list[Any]:
        """All effects of one kind."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def failed_origins(self) -> list[str | None]:
        """Of the HTLCs of ours that failed, in order."""
        return [failed.htlc.origin for failed in self.took(HtlcFailed)]

    @property
    def is_quiet(self) -> bool:
        """Nothing is pending on either side."""
        return commitments.is_empty_and_clean(self.channel)

    @property
    def squalls_commitment(self) -> bytes:
        """txid of the commitment that Squall holds as its current one, as far as we know."""
        channel = self.channel
        number, point = channel.remote_commitment.number, channel.remote_commitment.current_point
        if channel.unrevoked is not None:
            number, point = number + 1, channel.remote_commitment.next_point
        return commitments.remote_commitment(channel, number, point).txid


Tamper = Callable[[Message], "Sequence[Message | bytes]"]


class HostilePeer:
    """A node with at most one channel to Squall at a time.

    Attributes:
        wire: its present connection.
        engine: its channel's honest side, once one is being opened.
        known_height: of the chain, to be used instead of asking bitcoind.
        heard: every message of Squall on every connection, in order.
        said: every message of ours, in order.
        allowance: how many messages more may be ``said`` or ``heard`` before it strikes.
        strike: what happens then; Cut is raised after it unless it says True: it lives on.
            By default the connection is cut.
        preimages: of the invoices that it made.
        features: what its `init` says.
    """

    def __init__(
        self,
        node: Cluster,
        bitcoind: Regtest,
        name: str = "mallory",
        *,
        features: FeatureSet = FEATURES,
    ) -> None:
        self.node = node
        self.bitcoind = bitcoind
        self.name = f"{name}-{secrets.token_hex(8)}"
        self.private = secrets.token_bytes(32)
        self.node_id = public_key(self.private)
        self.features = features
        self.wire: LightningPeer | None = None
        self.engine: Engine | None = None
        self.known_height = 0
        self.heard: list[Message] = []
        self.said: list[Message] = []
        self.allowance: dict[str, int] = {}
        self.strike: Callable[[], object] = self.cut
        self.preimages: dict[bytes, bytes] = {}
        self.negotiated: frozenset[Feature] = frozenset()

    # --- the connection ---------------------------------------------------------------------------

    async def connect(self, front: str | None = None) -> LightningPeer:
        """Connect and exchange `init`; a channel's reestablish is up to the caller."""
        await self.close()
        chosen = self.node.fronts[front] if front else next(iter(self.node.fronts.values()))
        self.wire = await LightningPeer.connect(
            bytes.fromhex(self.node.node_id), "127.0.0.1", chosen.port, private=self.private
        )
        theirs = await self.wire.init(self.features)
        self.negotiated = FeatureSet.negotiated(
            self.features, FeatureSet.from_bytes(theirs.features)
        )
        return self.wire

    async def is_known(self) -> bool:
        """Whether the back lists us as connected."""
        peers = await self.node.call("peers")
        return any(p["nodeId"] == self.node_id.hex() and p["state"] == "CONNECTED" for p in peers)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self.wire is not None:
            await self.wire.close()
            self.wire = None

    def cut(self) -> None:
        """Reset the connection, as a crash would; the channel hears of it."""
        if self.wire is not None:
            self.wire.abort()
            self.wire = None
        if self.engine is not None:
            self.engine.do(Disconnected())

    async def reconnect(self) -> list[Message]:
        """Connect again; return what an honest node would say now: its channel_reestablish."""
        self.cut()
        await self.connect()
        return self.core.do(Connected(self.negotiated))

    async def reestablish_of_squall(self) -> ChannelReestablish:
        """Return Squall's channel_reestablish of this connection, heard already or not."""
        assert self.wire is not None
        for message in self.wire.seen:
            if isinstance(message, ChannelReestablish):
                return message
        return await self.hear(ChannelReestablish)

    async def reestablish(self) -> None:
        """Connect again and go on honestly."""
        await self.say(*await self.reconnect())
        await self.talk_until(lambda: self.core.channel.link is Link.ONLINE)

    def _spend(self, what: str) -> None:
        """Die when the test's allowance of messages is used up."""
        if self.allowance.get(what) == 0:
            self.allowance.clear()
            if not self.strike():
                raise Cut
            return
        if what in self.allowance:
            self.allowance[what] -= 1

    async def say(self, *messages: Message | bytes) -> None:
        """Send messages, or bytes of messages, as they are.

        Raises:
            Cut: the allowance is used up.
        """
        assert self.wire is not None, "not connected"
        for message in messages:
            self._spend("said")
            if isinstance(message, bytes):
                await self.wire.send_bytes(message)
            else:
                self.said.append(message)
                await self.wire.send(message)

    async def listen(self, timeout_s: float = TIMEOUT_S) -> Message:
        """Return the next message of Squall, whatever it is."""
        assert self.wire is not None, "not connected"
        message = await self.wire.receive(timeout_s)
        self._spend("heard")
        self.heard.append(message)
        return message

    async def hear(self, kind: type[M], timeout_s: float = TIMEOUT_S) -> M:
        """Return the next message of this kind; what comes before goes to the honest side.

        Raises:
            Refused: Squall complained instead.
        """
        while True:
            message = await self.listen(timeout_s)
            if isinstance(message, kind):
                return message
            if isinstance(message, Error | WarningMessage):
                raise Refused(message)
            await self.say(*self._honestly(message))

    # --- the honest side --------------------------------------------------------------------------

    @property
    def core(self) -> Engine:
        """The honest side; there must be a channel."""
        assert self.engine is not None, "no channel"
        return self.engine

    @property
    def channel_id(self) -> bytes:
        """Of its channel."""
        return self.core.channel.channel_id

    def do(self, *events: Event) -> list[Message]:
        """What an honest node would say to these events; nothing is sent."""
        return self.core.do(*events)

    def answer(self, message: Message) -> list[Message]:
        """What an honest node would say to a message; nothing is sent."""
        return self.core.do(Received(message))

    async def talk_until(
        self, is_done: Callable[[], object], *, tamper: Tamper | None = None
    ) -> None:
        """Talk honestly until a condition holds; ``tamper`` sees each message before it goes out.

        Raises:
            Refused: Squall complained.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while not is_done():
            left = deadline - time.monotonic()
            assert left > 0, f"never; last heard {[m.NAME for m in self.heard[-5:]]}"
            message = await self.listen(left)
            if isinstance(message, Error | WarningMessage):
                raise Refused(message)
            for reply in self._honestly(message):
                await self.say(*(tamper(reply) if tamper else (reply,)))

    def _honestly(self, message: Message) -> list[Message]:
        """The honest side's answer; none to what is of another channel, which it forgot."""
        channel_id = self.engine.channel.channel_id.hex() if self.engine else ""
        return self.answer(message) if channel_token(message) == channel_id else []

    async def talk(self, for_s: float = 0.2) -> None:
        """Answer the next message honestly, if one comes soon."""
        with contextlib.suppress(TimeoutError):
            await self.say(*self._honestly(await self.listen(for_s)))

    async def hold(self, kind: type[Message]) -> list[Message]:
        """Return the honest answer to the next message of a kind, as if it had never come."""
        replies = self.answer(await self.hear(kind))
        self.core.roll_back()
        return replies

    async def quiet(self) -> None:
        """Talk until no HTLC and no signature is pending."""
        await self.talk_until(lambda: self.core.is_quiet)

    # --- how it ends ------------------------------------------------------------------------------

    async def complaint(self) -> Error | WarningMessage:
        """Return the next `error` or `warning`, whatever comes before it."""
        while not isinstance(message := await self.listen(), Error | WarningMessage):
            pass
        return message

    async def warned(self, text: str) -> None:
        """Squall warns in these words and ends the connection; the channel lives on."""
        message = await self.complaint()
        assert isinstance(message, WarningMessage), message
        assert text in message.data.decode(), message
        await self.closed()

    async def failed(self, text: str, *, is_published: bool = True) -> Error:
        """Squall fails the channel in these words, and publishes its current commitment."""
        message = await self.complaint()
        assert isinstance(message, Error), message
        assert text in message.data.decode(), message
        assert message.channel_id != bytes(32)
        if is_published:
            assert message.channel_id == self.channel_id
            spent_by = await self.funding_spent_by()
            assert spent_by == self.core.squalls_commitment
        return message

    async def closed(self) -> None:
        """Squall ends the connection; says nothing but warnings before."""
        assert self.wire is not None
        words = await self.wire.expect_closed()
        assert all(isinstance(word, WarningMessage) for word in words[len(self.wire.seen) :])

    async def state(self) -> str:
        """What Squall says of its channel; empty if it knows none."""
        for channel in await self.node.call("channels"):
            if channel["channelId"] == self.channel_id.hex():
                return str(channel["state"])
        return ""

    async def becomes(self, state: str) -> None:
        """Wait until Squall's side of its channel is in a state."""

        async def is_there() -> bool:
            return await self.state() == state

        await until(f"channel {state or 'gone'}, not {await self.state()}", is_there, TIMEOUT_S)

    async def funding_spent_by(self) -> bytes:
        """Wait for the transaction that spends the funding output; return its txid."""
        funding = self.core.channel.funding
        assert funding is not None
        prevout = {"txid": funding.outpoint.rpc_txid, "vout": funding.outpoint.index}

        async def spender() -> str:
            (found,) = await self.bitcoind.call("gettxspendingprevout", [prevout])
            return str(found.get("spendingtxid", ""))

        return bytes.fromhex(await until("a spend of the funding", spender, TIMEOUT_S))[::-1]

    async def is_unspent(self) -> bool:
        """Whether nobody spent the funding output, in the mempool either."""
        funding = self.core.channel.funding
        assert funding is not None
        outpoint = funding.outpoint
        found = await self.bitcoind.call("gettxout", outpoint.rpc_txid, outpoint.index, True)
        return found is not None

    # --- opening ----------------------------------------------------------------------------------

    async def height(self) -> int:
        """Of the chain, also while bitcoind is away."""
        return self.known_height or await self.bitcoind.height()

    async def propose(
        self,
        *,
        funding_satoshis: int = 1_000_000,
        push_msat: int = 400_000_000,
        kind: CommitmentType = CommitmentType.STATIC_REMOTEKEY,
        keys: Keys | None = None,
        **parts: Any,
    ) -> OpenChannel:
        """Begin a channel as opener; return its open_channel, not sent yet."""
        proposal = opening.Proposal(
            node_id=bytes.fromhex(self.node.node_id),
            temporary_channel_id=secrets.token_bytes(32),
            funding_satoshis=funding_satoshis,
            push_msat=push_msat,
            announce=False,
            features=self.negotiated,
            feerate_per_kw=2_500,
            height=await self.height(),
            local_alias=secrets.randbits(60),
            shutdown_script=b"\0\x14" + secrets.token_bytes(20),
            commitment_type=kind,
        )
        keys = keys or Keys(f"{self.name}-{secrets.token_hex(4)}")
        step = opening.propose(replace(proposal, **parts), keys.opening_keys(), POLICY)
        self.engine = Engine(step.channel, keys)
        (message,) = (effect.message for effect in step.effects if isinstance(effect, Send))
        assert isinstance(message, OpenChannel)
        return message

    async def propose_to(self, features: FeatureSet) -> OpenChannel:
        """Begin a channel over whatever connection; see `propose`."""
        self.negotiated = FeatureSet.negotiated(self.features, features)
        return await self.propose()

    async def fund(self, accepted: AcceptChannel, *, amount_sat: int | None = None) -> Message:
        """Make the funding transaction; return funding_created, not sent yet."""
        assert not self.core.do(Received(accepted))
        wanted: MakeFundingTransaction = self.core.took(MakeFundingTransaction)[-1]
        amount = wanted.amount_sat if amount_sat is None else amount_sat
        made = await funding_transaction(self.bitcoind, wanted.script_pubkey, amount)
        (created,) = self.core.do(FundingTransactionMade(*made))
        assert isinstance(created, FundingCreated)
        return created

    async def confirm(self) -> Message:
        """Publish and mine the funding transaction; return our channel_ready, not sent yet."""
        funding = self.core.channel.funding
        assert funding is not None
        if self.core.channel.parameters.is_opener:
            await self.bitcoind.call("sendrawtransaction", funding.transaction.hex())
        else:
            await until("the funding transaction", self._is_published, TIMEOUT_S)
        await self.bitcoind.mine(1)
        raw = await self._raw(funding.outpoint)
        (ready,) = self.core.do(FundingConfirmed(await self.height(), 1, raw))
        return ready

    async def _is_published(self) -> bool:
        funding = self.core.channel.funding
        assert funding is not None
        return funding.outpoint.rpc_txid in await self.bitcoind.mempool()

    async def _raw(self, outpoint: Outpoint) -> bytes:
        """A mined transaction, as bitcoind without an index gives it."""
        best = await self.bitcoind.call("getbestblockhash")
        return bytes.fromhex(
            await self.bitcoind.call("getrawtransaction", outpoint.rpc_txid, False, best)
        )

    async def open_channel(self, **parts: Any) -> None:
        """Open a channel to Squall, honestly, until both may use it."""
        await self.say(await self.propose(**parts))
        await self.say(await self.fund(await self.hear(AcceptChannel)))
        self.answer(await self.hear(FundingSigned))
        await self.say(await self.confirm())
        await self.talk_until(lambda: self.core.channel.phase is Phase.NORMAL)
        await self.becomes("NORMAL")

    def receive_proposal(self, message: OpenChannel) -> AcceptChannel:
        """Begin a channel as accepter; return accept_channel, not sent yet."""
        reception = opening.Reception(
            node_id=bytes.fromhex(self.node.node_id),
            features=self.negotiated,
            feerate_per_kw=message.feerate_per_kw,
            height=0,
            local_alias=secrets.randbits(60),
            shutdown_script=b"\0\x14" + secrets.token_bytes(20),
        )
        keys = Keys(f"{self.name}-{secrets.token_hex(4)}")
        step = opening.accept(message, reception, keys.opening_keys(), POLICY)
        self.engine = Engine(step.channel, keys)
        (accept,) = (effect.message for effect in step.effects if isinstance(effect, Send))
        assert isinstance(accept, AcceptChannel)
        return accept

    async def accept_channel(self, **options: object) -> None:
        """Have Squall open a channel to us, honestly, until both may use it."""
        asked = asyncio.create_task(self.ask_to_open(**options))
        proposal = asyncio.create_task(self.hear(OpenChannel))
        await asyncio.wait({asked, proposal}, return_when=asyncio.FIRST_COMPLETED)
        if not proposal.done():
            proposal.cancel()
            await asked
        await self.say(self.receive_proposal(await proposal))
        await self.say(*self.answer(await self.hear(FundingCreated)))
        await asked
        await self.say(await self.confirm())
        await self.talk_until(lambda: self.core.channel.phase is Phase.NORMAL)
        await self.becomes("NORMAL")

    async def ask_to_open(self, sat: int = 1_000_000, **options: object) -> Any:
        """Have the operator of Squall open a channel to us."""
        node_id = self.node_id.hex()
        await until("the connection at the back", self.is_known, TIMEOUT_S)
        return await self.node.call("open", nodeId=node_id, fundingSatoshis=sat, **options)

    # --- payments ---------------------------------------------------------------------------------

    async def invoice(self, amount_msat: int) -> bolt11.Invoice:
        """Have Squall make an invoice."""
        made = await self.node.call("createinvoice", amountMsat=amount_msat, description="attack")
        return bolt11.decode(made["serialized"])

    async def offer(self, amount_msat: int, invoice: bolt11.Invoice | None = None) -> OfferHtlc:
        """Make an HTLC that pays an invoice of Squall's, by default a new one."""
        invoice = invoice or await self.invoice(amount_msat)
        order = send.order(
            invoice, amount_msat, payer=self.node_id, chain=REGTEST, unix_s=time.time()
        )
        hop = Hop(self.node_id, invoice.payee, 0)
        onion = send.payment_onion(
            order,
            Route(amount_msat, (hop,)),
            height=await self.height(),
            session_key=secrets.token_bytes(32),
            shadow_blocks=3,
        )
        return OfferHtlc(
            amount_msat, invoice.payment_hash, onion.cltv_expiry, onion.packet, secrets.token_hex(8)
        )

    async def pay(self, amount_msat: int) -> None:
        """Pay Squall honestly; it must take the money."""
        offer = await self.offer(amount_msat)
        await self.say(*self.do(offer))
        await self.quiet()
        assert offer.origin not in self.core.failed_origins
        assert offer.origin in {paid.htlc.origin for paid in self.core.took(HtlcFulfilled)}
        got = await self.node.call("getreceivedinfo", paymentHash=offer.payment_hash.hex())
        assert got["status"]["type"] == "received"

    def bill(self, amount_msat: int) -> str:
        """Make an invoice of ours."""
        preimage = secrets.token_bytes(32)
        payment_hash = sha256(preimage).digest()
        self.preimages[payment_hash] = preimage
        invoice = bolt11.Invoice(
            chain=REGTEST,
            timestamp=int(time.time()),
            payment_hash=payment_hash,
            payment_secret=secrets.token_bytes(32),
            amount_msat=amount_msat,
            description="hostile",
            min_final_cltv_expiry_delta=FINAL_DELTA,
            features=PAYEE_FEATURES,
        )
        return bolt11.assemble(
            invoice, sign_recoverable(self.private, bolt11.signing_digest(invoice))
        )

    async def be_paid(self, amount_msat: int) -> HtlcReceived:
        """Have Squall send an HTLC; return it once it is irrevocably committed."""
        before = len(self.core.took(HtlcReceived))
        await self.node.call("payinvoice", invoice=self.bill(amount_msat))
        await self.talk_until(lambda: len(self.core.took(HtlcReceived)) > before)
        await self.talk_until(lambda: self.core.channel.unrevoked is None)
        received: HtlcReceived = self.core.took(HtlcReceived)[-1]
        return received

    def settlement(self, received: HtlcReceived) -> FulfillHtlc:
        """The event that takes the money."""
        return FulfillHtlc(received.htlc.id, self.preimages[received.htlc.payment_hash])

    async def earn(self, amount_msat: int) -> None:
        """Be paid by Squall and take the money, honestly."""
        received = await self.be_paid(amount_msat)
        await self.say(*self.do(self.settlement(received)))
        await self.quiet()
        assert await self.outcome(received.htlc.payment_hash) == "sent"

    async def finish(self) -> None:
        """Settle all that is pending, honestly, until both sides are quiet."""
        while not self.core.is_quiet:
            for received in self.core.took(HtlcReceived):
                htlc = self.core.channel.htlcs.get(received.htlc.key)
                if (
                    htlc is not None
                    and htlc.resolution is None
                    and htlc.state is HtlcState.RCVD_ADD_ACK_REVOCATION
                ):
                    await self.say(*self.do(self.settlement(received)))
            before = len(self.heard)
            await self.talk_until(lambda: self.core.is_quiet or len(self.heard) > before)  # noqa: B023

    async def pay_both_ways_and_die(
        self,
        allowance: dict[str, int],
        recover: Callable[[], Awaitable[None]],
        amount_msat: int = 30_000_000,
    ) -> bool:
        """Pay and be paid at once; something strikes in between, and all must be settled after.

        Args:
            allowance: of messages, until it strikes; see the attribute.
            recover: brings the peer back and reestablishes.
            amount_msat: that we pay; Squall pays half of it.

        Returns:
            Whether it struck.
        """
        before = self.core.channel.local_msat
        offer, bill = await self.offer(amount_msat), self.bill(amount_msat // 2)
        payment_hash = bolt11.decode(bill).payment_hash
        self.allowance = dict(allowance)
        has_struck = False
        try:
            await self.say(*self.do(offer))
            await self.node.call("payinvoice", invoice=bill)
            await self.talk_until(lambda: len(self.core.channel.htlcs) > 1)
            await self.finish()
        except Cut:
            has_struck = True
        self.allowance = {}
        if has_struck:
            await recover()
            await self.finish()
        await self._is_settled(offer, payment_hash, before)
        return has_struck

    async def _is_settled(self, offer: OfferHtlc, payment_hash: bytes, before: int) -> None:
        """Both sides agree on what became of the two payments, to the millisatoshi."""
        got = await self.node.call("getreceivedinfo", paymentHash=offer.payment_hash.hex())
        is_received = got["status"]["type"] == "received"
        paid_us = {p.htlc.origin for p in self.core.took(HtlcFulfilled)}
        assert is_received == (offer.origin in paid_us)
        tried = await self.node.call("getsentinfo", paymentHash=payment_hash.hex())
        is_sent = bool(tried) and await self.outcome(payment_hash) == "sent"
        moved = is_sent * (offer.amount_msat // 2) - is_received * offer.amount_msat
        assert self.core.channel.local_msat == before + moved
        assert await self.balance_at_squall() == self.core.channel.remote_msat

    async def balance_at_squall(self) -> int:
        """What Squall believes to have in the channel, in millisatoshi, nothing pending."""
        for channel in await self.node.call("channels"):
            if channel["channelId"] == self.channel_id.hex():
                spec = channel["data"]["commitments"]["active"][0]["localCommit"]["spec"]
                assert not spec["htlcs"]
                return int(spec["toLocal"])
        raise AssertionError("no such channel")

    async def outcome(self, payment_hash: bytes) -> str:
        """Wait until Squall's payment has ended; return how."""

        async def ended() -> str:
            found = await self.node.call("getsentinfo", paymentHash=payment_hash.hex())
            states = {attempt["status"]["type"] for attempt in found}
            return "" if "pending" in states else next(iter(states), "")

        return str(await until("the end of Squall's payment", ended, TIMEOUT_S))

    async def works(self) -> None:
        """This honest channel pays both ways: nobody harmed it."""
        await self.pay(10_000)
        await self.earn(20_000)


# --- the node under attack ------------------------------------------------------------------------


@dataclass
class Target:
    """A running node, and an honest peer with a channel: what happens to others must not touch it.

    Attributes:
        peers: hostile ones, to be closed after their test.
    """

    node: Cluster
    bitcoind: Regtest
    honest: HostilePeer
    peers: list[HostilePeer] = field(default_factory=list)
    log_read: int = 0

    def peer(self, name: str = "mallory", **options: Any) -> HostilePeer:
        """Make another peer."""
        peer = HostilePeer(self.node, self.bitcoind, name, **options)
        self.peers.append(peer)
        return peer

    async def locked(self) -> list[Any]:
        """Coins of Squall that wait for a funding transaction."""
        wallet = self.node.wallet
        found: list[Any] = await self.bitcoind.wallet_call("listlockunspent", wallet=wallet)
        return found

    async def nothing_locked(self) -> None:
        """Wait until no coin of Squall waits for a funding transaction."""

        async def free() -> bool:
            return not await self.locked()

        await until("the coins to be free", free, TIMEOUT_S)

    async def is_unharmed(self) -> None:
        """Nothing crashed, and the honest peer, on the connection of old, pays both ways."""
        assert self.node.back is not None
        assert self.node.back.is_running, self.node.back.tail()
        assert all(front.child.is_running for front in self.node.fronts.values())
        await self.honest.works()
        log = (self.node.logs / "back.log").read_text()
        new, self.log_read = log[self.log_read :], len(log)
        wrong = [line for line in new.splitlines() if '"level":"error"' in line.replace(" ", "")]
        assert not wrong, wrong
        assert "Traceback" not in new


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(
    bitcoind: Regtest,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Target]:
    """One node for all tests of a module, which come one after the other."""
    folder = tmp_path_factory.mktemp("target")
    # A front with a certificate of its own, for whoever steals it.
    certificates.create(folder / "alice" / "certs")
    certificates.add_front(folder / "alice" / "certs", STOLEN)
    settings = {"SQUALL_BACK_MINIMUM_DEPTH": "1"}
    async with squall_node(bitcoind, folder, fronts=2, settings=settings, fund_btc=1) as node:
        honest = HostilePeer(node, bitcoind, "honest")
        await honest.connect()
        await honest.open_channel()
        yield Target(node, bitcoind, honest)
        await honest.close()


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def unharmed(target: Target) -> AsyncIterator[None]:
    """Whatever a test did: in the end the others are well."""
    yield
    for peer in target.peers:
        await peer.close()
    target.peers.clear()
    await target.is_unharmed()


@pytest_asyncio.fixture(loop_scope="module")
async def mallory(target: Target) -> HostilePeer:
    """A connected peer without a channel."""
    peer = target.peer()
    await peer.connect()
    return peer
