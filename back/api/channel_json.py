"""A channel as Eclair's API shows it: state, and under ``data`` what both sides hold."""

from typing import Any

from back.api.json import Json, scid_json
from back.api.network_json import update_json
from back.channel.model import Channel, Htlc, Link, PartyParameters, Phase
from back.channel.spec import CommitmentSpec, local_spec, remote_spec, signed_number
from back.payment.balances import balances
from back.transactions.commitment import CommitmentType
from shared.features import Feature, FeatureSet

__all__ = ["balance_json", "channel_json", "state_of"]

_FORMATS = {
    CommitmentType.STATIC_REMOTEKEY: "static_remotekey",
    CommitmentType.ANCHORS_ZERO_FEE_HTLC: "anchor_outputs",
}
_BEYOND_CONNECTION = frozenset(
    {Phase.CLOSING, Phase.CLOSED, Phase.WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT}
)
"""Phases in which it does not matter whether the peer is there."""


def state_of(channel: Channel) -> str:
    """The phase; OFFLINE or SYNCING where the connection keeps the channel from working."""
    if channel.link is not Link.ONLINE and channel.phase not in _BEYOND_CONNECTION:
        return channel.link.name
    return channel.phase.value


def channel_json(channel: Channel, node_id: bytes, own_update: bytes | None = None) -> Json:
    """Everything about a channel.

    Args:
        channel: as it is durable.
        node_id: ours.
        own_update: our last `channel_update`, encoded: what we take for forwarding into it.
    """
    return {
        "nodeId": channel.parameters.node_id.hex(),
        "channelId": channel.channel_id.hex(),
        "state": state_of(channel),
        "data": _data(channel, node_id, own_update),
    }


def _data(channel: Channel, node_id: bytes, own_update: bytes | None) -> Json:
    data: Json = {
        "type": f"DATA_{channel.phase.value}",
        "commitments": {
            "channelParams": _parameters(channel, node_id),
            "changes": _changes(channel),
            "active": _active(channel),
            "inactive": [],
            "remoteNextCommitInfo": channel.remote_commitment.next_point.hex(),
            "remotePerCommitmentSecrets": None,
            "originChannels": _origins(channel),
        },
        "aliases": _aliases(channel),
    }
    scid = channel.funding.short_channel_id if channel.funding is not None else None
    if scid is not None:
        data["shortChannelId"] = scid_json(scid)
        if channel.channel_announcement is not None:
            data["lastAnnouncement_opt"] = {"shortChannelId": scid_json(scid)}
    if own_update is not None:
        data["channelUpdate"] = update_json(own_update)
    if channel.local_shutdown_script is not None:
        data["localShutdown"] = {"scriptPubKey": channel.local_shutdown_script.hex()}
    if channel.remote_shutdown_script is not None:
        data["remoteShutdown"] = {"scriptPubKey": channel.remote_shutdown_script.hex()}
    return data


def _aliases(channel: Channel) -> Json:
    aliases = {"localAlias": channel.local_alias, "remoteAlias": channel.remote_alias}
    return {name: f"0x{alias:x}" for name, alias in aliases.items() if alias is not None}


def _parameters(channel: Channel, node_id: bytes) -> Json:
    parameters = channel.parameters
    remote = parameters.remote
    channel_type = FeatureSet.from_bytes(parameters.channel_type)
    shown: Json = {
        "channelId": channel.channel_id.hex(),
        "channelConfig": [],
        "channelFeatures": [feature.name for feature in channel_type.features],
        "localParams": {
            "nodeId": node_id.hex(),
            "initialRequestedChannelReserve_opt": _reserve(remote),
            "isChannelOpener": parameters.is_opener,
            "paysCommitTxFees": parameters.is_opener,
            **_upfront(parameters.local),
        },
    }
    if remote is not None:
        shown["remoteParams"] = {
            "nodeId": parameters.node_id.hex(),
            "initialRequestedChannelReserve_opt": _reserve(parameters.local),
            "revocationBasepoint": remote.revocation_basepoint.hex(),
            "paymentBasepoint": remote.payment_basepoint.hex(),
            "delayedPaymentBasepoint": remote.delayed_payment_basepoint.hex(),
            "htlcBasepoint": remote.htlc_basepoint.hex(),
            "initFeatures": {"activated": {f.name: "optional" for f in _sorted(channel)}},
            **_upfront(remote),
        }
    shown["channelFlags"] = {
        "nonInitiatorPaysCommitFees": False,
        "announceChannel": parameters.announce,
    }
    return shown


