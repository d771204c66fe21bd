"""``squall-back`` that kills itself: ``python dying_back.py <n>``.

It dies by kill -9 before the n-th effect of a channel: after the commit of the step, and before
anything of the effect is done.
"""

import os
import signal
import sys
from typing import Any

from back import channels
from back.__main__ import main

LEFT = [int(sys.argv.pop(1))]


def dying(perform: Any) -> Any:
    """Count effects, and die in time."""

    def performed(self: Any, runner: Any, effect: Any) -> None:
        if LEFT[0] == 0:
            what = getattr(getattr(effect, "message", effect), "NAME", type(effect).__name__)
            print(f"dies before {what}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        LEFT[0] -= 1
        perform(self, runner, effect)

    return performed


channels.Channels.perform = dying(channels.Channels.perform)  # type: ignore[method-assign]
sys.exit(main())
