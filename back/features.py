"""What this node offers its peers and announces (BOLT 9): each bit has its behaviour."""

from typing import TYPE_CHECKING

from shared.features import Feature, FeatureSet

if TYPE_CHECKING:
    from back.settings import BackSettings

__all__ = ["INIT_FEATURES", "node_features"]

INIT_FEATURES = FeatureSet.of(
    optional=(
        Feature.option_data_loss_protect,
        Feature.option_upfront_shutdown_script,
        Feature.gossip_queries,
        Feature.var_onion_optin,
        Feature.gossip_queries_ex,
        Feature.option_static_remotekey,
        Feature.payment_secret,
        Feature.basic_mpp,
        Feature.option_support_large_channel,
        Feature.option_anchors,
        Feature.option_route_blinding,
        Feature.option_shutdown_anysegwit,
        Feature.option_onion_messages,
        Feature.option_channel_type,
        Feature.option_scid_alias,
    )
)
"""What our `init` offers: each bit has its behaviour (BOLT 9)."""


def node_features(settings: "BackSettings") -> FeatureSet:
    """Return what our `node_announcement` says: more than `init`, which is for peers."""
    more = (Feature.keysend,) if settings.keysend else ()
    return INIT_FEATURES.union(FeatureSet.of(optional=more))
