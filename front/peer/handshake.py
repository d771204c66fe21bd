"""The exchange of `init`: what we say, and whether the peer may stay (BOLT 1, BOLT 9). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from shared.errors import ProtocolViolation
from shared.features import Feature, FeatureSet
from shared.wire import Init
from shared.wire.address import Address, AddressKind

__all__ = ["Identity", "check_init", "combined", "our_init"]

_BOLT = "BOLT 1 § init"

_ASSUMED = frozenset(
    {
        Feature.option_data_loss_protect,
        Feature.gossip_queries,
        Feature.var_onion_optin,
        Feature.option_static_remotekey,
        Feature.payment_secret,
        Feature.option_channel_type,
    }
)
"""Assumed of every node (BOLT 9): a peer may require these whether or not we set the bit."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What our `init` is made of.

    Attributes:
        features: of the `init` context.
        networks: chain hashes, internal byte order.
    """

    features: FeatureSet
    networks: tuple[bytes, ...]


def our_init(identity: Identity, seen_as: tuple[str, int] | None = None) -> Init:
    """Return the `init` to send.

    Args:
        identity: who we are, as the back says.
        seen_as: host and port of a peer that connected to us over IP; it is told so unless the
            address is private.
    """
    return Init(
        globalfeatures=b"",
        features=identity.features.to_bytes(),
        networks=list(identity.networks) or None,
        remote_addr=_remote_addr(seen_as),
    )


def check_init(ours: Init, theirs: Init) -> frozenset[Feature]:
    """Return the features in force on this connection.

    Raises:
        ProtocolViolation: the two cannot work together; says why, for the `warning`.
    """
    local, remote = FeatureSet.from_bytes(ours.features), combined(theirs)
    if unknown := remote.unknown_required():
        raise ProtocolViolation(f"you require unknown feature bits {_numbers(unknown)}", bolt=_BOLT)
    if missing := remote.missing_dependencies():
        pairs = ", ".join(f"{feature.name} needs {needed.name}" for feature, needed in missing)
        raise ProtocolViolation(f"your features lack dependencies: {pairs}", bolt=_BOLT)
    refused = [
        f"{f.name} (bit {f.bit})"
        for f in remote.features
        if remote.requires(f) and f not in _ASSUMED and not local.supports(f)
    ]
    if refused:
        raise ProtocolViolation(
            f"you require features we do not offer: {', '.join(refused)}", bolt=_BOLT
        )
    _check_networks(ours.networks or [], theirs.networks or [])
    return FeatureSet.negotiated(local, remote)


def combined(init: Init) -> FeatureSet:
    """Return ``globalfeatures`` and ``features`` as the one map they are (BOLT 1)."""
    return FeatureSet.from_bytes(init.globalfeatures).union(FeatureSet.from_bytes(init.features))


def _check_networks(ours: Sequence[bytes], theirs: Sequence[bytes]) -> None:
    if ours and theirs and not set(ours) & set(theirs):
        raise ProtocolViolation(
            f"no common chain: yours {_chains(theirs)}, ours {_chains(ours)}", bolt=_BOLT
        )


def _chains(hashes: Sequence[bytes]) -> str:
    return ", ".join(h[::-1].hex()[:16] for h in hashes[:4])


def _numbers(bits: Sequence[int]) -> str:
    shown = ", ".join(map(str, bits[:8]))
    return shown if len(bits) <= 8 else f"{shown} and {len(bits) - 8} more"


def _remote_addr(seen_as: tuple[str, int] | None) -> bytes | None:
    """Return the address descriptor, or None where BOLT 1 says not to send one."""
    if seen_as is None:
        return None
    host, port = seen_as
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    if not ip.is_global or not port:
        return None
    kind = AddressKind.IPV4 if ip.version == 4 else AddressKind.IPV6
    return Address(kind, str(ip), port).pack()
