"""What a front knows about the owners of the shards, from their hellos. Pure.

Fronts keep the highest epoch and the highest commit number they heard per shard, and drop lower
ones.
"""

from dataclasses import dataclass

from shared.fabric.requests import Hello
from shared.fabric.subjects import SHARDS

__all__ = ["OWNER_AWAY_S", "OWNER_SILENT_S", "Owner", "Owners"]

OWNER_AWAY_S = 3.0
"""Three hellos missed: open no sessions with this owner, use ``ln.graph.self``."""
OWNER_SILENT_S = 30.0
"""Sessions that carried anything end."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What is known of one shard's owner.

    Attributes:
        epoch: highest heard; 0 before the first hello.
        commit_no: highest heard in any epoch. An owner that says less runs on a restored database.
        heard_at: monotonic seconds of the last hello of ``epoch``, or of the start.
        name: the back's name.
    """

    epoch: int
    commit_no: int
    heard_at: float
    name: str


class Owners:
    """The table of all shards.

    Args:
        now: monotonic seconds; silence is counted from here.
    """

    def __init__(self, now: float) -> None:
        self._owners = [Owner(0, 0, now, "")] * SHARDS
        self._silent: set[int] = set()
        self._offline = False

    def __getitem__(self, shard: int) -> Owner:
        """Return what is known of a shard's owner."""
        return self._owners[shard]

    def heard(self, hello: Hello, now: float) -> bool:
        """Take a hello; True if it is of a new epoch: then tell every session of the shard."""
        known = self._owners[hello.shard]
        if hello.epoch < known.epoch:
            return False
        commit_no = max(known.commit_no, hello.commit_no)
        self._owners[hello.shard] = Owner(hello.epoch, commit_no, now, hello.owner)
        self._silent.discard(hello.shard)
        return hello.epoch > known.epoch

    def is_present(self, shard: int, now: float) -> bool:
        """Whether a shard has an owner that speaks."""
        owner = self._owners[shard]
        return bool(owner.epoch) and now - owner.heard_at < OWNER_AWAY_S and not self._offline

    def is_restored(self, hello: Hello) -> bool:
        """Whether this owner's database is older than one that was heard before."""
        return hello.commit_no < self._owners[hello.shard].commit_no

    def silent(self, now: float) -> list[int]:
        """Return shards whose owner has now been silent for 30 s, each once; call every second."""
        if self._offline:
            return []
        found = [
            number
            for number, owner in enumerate(self._owners)
            if number not in self._silent and now - owner.heard_at >= OWNER_SILENT_S
        ]
        self._silent.update(found)
        return found

    def fabric_lost(self) -> None:
        """The connection to the broker is gone: silence means nothing."""
        self._offline = True

    def fabric_back(self, now: float) -> None:
        """The connection to the broker is back: silence is counted from here."""
        self._offline = False
        self._owners = [Owner(o.epoch, o.commit_no, now, o.name) for o in self._owners]
