"""Settings of the back: environment variables ``SQUALL_BACK_*``, read once at start."""

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from back.channel.policy import ChannelPolicy
from back.offers.rules import OfferRules
from back.onion_messages.rules import OnionRules
from back.payment.receive import ReceivePolicy
from back.relay.limits import ForwardLimits
from shared.chain import CHAINS, Chain
from shared.fabric.events import EventsRetention
from shared.onion_budget import OnionLimits
from shared.settings import FabricSettings, TextList, host_port
from shared.wire.address import Address, pack_addresses

__all__ = ["BackSettings"]


Share = Annotated[float, Field(gt=0, le=1)]


class BackSettings(FabricSettings):
    """How the back runs. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="SQUALL_BACK_")

    name: str = Field(default_factory=socket.gethostname)
    """Name of this process, for people: in hello, leases and logs."""
    chain: Literal["regtest", "signet", "testnet", "mainnet"] = "regtest"
    """Bitcoin network. Mainnet is refused until this version can claim and punish on chain."""
    alias: Annotated[str, Field(max_length=32)] = "squall"
    """The node's name for others, at most 32 bytes of UTF-8."""
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#1f4e79"
    """The node's color for others."""
    public_addresses: TextList = ()
    """Where peers reach the fronts, ``host:port`` (IPv4, IPv6, Tor v3 or a name): announced to the
    network once a public channel is, and shown by `getinfo`."""
    data_dir: Path = Path("data")
    """Folder of the seed, and of the database where no other is named."""
    database_url: str = ""
    """``sqlite:///path`` or ``postgresql+psycopg://…``; by default a file in ``data_dir``."""
    seed_file: Path | None = None
    """The seed, made at the first start with mode 0600; by default ``seed`` in ``data_dir``."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much is logged."""

    api_listen: str = "127.0.0.1:8080"
    """Where the HTTP API answers."""
    api_password: SecretStr
    """Password of the API (HTTP basic auth, any user name)."""
    metrics_listen: str = "127.0.0.1:9090"
    """Where `/metrics` and `/health` are served."""

    bitcoind_url: str = "http://127.0.0.1:8332"
    """RPC address of bitcoind."""
    bitcoind_cookie_file: Path | None = None
    """bitcoind's cookie, instead of user and password."""
    bitcoind_user: str = ""
    """User for bitcoind's RPC, if there is no cookie."""
    bitcoind_password: SecretStr = SecretStr("")
    """Password of that user."""
    bitcoind_wallet: str = "squall"
    """bitcoind's wallet for funding channels; made if it does not exist."""
    bitcoind_zmq_block: str = ""
    """``tcp://…`` of bitcoind's ``zmqpubhashblock``; empty: poll."""
    bitcoind_zmq_tx: str = ""
    """``tcp://…`` of bitcoind's ``zmqpubrawtx``; empty: poll."""
    bitcoind_poll_s: Annotated[float, Field(gt=0)] = 5.0
    """How often to ask bitcoind for its tip where ZMQ says nothing."""

    graph_trust_fronts: bool = False
    """Believe that fronts have checked the signatures of gossip: saves the back their cost, but a
    stolen front could forge what other nodes say of themselves and of their channels."""

    events_max_age_s: Annotated[float, Field(ge=60)] = 30 * 86_400.0
    """How long the stream ``EVENTS`` keeps an event."""
    events_max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """How much the stream ``EVENTS`` keeps; the broker must have room for it."""
    events_max_waiting: Annotated[int, Field(ge=1_000)] = 1_000_000
    """How many events may wait in the database while the broker is away; then the oldest are
    dropped."""

    fee_base_msat: Annotated[int, Field(ge=0, lt=1 << 32)] = 1_000
    """What we announce to take for every HTLC that we forward."""
    fee_proportional_millionths: Annotated[int, Field(ge=0, lt=1 << 32)] = 200
    """What we announce to take of the amount besides, in millionths."""
    cltv_expiry_delta: Annotated[int, Field(ge=18, le=2016)] = 144
    """Blocks between the expiries of the two HTLCs that we forward."""
    disable_after_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a peer may be away until its channels are announced as disabled."""
    relay_fee_grace_s: Annotated[float, Field(ge=0, le=86_400)] = 600.0
    """How long after new terms of a channel HTLCs may still meet its former ones."""
    htlc_maximum_every_s: Annotated[float, Field(ge=60)] = 900.0
    """The least time between two announcements of a channel that only its balance asks for."""

    forward_peer_slot_share: Share = 0.75
    """Share of an outgoing channel's HTLC slots that forwards of one incoming peer may have."""
    forward_peer_value_share: Share = 0.75
    """Share of the amount that an outgoing channel may have in flight, for forwards of one incoming
    peer; a single HTLC may be larger."""
    forward_small_htlc_msat: Annotated[int, Field(ge=0)] = 1_000_000
    """Forwards below it are small; 0: none is."""
    forward_small_slot_share: Share = 0.75
    """Share of an outgoing channel's HTLC slots that small forwards may have."""
    forward_peer_max_pending: Annotated[int, Field(ge=1)] = 500
    """HTLCs that one incoming peer may have us forward at a time, in all channels."""

    keysend: bool = True
    """Accept payments that nobody asked for (keysend), and announce it."""
    mpp_timeout_s: Annotated[float, Field(ge=60, le=600)] = 60.0
    """How long the first HTLC of a payment in several parts waits for the others, in seconds; then
    all of them fail."""

    onion_messages_per_s: Annotated[float, Field(gt=0)] = 10.0
    """Onion messages of one peer with channels, in the long run; the rest is dropped (BOLT 4)."""
    onion_messages_per_s_without_channels: Annotated[float, Field(gt=0)] = 2.0
    """The same of one peer without channels."""
    onion_message_bytes_per_s: Annotated[float, Field(gt=0)] = 50_000.0
    """Their bytes, of one peer with channels; in proportion of one without, and of all."""
    onion_messages_total_per_s: Annotated[float, Field(gt=0)] = 200.0
    """Onion messages of all peers; those without channels have half of it at most. Each costs the
    back about 0.4 ms."""
    onion_messages_connect: bool = True
    """Connect to a node that no peer reaches, to send it an onion message of ours: to get an
    invoice for an offer, for example. It learns a front's address then."""
    offer_requests_per_s: Annotated[float, Field(gt=0)] = 10.0
    """Requests for invoices of our offers that are answered; one offer may use half of them."""
    offer_max_invoices: Annotated[int, Field(ge=1)] = 100_000
    """Invoices of offers that are kept at a time."""
    offer_invoice_expiry_s: Annotated[int, Field(ge=60, le=31_536_000)] = 7_200
    """How long an invoice that we make on request is valid."""
    onion_reply_timeout_s: Annotated[float, Field(gt=0)] = 8.0
    """How long the answer to an onion message of ours may take, until it is sent again, by other
    nodes where there are any; it is sent three times at most."""

    minimum_depth: Annotated[int, Field(ge=1, le=144)] = 6
    """Confirmations of a funding transaction that a peer opens to us."""
    to_self_delay: Annotated[int, Field(ge=6, le=2016)] = 720
    """Blocks that a peer must wait for its own money after a force close."""
    dust_limit_satoshis: Annotated[int, Field(ge=354, le=10_000)] = 354
    """Outputs below it are left out of our commitments."""
    htlc_minimum_msat: Annotated[int, Field(ge=1)] = 1
    """The smallest HTLC that a peer may offer us."""
    max_accepted_htlcs: Annotated[int, Field(ge=1, le=483)] = 100
    """HTLCs that a peer may have pending towards us in one channel."""
    max_in_flight_ratio: Share = 1.0
    """Share of a channel's capacity that the peer's HTLCs may hold."""
    max_offered_htlcs: Annotated[int, Field(ge=1, le=483)] = 483
    """HTLCs that we have pending in one channel; a peer may allow fewer."""
    max_offered_in_flight_ratio: Share = 1.0
    """Share of a channel's capacity that our HTLCs may hold; a peer may allow less."""
    reserve_ratio: Share = 0.01
    """Share of the capacity that the peer must always keep."""
    min_funding_sat: Annotated[int, Field(ge=1_000)] = 100_000
    """The smallest channel that a peer may open to us."""
    max_funding_sat: Annotated[int, Field(ge=1_000)] = 500_000_000
    """The largest channel that a peer may open to us."""
    max_dust_exposure_msat: Annotated[int, Field(ge=0)] = 50_000_000
    """The most that may hang on HTLCs too small for an output, per commitment."""

    @field_validator("api_listen", "metrics_listen")
    @classmethod
    def _somewhere(cls, address: str) -> str:
        if address:
            host_port(address)
        return address

    @field_validator("alias")
    @classmethod
    def _short_alias(cls, alias: str) -> str:
        if len(alias.encode()) > 32:
            raise ValueError("an alias has at most 32 bytes")
        return alias

    @field_validator("public_addresses")
    @classmethod
    def _can_be_announced(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        pack_addresses({Address.parse(text) for text in addresses})
        return addresses

    @field_validator("api_password")
    @classmethod
    def _real_password(cls, password: SecretStr) -> SecretStr:
        if len(password.get_secret_value()) < 8:
            raise ValueError("the API's password has at least 8 characters")
        return password

    @property
    def network(self) -> Chain:
        """The chain's constants."""
        return CHAINS[self.chain]

    @property
    def seed_path(self) -> Path:
        """Where the seed is."""
        return self.seed_file or self.data_dir / "seed"

    @property
    def database(self) -> str:
        """SQLAlchemy's URL of the database."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'squall.db').absolute()}"

    @property
    def events_retention(self) -> EventsRetention:
        """How much the stream ``EVENTS`` keeps."""
        return EventsRetention(self.events_max_age_s, self.events_max_bytes)

    def offers(self) -> OfferRules:
        """How much others may ask of our offers."""
        return OfferRules(
            requests_per_s=self.offer_requests_per_s,
            max_invoices=self.offer_max_invoices,
            invoice_expiry_s=self.offer_invoice_expiry_s,
        )

    def onions(self) -> OnionRules:
        """What onion messages may cost, and what is done for ours."""
        limits = OnionLimits(
            messages_per_s=self.onion_messages_per_s,
            stranger_messages_per_s=self.onion_messages_per_s_without_channels,
            bytes_per_s=self.onion_message_bytes_per_s,
            total_messages_per_s=self.onion_messages_total_per_s,
        )
        return OnionRules(
            limits,
            connects=self.onion_messages_connect,
            reply_timeout_s=self.onion_reply_timeout_s,
        )

    def receiving(self) -> ReceivePolicy:
        """What payments we take."""
        return ReceivePolicy(self.keysend, self.mpp_timeout_s)

    def forward_limits(self) -> ForwardLimits:
        """How much of a channel one peer may fill."""
        return ForwardLimits(
            peer_slot_share=self.forward_peer_slot_share,
            peer_value_share=self.forward_peer_value_share,
            small_htlc_msat=self.forward_small_htlc_msat,
            small_slot_share=self.forward_small_slot_share,
            peer_max_pending=self.forward_peer_max_pending,
        )

    def policy(self) -> ChannelPolicy:
        """What we demand of channels."""
        return ChannelPolicy(
            chain_hash=self.network.chain_hash,
            dust_limit_satoshis=self.dust_limit_satoshis,
            htlc_minimum_msat=self.htlc_minimum_msat,
            reserve_ratio=self.reserve_ratio,
            max_in_flight_ratio=self.max_in_flight_ratio,
            max_accepted_htlcs=self.max_accepted_htlcs,
            max_offered_htlcs=self.max_offered_htlcs,
            max_offered_in_flight_ratio=self.max_offered_in_flight_ratio,
            to_self_delay=self.to_self_delay,
            minimum_depth=self.minimum_depth,
            min_funding_sat=self.min_funding_sat,
            max_funding_sat=self.max_funding_sat,
            max_dust_exposure_msat=self.max_dust_exposure_msat,
            regtest_slack=self.chain == "regtest",
        )
