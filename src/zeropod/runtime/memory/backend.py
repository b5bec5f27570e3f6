"""What every place for a sleeping container's memory can do.

Owns the protocol between a container that sleeps in place and the backend that moves its memory out; knows neither
containerd nor the state machine. The rules that hold for every backend:

1. The processes are frozen in their cgroup while memory moves out. Moving out is background work: it can be cut at any
   moment, and what it has in hand is finished or undone within a few milliseconds.
2. Whatever goes wrong, a page is either present, or waits for the one who has it. It never reads as zero.
3. A backend never thaws and never freezes: that is its caller's part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Kind(StrEnum):
    """The values of the annotation `standby-memory`, but for `auto`."""

    SWAP = "swap"
    STORE = "store"
    RESIDENT = "resident"


class MemoryFailed(Exception):  # noqa: N818 - named for what happened
    """Memory could not be moved out. The container is whole: what is out can be had, the rest stays resident."""


class MemoryLost(Exception):  # noqa: N818 - named for what happened
    """Pages that are out cannot be had any more; whatever touches them waits. The container has to be ended."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a backend has done for one container, in bytes; counters are of the present sleep or the last one."""

    out: int = 0
    """Out of memory now."""
    written: int = 0
    """Written by the last move: what was clean since the one before is not written again."""
    faults: int = 0
    """Page faults served since the last thaw; 0 where the kernel does that by itself."""
    brought_in: int = 0
    """Brought back since the last thaw; 0 where the kernel does that by itself."""


class Backend(Protocol):
    """The memory of one container, over all of its sleeps; used by one trio task, except for `cut`."""

    @property
    def kind(self) -> Kind:
        """Which one it is."""

    @property
    def usage(self) -> Usage:
        """What it has done."""

    @property
    def descriptors(self) -> frozenset[tuple[int, int]]:
        """What it keeps in the descriptor tables of the processes: (pid, number)."""

    async def move_out(self, pids: Sequence[int]) -> None:
        """Move the memory of these processes, which are frozen, out; return when that is done or was cut.

        Runs off the event loop. Raises MemoryFailed. Cancelling it does what `cut` does, and waits for it.
        """

    def cut(self) -> None:
        """Have `move_out` end as soon as possible: the container is about to be thawed, or already is.

        Returns at once, whatever goes on; may be called at any time from the event loop, also when nothing goes on.
        """

    async def settle(self) -> None:
        """Return when nothing of `move_out` goes on any more: no process is stopped or traced by it."""

    async def fill(self) -> None:
        """Bring in what the last wakes have touched first; the container is frozen and all that was to go is out."""

    async def bring_back(self) -> None:
        """Bring everything back in, and let go of the processes: for a dump, or another backend. Raises MemoryLost.

        What it keeps in their descriptor tables goes if they are frozen. May be cancelled, and called again.
        """

    async def lost(self) -> str:
        """Return why pages that are out cannot be had any more; wait for ever as long as they can."""

    async def close(self) -> None:
        """Let go of everything: the processes have ended, or the shim does."""
