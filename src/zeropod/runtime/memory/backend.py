"""The interface of the backends that move a sleeping container's memory out.

Knows neither containerd nor the state machine. Rules for every backend:
1. The processes are frozen in their cgroup while memory moves out. This is background work: it can be cut at any
   moment, and the step in progress is finished or undone within a few milliseconds.
2. Whatever goes wrong, a page is either present, or an access blocks until it is brought back. It never reads as zero.
3. A backend never thaws and never freezes: the caller does.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import trio

from zeropod.runtime.memory.userfault.extents import Index

BRING_BACK: Final = 60.0
"""Seconds that bringing back any amount of memory may take: other containers may compete for CPU and disk."""

SLOWEST: Final = 4 << 20
"""The least bytes per second for bringing memory back; from a cached file it is some hundred times that."""


def bring_back_within(size: int) -> float:
    """Return the seconds after which `size` bytes that are not back are considered lost."""
    return BRING_BACK + size / SLOWEST


class Kind(StrEnum):
    """The values of the annotation `standby-memory`, but for `auto`."""

    SWAP = "swap"
    STORE = "store"
    RESIDENT = "resident"


class MemoryFailed(Exception):  # noqa: N818 - named for what happened
    """Memory could not be moved out. The container is intact: pages that are out can be read, the rest is resident."""


class MemoryLost(Exception):  # noqa: N818 - named for what happened
    """Pages that are out cannot be read any more; threads that touch them block. The container has to be ended."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a backend has done for one container, in bytes; counters cover the present or the last sleep."""

    out: int = 0
    """Out of memory now."""
    written: int = 0
    """Written by the last move; pages unchanged since the previous one are not written again."""
    faults: int = 0
    """Page faults served since the last thaw; 0 where the kernel serves them."""
    brought_in: int = 0
    """Brought back since the last thaw; 0 where the kernel does it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Memory in the files of a page store."""

    directory: Path
    indexes: Mapping[int, Index]
    """Where each process's pages are, by its pid in its own PID namespace."""


class LeftOut(Protocol):
    """The memory that an image of the processes leaves out, because their backend has it."""

    async def processes_ended(self) -> None:
        """Keep the memory of the processes, which have ended and are in the image now."""

    def stored(self) -> Stored:
        """Return where it is; there are no files then without any of it. Only between these two."""

    async def rejoin(self, pids: Sequence[int]) -> None:
        """Give the restored processes, which are still stopped, the memory that the image has left out.

        Raises MemoryFailed, MemoryLost; the processes must not run then, and it can be retried with new ones.
        """


class Backend(ABC):
    """The memory of one container, over all of its sleeps; used by one trio task, except for `cut`.

    The default methods do nothing, for backends that move nothing or leave that part to the kernel.
    """

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """The kind of this backend."""

    @property
    def usage(self) -> Usage:
        return Usage()

    @property
    def left(self) -> Mapping[int, str]:
        """The processes whose memory the last move left in place while moving that of others, with the reason."""
        return {}

    @property
    def ran(self) -> bool:
        """Whether a process ran for a moment during the last move, because it could not be stopped."""
        return False

    @property
    def descriptors(self) -> frozenset[tuple[int, int]]:
        """The descriptors that it keeps open in the processes: (pid, number)."""
        return frozenset()

    async def move_out(self, pids: Sequence[int]) -> None:  # noqa: ARG002 - for those that move something
        """Move the memory of these frozen processes out; return when that is done or was cut.

        Works in a thread. Raises MemoryFailed. Cancellation has the effect of `cut`, and waits for the end.
        """
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:  # noqa: B027 - nothing goes on where nothing is moved
        """Make `move_out` end as soon as possible: the container is about to be thawed, or already is.

        Returns at once; may be called from the event loop at any time, even when no move is running.
        """

    def woke(self) -> None:  # noqa: B027 - nothing to do where the kernel brings pages in
        """Note that the container has been thawed, for longer than a nap. Returns at once."""

    async def settle(self) -> None:
        """Wait until `move_out` has ended completely: it stops or traces no process any more."""
        await trio.lowlevel.checkpoint()

    async def fill(self) -> None:
        """After a move, while the container is frozen, bring in the pages that the last wakes touched first."""
        await trio.lowlevel.checkpoint()

    async def bring_back(self) -> None:
        """Bring all memory back and detach from the processes, for a dump or another backend. Raises MemoryLost.

        Closes its descriptors in the processes if they are frozen. May be cancelled and called again.
        """
        await trio.lowlevel.checkpoint()

    async def leave(self, pids: Sequence[int]) -> LeftOut | None:  # noqa: ARG002 - for those that keep something
        """Prepare the frozen processes for a dump without the memory that is out; return None if that is impossible.

        On every outcome they can run on as before. Raises MemoryFailed, MemoryLost.
        """
        await trio.lowlevel.checkpoint()
        return None

    async def lost(self) -> str:
        """Wait until pages that are out cannot be read any more; return the reason."""
        await trio.sleep_forever()
        raise AssertionError("slept for ever")

    async def close(self) -> None:
        """Release everything: the processes have ended, or the shim is about to."""
        await trio.lowlevel.checkpoint()
