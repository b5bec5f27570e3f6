"""What CRIU 4.2 refuses, loses or restores wrongly: pure functions from a snapshot to obstacles.

Each rule here was tried on CRIU 4.2.1: without it the dump or the restore fails, or something is lost. What is restored
correctly has no rule, however unusual: a false alarm keeps a container out of COLD for nothing.
"""

from collections.abc import Callable, Iterator

from zeropod.runtime.image.checks import files, locks, mounts, processes, sockets
from zeropod.runtime.image.obstacle import Obstacle
from zeropod.runtime.image.snapshot import Snapshot

CHECKS: tuple[Callable[[Snapshot], Iterator[Obstacle]], ...] = (
    *processes.CHECKS,
    *files.CHECKS,
    *locks.CHECKS,
    *sockets.CHECKS,
    *mounts.CHECKS,
)
