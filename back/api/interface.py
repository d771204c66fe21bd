"""What the API needs of the node; :class:`back.node.Node` is one."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from back.announcing.service import Announcing
    from back.chain.interface import Chain
    from back.channels import Channels
    from back.events.service import Events
    from back.graph.paths.service import PathFinder
    from back.graph.service import GraphService
    from back.offers.service import Offers
    from back.onion_messages.service import OnionMessages
    from back.payment.service import Payments
    from back.peer import Peers
    from back.settings import BackSettings
    from back.signer.signer import Signer

__all__ = ["ApiNode"]


class ApiNode(Protocol):
    """A running node."""

    @property
    def settings(self) -> "BackSettings":
        """Its settings: alias, color, network, addresses, the API's password."""

    @property
    def signer(self) -> "Signer":
        """For the node id."""

    @property
    def chain(self) -> "Chain":
        """Wallet, feerates, tip."""

    @property
    def peers(self) -> "Peers":
        """Who is connected, and connecting."""

    @property
    def channels(self) -> "Channels":
        """All channels."""

    @property
    def graph(self) -> "GraphService":
        """The routing table."""

    @property
    def paths(self) -> "PathFinder":
        """Finds routes."""

    @property
    def announcing(self) -> "Announcing":
        """What we say of ourselves, and the terms of our channels."""

    @property
    def payments(self) -> "Payments":
        """Invoices and payments."""

    @property
    def onion_messages(self) -> "OnionMessages":
        """Sends and takes onion messages."""

    @property
    def events(self) -> "Events":
        """What `/ws` tells."""

    @property
    def offers(self) -> "Offers":
        """Offers, ours and those of others."""
