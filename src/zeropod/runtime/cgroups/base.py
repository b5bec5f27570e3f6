"""The interface of a cgroup, common to v1 and v2, and the code that both share."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import trio

from zeropod.rpc.messages import cgroups_v1_pb2, cgroups_v2_pb2

from .errors import CgroupError, FreezeTimeout
from .files import member_pids
from .tasks import Task, culprits, tasks_of

#: What containerd's task API calls stats: `io.containerd.cgroups.v1.Metrics` or its v2 sibling.
MetricsV1 = cgroups_v1_pb2.Metrics
MetricsV2 = cgroups_v2_pb2.Metrics
Metrics = MetricsV1 | MetricsV2

#: Attempts to find the tasks that keep a cgroup from freezing. A task that spins in the kernel, retrying to
#: wait for a page, appears to sleep at times, more often on a busy machine.
_LOOKS = 50


@dataclass(frozen=True, slots=True)
class SwapState:
    """How much of a cgroup's memory has moved to swap, in bytes.

    The kernel batches changes for each CPU (MEMCG_CHARGE_BATCH): up to 64 pages per CPU may be missing.
    """

    out: int = 0
    """In swap only."""
    cached: int = 0
    """In swap and in memory (the swap cache)."""
    writing: int = 0
    """Under writeback to a disk now, including pages of files."""
    present: int = 0
    """Anonymous and shared memory in page tables or tmpfs, without locked memory; may overlap with `cached`."""

    @property
    def may_go(self) -> int:
        """Bytes that reclaim could still free."""
        return self.cached + self.present


class Cgroup(ABC):
    """One container's cgroup: a directory in each mounted hierarchy (v1), or a single one (v2).

    It is known by its paths and stays usable after its processes, and even its directories, are gone.
    """

    #: States in which a task is certainly not frozen, while its cgroup is being frozen.
    _awake: ClassVar[frozenset[str]]

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = dict(directories)

    @property
    def paths(self) -> dict[str, str]:
        """Controller (`""` for v2) to directory, as in runc's state.json; `at` is the inverse."""
        return {controller: str(directory) for controller, directory in self._directories.items()}

    @property
    @abstractmethod
    def directory(self) -> Path:
        """The directory that stands for the cgroup in messages and whose processes count as its own."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"

    def pids(self) -> list[int]:
        """Return the processes in it and its sub-cgroups, ascending; empty if it is gone."""
        return member_pids(self.directory)

    async def freeze(self, deadline: float) -> None:
        """Freeze every task in it and its sub-cgroups; return when the kernel reports all of them frozen.

        `deadline` is an absolute trio time. On any failure, cancellation included, the cgroup is thawed. Raises
        FreezeTimeout, naming the tasks that did not freeze, or CgroupError if the node has no freezer, the cgroup is
        gone, or this very process is in it.
        """
        if os.getpid() in self.pids():
            # Nothing could thaw us again.
            raise CgroupError(f"cgroup {self.directory} holds this process itself and is not frozen")
        frozen = False
        before = []
        try:
            with trio.move_on_at(deadline):
                await self._freeze()
                frozen = True
            if not frozen:
                before = self._look_for_unfrozen()
        except OSError as error:
            raise CgroupError(f"cannot freeze cgroup {self.directory}: {error}") from error
        finally:
            if not frozen:
                self.thaw()
        if not frozen:
            after = tasks_of(self.pids())
            raise FreezeTimeout(str(self.directory), [str(task) for task in culprits(before, after, self._awake)])

    def _look_for_unfrozen(self) -> list[Task]:
        seen: list[Task] = []
        for _ in range(_LOOKS):
            seen += tasks_of(self.pids())
            if culprits(seen, (), self._awake):
                break
        return seen

    @abstractmethod
    async def _freeze(self) -> None:
        """Begin to freeze and wait until all tasks are frozen. Raises OSError."""

    @abstractmethod
    def thaw(self) -> None:
        """Let its tasks run again. Does nothing if it is not frozen or gone."""

    @abstractmethod
    def kill(self) -> bool:
        """Send SIGKILL to every process in it and its sub-cgroups, frozen or not; return whether there was any.

        Does not wait for their end; a process that was forking may have left a child. Raises OSError.
        """

    @abstractmethod
    def frozen(self) -> bool:
        """Return whether every task in it is frozen; a cgroup that is gone is not."""

    @abstractmethod
    def stats(self) -> Metrics:
        """Return what containerd's runc shim answers to Stats; fields that the kernel does not account are zero."""

    @abstractmethod
    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used so far, in seconds; 0 if it is gone."""

    def busy(self) -> bool:
        """Return whether a task in it is running, runnable (throttled or not), or waiting for a disk right now.

        Tasks in an interruptible sleep do not count."""
        return any(task.state in "RD" for task in tasks_of(self.pids()))

    @abstractmethod
    def resident_bytes(self) -> int:
        """Return the bytes that it keeps in memory even if it never runs again; 0 if it is gone.

        That is anonymous pages, shared memory and tmpfs files whether mapped or not, locked memory (mlock(2)), and huge
        pages; not the page cache, such as the programs' own files, which can be read again. Locked files count only as
        far as they exceed the unlocked rest: the kernel has one number for all locked memory. Up to 64 pages per CPU
        may be missing (MEMCG_CHARGE_BATCH).
        """

    @abstractmethod
    def swap_state(self) -> SwapState:
        """Return how much of its memory is in swap; all zero where swap is not accounted, or the cgroup is gone."""

    @abstractmethod
    def swap_room(self) -> int | None:
        """Return the bytes of swap that its ancestors' limits leave; None without a limit. Ignores its own limit."""

    @abstractmethod
    def swap_settings(self) -> dict[Path, str]:
        """Return its control files that forbid swap, with the values that allow it.

        Files that allow it already are left out. The caller restores the present values.
        """

    @abstractmethod
    def reclaim_to_swap(self, size: int, over: Callable[[], bool]) -> None:
        """Ask the kernel to reclaim anonymous and shared memory, `size` bytes where it takes a size (v2).

        Frees the swap cache and pages that several processes map, which madvise(2) both leaves. Spares the page cache
        as far as the kernel can be told; v1 turns to it once nothing else is left. Interrupted when `over` returns
        True, which is called repeatedly in another thread and should wait some milliseconds each time; on v1 it rarely
        ends otherwise. One call may free nothing, since the kernel ages pages first. Blocks: call it in a thread.
        Raises OSError.
        """

    @abstractmethod
    def oom_kills(self) -> int:
        """Return how many tasks the kernel has killed in it for lack of memory; 0 if it is gone.

        The kernel may notify a watcher up to 10 ms late (v2 rate-limits notifications), so call this when the
        container's first process has died, before its cgroup is removed.
        """

    @abstractmethod
    async def watch_oom(self, notify: Callable[[], None]) -> None:
        """Call `notify` whenever the kernel kills in it for lack of memory; return when the cgroup is gone.

        Earlier kills are reported at once, so that none is lost between start and watch. Several in a row may
        be reported as one. Returns immediately without a memory controller.
        """
