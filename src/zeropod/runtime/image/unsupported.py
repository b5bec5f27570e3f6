"""Decides whether CRIU can restore a container completely, before a checkpoint that ends its processes.

Every process that COLD ends must come back as it was, or not be ended at all. Some things CRIU refuses, at the cost of
a dump; others it drops silently, to the application's surprise. Both are searched for here, in /proc and in duplicates
of the container's sockets. Not visible from outside: landlock where no_new_privs is set anyway, Linux AIO requests in
flight on pipes or sockets, out-of-band data, semaphore adjustments, sealed mappings (mseal).
"""

from collections.abc import Collection

from zeropod.runtime.image.checks import CHECKS
from zeropod.runtime.image.obstacle import Kind, Obstacle, merged, table
from zeropod.runtime.image.reading import read
from zeropod.runtime.image.snapshot import Facts, Snapshot

__all__ = ["Facts", "Kind", "Obstacle", "find", "judge", "table"]


def find(pids: Collection[int], facts: Facts) -> list[Obstacle]:
    """Return the obstacles to a checkpoint, one of each kind; empty if there are none.

    `pids` are those of the container's cgroup, which is frozen. Blocks for some tens of milliseconds; raises nothing:
    what cannot be examined is an obstacle.
    """
    try:
        return judge(read(pids, facts))
    except (OSError, ValueError) as error:
        return [Kind.UNREADABLE.found(str(error))]


def judge(snapshot: Snapshot) -> list[Obstacle]:
    return merged([obstacle for check in CHECKS for obstacle in check(snapshot)])