def _sorted(channel: Channel) -> list[Feature]:
    return sorted(channel.features, key=lambda feature: feature.bit)


def _reserve(demanded_by: PartyParameters | None) -> int | None:
    """What one side must keep is what the other demanded."""
    return None if demanded_by is None else demanded_by.channel_reserve_satoshis


def _upfront(party: PartyParameters) -> Json:
    script = party.upfront_shutdown_script
    return {"upfrontShutdownScript_opt": script.hex()} if script else {}


def _changes(channel: Channel) -> Json:
    nothing: dict[str, list[Any]] = {"proposed": [], "signed": [], "acked": []}
    return {
        "localChanges": nothing,
        "remoteChanges": nothing,
        "localNextHtlcId": channel.next_local_htlc_id,
        "remoteNextHtlcId": channel.next_remote_htlc_id,
    }


def _origins(channel: Channel) -> Json:
    return {
        str(htlc.id): {"paymentId": htlc.origin.split(":")[1]}
        for htlc in channel.htlcs.values()
        if htlc.offered and htlc.origin and htlc.origin.startswith("payment:")
    }


def _active(channel: Channel) -> list[Json]:
    funding, remote = channel.funding, channel.parameters.remote
    if funding is None or remote is None or not channel.fees:
        return []
    local_funding: Json = {"txid": funding.outpoint.rpc_txid}
    if funding.short_channel_id is None:
        local_funding["status"] = "unconfirmed"
    else:
        local_funding |= {
            "status": "confirmed",
            "shortChannelId": scid_json(funding.short_channel_id),
        }
    locked = "locked" if channel.is_channel_ready_received else "not-locked"
    amount = channel.parameters.funding_satoshis
    return [
        {
            "fundingTxIndex": 0,
            "fundingInput": str(funding.outpoint),
            "fundingAmount": amount,
            # The older names, which `eclair-cli -s` still reads.
            "fundingTx": {"outPoint": str(funding.outpoint), "amountSatoshis": amount},
            "localFunding": local_funding,
            "remoteFunding": {"status": locked},
            "commitmentFormat": _FORMATS[channel.parameters.commitment_type],
            "localCommitParams": _limits(channel.parameters.local, remote),
            "localCommit": {
                "index": channel.local_commitment.number,
                "spec": _spec(local_spec(channel)),
            },
            "remoteCommitParams": _limits(remote, channel.parameters.local),
            "remoteCommit": {
                "index": signed_number(channel),
                "spec": _spec(remote_spec(channel)),
                "remotePerCommitmentPoint": channel.remote_commitment.current_point.hex(),
            },
        }
    ]


def _limits(own: PartyParameters, other: PartyParameters) -> Json:
    """One side's commitment: its own dust limit, and the delay that the other demanded."""
    return {
        "dustLimit": own.dust_limit_satoshis,
        "htlcMinimum": own.htlc_minimum_msat,
        "maxHtlcValueInFlight": own.max_htlc_value_in_flight_msat,
        "maxAcceptedHtlcs": own.max_accepted_htlcs,
        "toSelfDelay": other.to_self_delay,
    }


def _spec(spec: CommitmentSpec) -> Json:
    """From the holder's side, as there: its own balance is ``toLocal``."""
    ours, theirs = spec.local_msat, spec.remote_msat
    return {
        "htlcs": [_htlc(htlc, is_local=spec.is_local) for htlc in spec.htlcs],
        "commitTxFeerate": spec.feerate_per_kw,
        "toLocal": ours if spec.is_local else theirs,
        "toRemote": theirs if spec.is_local else ours,
    }


def _htlc(htlc: Htlc, *, is_local: bool) -> Json:
    return {
        "direction": "OUT" if htlc.offered == is_local else "IN",
        "id": htlc.id,
        "amountMsat": htlc.amount_msat,
        "paymentHash": htlc.payment_hash.hex(),
        "cltvExpiry": htlc.cltv_expiry,
    }


def balance_json(channel: Channel) -> Json:
    """What a channel can send and receive."""
    now = balances(channel)
    shown: Json = {"remoteNodeId": channel.parameters.node_id.hex()}
    scid = channel.funding.short_channel_id if channel.funding is not None else None
    if scid is not None:
        shown["realScid"] = scid_json(scid)
    return {
        **shown,
        "aliases": _aliases(channel),
        "canSend": now.can_send_msat,
        "canReceive": now.can_receive_msat,
        "isPublic": channel.parameters.announce,
        "isEnabled": state_of(channel) == Phase.NORMAL.value,
    }
