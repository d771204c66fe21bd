"""Settings of one front: environment variables ``SQUALL_FRONT_*``, read once at start."""

import re
import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from front.admission import Limits, Network
from front.gossip.answers.outbox import OutboxRules
from front.gossip.intake.budget import IntakeRules
from front.gossip.relay.relay import RelayRules
from front.gossip.service import GossipRules
from front.gossip.sync.sync import SyncRules
from front.transport.keepalive import Timing
from shared.onion_budget import OnionLimits
from shared.settings import FabricSettings, TextList, host_port

__all__ = ["FrontSettings"]

_NOT_TOKEN = re.compile(r"[^A-Za-z0-9_-]")


def _node_id(value: object) -> object:
    return bytes.fromhex(value) if isinstance(value, str) else value


def _own_name() -> str:
    return _NOT_TOKEN.sub("-", socket.gethostname())[:64] or "front"


class FrontSettings(FabricSettings):
    """How one front runs. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="SQUALL_FRONT_")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(default_factory=_own_name)
    """Name on the fabric, unique in the cluster; the host's name by default."""
    listen: TextList = ("0.0.0.0:9735",)
    """Where peers connect: ``host:port``, several with commas."""
    metrics_listen: str = "127.0.0.1:9091"
    """Where `/metrics` and `/health` are served; ``none`` for nowhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much is logged."""

    node_id: Annotated[bytes | None, BeforeValidator(_node_id)] = None
    """Our node id in hex; without it the front waits for the back's (``ln.graph.self``)."""
    key_provider: Literal["remote", "env", "file", "aws-sm"] = "remote"
    """Who computes the handshake's ECDH with the node key: the back, or this front itself."""
    node_key: SecretStr | None = None
    """The node's private key in hex, for ``env``."""
    node_key_file: Path | None = None
    """A file with the node's private key in hex, mode 0600, for ``file``."""
    aws_secret_name: str = "node-priv-key"  # noqa: S105 - a name, not a secret
    """The AWS Secrets Manager secret with the node's private key in hex, for ``aws-sm``."""

    proxy_protocol: bool = False
    """Expect a PROXY protocol v2 header from ``proxy_sources``."""
    proxy_sources: TextList = ()
    """Load balancers: networks that must send a PROXY header; all others may not."""

    max_connections: Annotated[int, Field(ge=1)] = 12_000
    """Peers in all."""
    max_handshakes: Annotated[int, Field(ge=1)] = 512
    """Unfinished handshakes at once."""
    max_connections_per_address: Annotated[int, Field(ge=1)] = 16
    """Connections of one IPv4 address or IPv6 /64."""
    handshakes_per_address_per_s: Annotated[float, Field(gt=0)] = 2.0
    """New connections a second of one address, in the long run."""
    handshake_burst_per_address: Annotated[float, Field(ge=1)] = 32.0
    """New connections of one address at once."""
    unlimited_sources: TextList = ("127.0.0.0/8", "::1/128")
    """Networks to which the limits per address do not apply (a Tor daemon, a balancer)."""

    handshake_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """For the PROXY header and BOLT 8."""
    init_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """For both `init`s after BOLT 8."""
    ping_interval_s: Annotated[float, Field(gt=0)] = 30.0
    """Idle time before a `ping`."""
    ping_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """Silence after a `ping` until the peer counts as gone."""
    pings_per_s: Annotated[float, Field(gt=0)] = 1.0
    """Pings a peer may send, in the long run."""
    ping_burst: Annotated[float, Field(ge=1)] = 30.0
    """Pings a peer may send at once."""

    dial_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """To connect to one address of a peer, its BOLT 8 handshake not included."""
    max_dials: Annotated[int, Field(ge=1)] = 256
    """Connections being made at once on the back's orders."""
    socks_proxy: str | None = None
    """``socks5://host:port`` of a Tor daemon, through which onion addresses are dialled."""
    socks_for_all: bool = False
    """Dial every peer through the proxy, so that no address of ours is shown."""

    gossip_workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that check the signatures of gossip; 0: one per CPU, at most 4."""
    gossip_flush_s: Annotated[float, Field(gt=0)] = 60.0
    """How often each peer is told what is new (BOLT 7's staggered broadcast)."""
    gossip_sync_peers: Annotated[int, Field(ge=0)] = 3
    """Peers that this front asks for the network's announcements; 0: what others hear is enough."""
    gossip_query_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Silence after a query until another peer is asked."""
    gossip_resync_s: Annotated[float, Field(gt=0)] = 3600.0
    """How often the table is compared with a peer's; the first few times sooner."""
    gossip_signatures_per_s: Annotated[float, Field(gt=0)] = 20_000.0
    """Signatures of gossip to be checked, in the long run."""
    gossip_peer_signatures_per_s: Annotated[float, Field(gt=0)] = 1_000.0
    """The same of one peer; a network at once is within its burst."""
    gossip_peer_bytes_per_s: Annotated[float, Field(gt=0)] = 200_000.0
    """Answers to the queries of one peer, in the long run; three whole tables at once are fine."""

    onion_messages_per_s: Annotated[float, Field(gt=0)] = 10.0
    """Onion messages of one peer with channels, in the long run; the rest is dropped (BOLT 4)."""
    onion_messages_per_s_without_channels: Annotated[float, Field(gt=0)] = 2.0
    """The same of one peer without channels."""
    onion_message_bytes_per_s: Annotated[float, Field(gt=0)] = 50_000.0
    """Their bytes, of one peer with channels; in proportion of one without, and of all."""
    onion_messages_total_per_s: Annotated[float, Field(gt=0)] = 200.0
    """Onion messages of all peers of this front; those without channels have half of it at most."""

    drain_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """How long a stopping front waits for its owners to hear of every end."""

    @field_validator("listen")
    @classmethod
    def _listen_somewhere(cls, listen: tuple[str, ...]) -> tuple[str, ...]:
        if not listen:
            raise ValueError("at least one address is needed")
        for address in listen:
            host_port(address)
        return listen

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_somewhere(cls, address: str) -> str:
        if address != "none":
            host_port(address)
        return address

    @field_validator("proxy_sources", "unlimited_sources")
    @classmethod
    def _are_networks(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            ip_network(source)
        return sources

    @field_validator("node_id")
    @classmethod
    def _is_point(cls, node_id: bytes | None) -> bytes | None:
        if node_id is not None and (len(node_id) != 33 or node_id[0] not in {2, 3}):
            raise ValueError("a node id is 33 bytes in hex and starts with 02 or 03")
        return node_id

    @model_validator(mode="after")
    def _is_consistent(self) -> "FrontSettings":
        if self.proxy_protocol and not self.proxy_sources:
            raise ValueError(
                "proxy_protocol needs proxy_sources, or anybody could claim an address"
            )
        if self.proxy_sources and not self.proxy_protocol:
            raise ValueError("proxy_sources are set, but proxy_protocol is off")
        if self.key_provider == "env" and self.node_key is None:
            raise ValueError("key_provider env needs node_key")
        if self.key_provider == "file" and self.node_key_file is None:
            raise ValueError("key_provider file needs node_key_file")
        if self.key_provider == "remote" and (self.node_key or self.node_key_file):
            raise ValueError("a node key is configured, but key_provider is remote")
        return self

    @property
    def limits(self) -> Limits:
        """The limits of inbound connections."""
        return Limits(
            connections=self.max_connections,
            handshakes=self.max_handshakes,
            per_address=self.max_connections_per_address,
            rate_per_address=self.handshakes_per_address_per_s,
            burst_per_address=self.handshake_burst_per_address,
            exempt=tuple(map(ip_network, self.unlimited_sources)),
        )

    @property
    def proxies(self) -> tuple[Network, ...]:
        """Whose connections start with a PROXY header."""
        return tuple(map(ip_network, self.proxy_sources))

    @property
    def gossip(self) -> GossipRules:
        """Limits and intervals of gossip."""
        return GossipRules(
            intake=IntakeRules(
                workers=self.gossip_workers,
                signatures_per_s=self.gossip_signatures_per_s,
                peer_signatures_per_s=self.gossip_peer_signatures_per_s,
            ),
            outbox=OutboxRules(bytes_per_s=self.gossip_peer_bytes_per_s),
            sync=SyncRules(
                peers=self.gossip_sync_peers,
                silent_s=self.gossip_query_timeout_s,
                settle_s=2 * self.gossip_query_timeout_s,
                round_s=min(60.0, self.gossip_resync_s),
                resync_s=self.gossip_resync_s,
            ),
            relay=RelayRules(
                interval_s=self.gossip_flush_s, own_interval_s=min(1.0, self.gossip_flush_s)
            ),
        )

    @property
    def onions(self) -> OnionLimits:
        """Limits of onion messages."""
        return OnionLimits(
            messages_per_s=self.onion_messages_per_s,
            stranger_messages_per_s=self.onion_messages_per_s_without_channels,
            bytes_per_s=self.onion_message_bytes_per_s,
            total_messages_per_s=self.onion_messages_total_per_s,
        )

    @property
    def timing(self) -> Timing:
        """Ping intervals and limits."""
        return Timing(
            interval_s=self.ping_interval_s,
            timeout_s=self.ping_timeout_s,
            pings_per_s=self.pings_per_s,
            ping_burst=self.ping_burst,
        )
