"""Whether a container can become an image that brings all of it back: asked before a checkpoint that ends it.

Every process that COLD ends must come back as it was, or not be ended at all. CRIU refuses some things, which costs a
dump; others it drops without a word, which is found out by the application. Both are looked for here, in what /proc
and duplicates of the container's sockets tell. What cannot be seen from outside: landlock where no_new_privs is set
anyway, Linux AIO requests that are under way on pipes or sockets, out-of-band data, semaphore adjustments, sealed
mappings (mseal).
"""

from collections.abc import Collection

from zeropod.runtime.image.checks import CHECKS
from zeropod.runtime.image.obstacle import Kind, Obstacle, merged, table
from zeropod.runtime.image.reading import read
from zeropod.runtime.image.snapshot import Facts, Snapshot

__all__ = ["Facts", "Kind", "Obstacle", "find", "judge", "table"]


def find(pids: Collection[int], facts: Facts) -> list[Obstacle]:
    """Return what stands against it, one obstacle of each kind; empty if nothing does.

    `pids` are those of the container's cgroup, which is frozen. Blocks for some tens of milliseconds; raises nothing:
    what cannot be examined is an obstacle.
    """
    try:
        return judge(read(pids, facts))
    except (OSError, ValueError) as error:
        return [Kind.UNREADABLE.found(str(error))]


def judge(snapshot: Snapshot) -> list[Obstacle]:
    """Return what stands against it in a snapshot."""
    return merged([obstacle for check in CHECKS for obstacle in check(snapshot)])
