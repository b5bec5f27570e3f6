"""What every place for a sleeping container's memory can do.

Owns what a container that sleeps in place may ask of the backend that moves its memory out; knows neither containerd
nor the state machine. The rules that hold for every backend:

1. The processes are frozen in their cgroup while memory moves out. Moving out is background work: it can be cut at any
   moment, and what it has in hand is finished or undone within a few milliseconds.
2. Whatever goes wrong, a page is either present, or waits for the one who has it. It never reads as zero.
3. A backend never thaws and never freezes: that is its caller's part.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import trio

BRING_BACK: Final = 60.0
"""Seconds that memory may take to come back, however little it is: other containers may want the CPU and the disk."""

SLOWEST: Final = 4 << 20
"""Bytes a second that it comes back with at least; from a file that is in memory it is some hundred times that."""


def bring_back_within(size: int) -> float:
    """Return the seconds after which so many bytes that have not come back are taken for lost."""
    return BRING_BACK + size / SLOWEST


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


class LeftOut(Protocol):
    """What an image of the processes leaves out, because their backend has it."""

    async def processes_ended(self) -> None:
        """Keep what the processes had: they are in the image now."""

    async def rejoin(self, pids: Sequence[int]) -> None:
        """Give the restored processes, which are still stopped, what the image has left out.

        Raises MemoryFailed, MemoryLost; they must not run then, and it can be tried again with others.
        """


class Backend(ABC):
    """The memory of one container, over all of its sleeps; used by one trio task, except for `cut`.

    What a backend does not override has nothing to do there: it moves nothing, or the kernel does the rest by itself.
    """

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """Which one it is."""

    @property
    def usage(self) -> Usage:
        """What it has done."""
        return Usage()

    @property
    def left(self) -> Mapping[int, str]:
        """The processes whose memory the last move has left where it is although others' went, and why."""
        return {}

    @property
    def ran(self) -> bool:
        """Whether the last move has let a process run for a moment that it could not stop."""
        return False

    @property
    def descriptors(self) -> frozenset[tuple[int, int]]:
        """What it keeps in the descriptor tables of the processes: (pid, number)."""
        return frozenset()

    async def move_out(self, pids: Sequence[int]) -> None:  # noqa: ARG002 - for those that move something
        """Move the memory of these processes, which are frozen, out; return when that is done or was cut.

        Runs off the event loop. Raises MemoryFailed. Cancelling it does what `cut` does, and waits for it.
        """
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:  # noqa: B027 - nothing goes on where nothing is moved
        """Have `move_out` end as soon as possible: the container is about to be thawed, or already is.

        Returns at once, whatever goes on; may be called at any time from the event loop, also when nothing goes on.
        """

    async def settle(self) -> None:
        """Return when nothing of `move_out` goes on any more: no process is stopped or traced by it."""
        await trio.lowlevel.checkpoint()

    async def fill(self) -> None:
        """Bring in what the last wakes have touched first; the container is frozen and all that was to go is out."""
        await trio.lowlevel.checkpoint()

    async def bring_back(self) -> None:
        """Bring everything back in, and let go of the processes: for a dump, or another backend. Raises MemoryLost.

        What it keeps in their descriptor tables goes if they are frozen. May be cancelled, and called again.
        """
        await trio.lowlevel.checkpoint()

    async def leave(self, pids: Sequence[int]) -> LeftOut | None:  # noqa: ARG002 - for those that keep something
        """Make the frozen processes ready for a dump that leaves out what is out; None where it cannot be.

        Whatever comes of it, they can run on as before. Raises MemoryFailed, MemoryLost.
        """
        await trio.lowlevel.checkpoint()
        return None

    async def lost(self) -> str:
        """Return why pages that are out cannot be had any more; wait for ever as long as they can."""
        await trio.sleep_forever()
        raise AssertionError("slept for ever")

    async def close(self) -> None:
        """Let go of everything: the processes have ended, or the shim does."""
        await trio.lowlevel.checkpoint()
