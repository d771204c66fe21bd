"""Which of our own commitments may still be signed.

A published commitment whose secret the peer has costs the whole channel. So two independent
witnesses say what is revoked, and the higher one counts: the channel's durable row (commitment
``n`` is current, so everything below is revoked), and what this process has released since it
started. After a restart the row alone is there, and it is enough: a secret leaves the process only
after the row that says so is durable.
"""

from dataclasses import dataclass, field

from shared.errors import InvariantError, SigningRefused

__all__ = ["RevocationGuard"]


@dataclass(slots=True)
class RevocationGuard:
    """Refuses to sign what is revoked, and anything of ours in recovery.

    Attributes:
        in_recovery: the database may be older than what we told our peers (ARCHITECTURE §
        Storage): no
            commitment of ours is known to be current.
    """

    in_recovery: bool = False
    _revoked_below: dict[int, int] = field(default_factory=dict)

    def release(self, key_index: int, number: int, *, current: int) -> None:
        """Note that the secret of ``number`` leaves.

        Args:
            key_index: the channel's.
            number: of the commitment that is revoked.
            current: number of our commitment that stays, by the channel's row.

        Raises:
            InvariantError: ``number`` is not below ``current``: nothing would be left to publish.
        """
        if not 0 <= number < current:
            raise InvariantError(
                f"commitment {number} is not to be revoked while {current} is ours"
            )
        self._revoked_below[key_index] = max(number + 1, self._revoked_below.get(key_index, 0))

    def check(self, key_index: int, number: int, *, current: int) -> None:
        """Allow a signature on our commitment ``number`` or on what spends it.

        Args:
            key_index: the channel's.
            number: of the commitment to sign.
            current: number of our current commitment, by the channel's row.

        Raises:
            SigningRefused: in recovery.
            InvariantError: it is revoked.
        """
        if self.in_recovery:
            raise SigningRefused("in recovery no commitment of ours may be published")
        least = max(current, self._revoked_below.get(key_index, 0))
        if number < least:
            raise InvariantError(
                f"commitment {number} is revoked, {least} is the oldest that is not"
            )

    def forget(self, key_index: int) -> None:
        """Forget what this process released: the channel's last commit did not happen.

        Its secrets never left (nothing is said before it is durable), so its row alone counts
        again.
        """
        self._revoked_below.pop(key_index, None)
