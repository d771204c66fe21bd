"""Which channel a payer means by a short channel id (BOLT 2 § channel_ready, BOLT 4)."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from shared.features import Feature, FeatureSet

if TYPE_CHECKING:
    from back.channel.model import Channel
    from back.runner import ChannelRunner

__all__ = ["Names", "names_of"]

REBUILT_S = 1.0
"""Between two looks at every channel: unknown names may come by the thousand."""


def names_of(channel: "Channel") -> Iterator[int]:
    """Yield what payers may call a channel: every alias that we gave, and the real name.

    Not the real one where the channel's type has option_scid_alias, which is there to hide it.
    """
    if channel.local_alias is not None:
        yield channel.local_alias
    real = channel.funding.short_channel_id if channel.funding is not None else None
    if real is not None and not _is_hidden(channel.parameters.channel_type):
        yield real


@lru_cache(maxsize=64)
def _is_hidden(channel_type: bytes) -> bool:
    return FeatureSet.from_bytes(channel_type).supports(Feature.option_scid_alias)


class Names:
    """An index of channels by their names.

    Args:
        runners: all channels, by present channel id.
        monotonic: seconds.
    """

    def __init__(
        self,
        runners: "Mapping[bytes, ChannelRunner]",
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runners = runners
        self._monotonic = monotonic
        self._index: dict[int, ChannelRunner] = {}
        self._rebuilt_at = -REBUILT_S

    def find(self, short_channel_id: int) -> "ChannelRunner | None":
        """Return the channel of this name, if there is one."""
        runner = self._index.get(short_channel_id)
        if runner is not None and self._is_right(runner, short_channel_id):
            return runner
        now = self._monotonic()
        if now - self._rebuilt_at < REBUILT_S:
            return None
        self._rebuilt_at = now
        self._index = {
            name: runner for runner in self._runners.values() for name in names_of(runner.channel)
        }
        return self._index.get(short_channel_id)

    def _is_right(self, runner: "ChannelRunner", short_channel_id: int) -> bool:
        is_present = self._runners.get(runner.channel.channel_id) is runner
        return is_present and short_channel_id in names_of(runner.channel)
