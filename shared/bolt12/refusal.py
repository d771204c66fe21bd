"""Why something that parses is not answered, or not paid."""

from shared.errors import ProtocolViolation

__all__ = ["Refused"]


class Refused(ProtocolViolation):
    """An offer, request or invoice that may not be used.

    Attributes:
        reason: the words, without the rule.
        field: number of the record that is wrong; None: none in particular.
    """

    def __init__(self, reason: str, *, bolt: str, field: int | None = None) -> None:
        super().__init__(reason, bolt=bolt)
        self.reason = reason
        self.field = field
