"""The timeouts of a master that checks its workers' heartbeats: after a thaw the workers report first."""

import math
from collections.abc import Sequence

from zeropod.kernel import pending_timeouts

MASTER_WAITS = 1.0
"""Seconds that a process with children waits after a thaw at least, if nothing comes for it: its workers need pages of
theirs before they can report to it."""


def let_workers_go_first(pids: Sequence[int], init: int) -> None:
    """Have workers of the frozen processes wake at once after the thaw, and their master a moment later."""
    if len(pids) > 1:
        pending_timeouts.shorten(pids, init, math.inf)
        pending_timeouts.lengthen(pids, init, MASTER_WAITS)
