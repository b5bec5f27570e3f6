"""Makes the backend that was chosen for a container; owns the one that moves nothing."""

from collections.abc import Callable
from pathlib import Path

from zeropod.concurrency import TaskStarter
from zeropod.runtime.cgroups import Cgroup
from zeropod.runtime.memory.backend import Backend, Kind
from zeropod.runtime.memory.limits import LIMITS
from zeropod.runtime.memory.store import StoreBackend
from zeropod.runtime.memory.swap import SwapBackend

PAGES = "pages"
"""The directory of the page store, in the container's directory for its memory."""


class ResidentBackend(Backend):
    """For a container that is small, or whose node has no place for its memory: it is only frozen."""

    @property
    def kind(self) -> Kind:
        return Kind.RESIDENT


def make(
    kind: Kind,
    cgroup: Cgroup,
    directory: Path,
    tasks: TaskStarter,
    *,
    say: Callable[[str], None],
    reserve: Callable[[int], str],
) -> Backend:
    """Return a backend for the container of this cgroup, which owns `directory`.

    `say` logs a warning. `reserve` gets the number of bytes about to be written to disk, and returns why they must not
    be, or an empty string. Raises OSError.
    """
    match kind:
        case Kind.SWAP:
            return SwapBackend(cgroup, directory / LIMITS)
        case Kind.STORE:
            return StoreBackend(directory / PAGES, cgroup, tasks, say=say, reserve=reserve)
        case Kind.RESIDENT:
            return ResidentBackend()
