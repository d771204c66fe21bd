"""What the settings say of onion messages. Pure."""

from dataclasses import dataclass, field

from shared.onion_budget import OnionLimits

__all__ = ["OnionRules"]


@dataclass(frozen=True, slots=True)
class OnionRules:
    """What the settings say of onion messages.

    Attributes:
        limits: of what peers send.
        connects: whether to connect to a node that no peer reaches, for a message of ours.
        reply_timeout_s: after it an answer counts as lost.
        attempts: so often a message that is not answered is sent.
    """

    limits: OnionLimits = field(default_factory=OnionLimits)
    connects: bool = True
    reply_timeout_s: float = 8.0
    attempts: int = 3
