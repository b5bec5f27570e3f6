"""What every cgroup can do, whichever version the node has, and the parts that do not depend on it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import trio

from zeropod.rpc.messages import cgroups_v1_pb2, cgroups_v2_pb2

from .errors import CgroupError, FreezeTimeout
from .files import member_pids, remove_tree
from .tasks import Task, culprits, tasks_of

#: What containerd's task API calls stats: `io.containerd.cgroups.v1.Metrics` or its v2 sibling.
MetricsV1 = cgroups_v1_pb2.Metrics
MetricsV2 = cgroups_v2_pb2.Metrics
Metrics = MetricsV1 | MetricsV2

#: Looks at the tasks of a cgroup that does not freeze, until one of them shows. A task that spins in the kernel,
#: trying over and over to wait for a page, seems asleep now and then, and more often on a busy machine.
_LOOKS = 50


@dataclass(frozen=True, slots=True)
class SwapState:
    """How far the memory of a cgroup is on its way to swap, in bytes.

    The kernel keeps some changes back for each CPU (MEMCG_CHARGE_BATCH): up to 64 pages a CPU may be missing.
    """

    out: int = 0
    """In swap and nowhere else."""
    cached: int = 0
    """In swap, and in memory still or again."""
    writing: int = 0
    """On its way to a disk now, of files also."""
    present: int = 0
    """Anonymous and shared memory in page tables or tmpfs, without what is locked; may overlap with `cached`."""
    charged: int = 0
    """All that is charged to it, page cache included."""

    @property
    def may_go(self) -> int:
        """What reclaiming could still give back."""
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
        """Controller (`""` for v2) to directory, as in runc's state.json; `at` is the way back."""
        return {controller: str(directory) for controller, directory in self._directories.items()}

    @property
    @abstractmethod
    def directory(self) -> Path:
        """The directory that stands for the cgroup in messages and whose processes count as its own."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"

    def exists(self) -> bool:
        """Whether a directory of it is left in any hierarchy."""
        return any(directory.is_dir() for directory in self._directories.values())

    def pids(self) -> list[int]:
        """Processes in it and its sub-cgroups, ascending; empty if it is gone."""
        return member_pids(self.directory)

    async def freeze(self, deadline: float) -> None:
        """Stop every task in it and its sub-cgroups; return when the kernel says that all of them stand
        still.

        `deadline` is an absolute trio time (`trio.current_time() + seconds`). Whatever goes wrong,
        cancellation included, the cgroup is thawed. Raises FreezeTimeout, naming the tasks that did not
        freeze, or CgroupError if there is no freezer, the cgroup is gone, or this very process is in it.
        """
        if os.getpid() in self.pids():
            # Nobody would be left to thaw us.
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
        """Begin to freeze and wait until it is done. Raises OSError."""

    @abstractmethod
    def thaw(self) -> None:
        """Let its tasks run again, at once. Does nothing if they already do or the cgroup is gone."""

    @abstractmethod
    def kill(self) -> bool:
        """End every process in it and its sub-cgroups by SIGKILL, frozen or not. Return whether there was any.

        They are gone a moment later; one that was forking may have left another. Raises OSError.
        """

    @abstractmethod
    def frozen(self) -> bool:
        """Whether every task in it stands still; a cgroup that is gone is not frozen."""

    @abstractmethod
    def stats(self) -> Metrics:
        """What containerd's runc shim answers to Stats. What the kernel does not account is left at zero."""

    @abstractmethod
    def cpu_seconds(self) -> float:
        """CPU time that it has used so far, in seconds; 0 if it is gone."""

    def busy(self) -> bool:
        """Whether right now a task of it runs, waits for its turn on a CPU (also for the end of a throttle), or for a
        disk. A task that only ever waits for others does not."""
        return any(task.state in "RD" for task in tasks_of(self.pids()))

    @abstractmethod
    def memory_current(self) -> int:
        """Bytes charged to it, page cache included; 0 if it is gone."""

    @abstractmethod
    def resident_bytes(self) -> int:
        """Bytes that it keeps in memory even if it never runs again; 0 if it is gone.

        Anonymous pages, shared memory and files in tmpfs whether or not a process has looked at them, what is locked
        (mlock(2)), and huge pages; not the page cache, which can be read again, such as the programs' own files.
        Locked files count only as far as they exceed the unlocked rest: the kernel has one number for all that is
        locked. Up to 64 pages a CPU may be missing (MEMCG_CHARGE_BATCH).
        """

    @abstractmethod
    def reclaim(self, size: int) -> None:
        """Asks the kernel to take back up to `size` bytes: page cache, and where there is swap other pages, too.

        That there was less to take is no error; v1 does nothing, since it cannot be asked.
        Blocks while the kernel works, up to some seconds where it swaps: call it in a thread. Raises OSError.
        """

    @abstractmethod
    def swap_state(self) -> SwapState:
        """How much of its memory is in swap; all zero where nothing accounts it, or the cgroup is gone."""

    @abstractmethod
    def swap_room(self) -> int | None:
        """Bytes that cgroups above it let it put into swap; None if they set no bound. Its own limit does not count."""

    @abstractmethod
    def swap_settings(self) -> dict[Path, str]:
        """Control files of its own that stand against swap, with what opens them.

        A file that stands so already is left out; what stands there now is the caller's to put back.
        """

    @abstractmethod
    def reclaim_to_swap(self, size: int, over: Callable[[], bool]) -> None:
        """Ask the kernel to take back anonymous and shared memory, `size` bytes where it takes a size (v2).

        Gives back what waits in the swap cache and what several processes map, both of which madvise(2) leaves. Page
        cache is spared as far as the kernel can be told; v1 gets at it once nothing else is left. Ends when `over`,
        called in another thread time and again, says so (it should wait some milliseconds first); v1 hardly ends
        otherwise. One call may free nothing: the kernel looks at pages twice. Blocks: call it in a thread. Raises
        OSError.
        """

    @abstractmethod
    def oom_kills(self) -> int:
        """How many tasks the kernel has killed in it for lack of memory; 0 if it is gone.

        The kernel may tell a watcher up to 10 ms late (on v2 it spaces its notifications), so this is what to ask
        when the container's first process has died, before its cgroup is removed.
        """

    @abstractmethod
    async def watch_oom(self, notify: Callable[[], None]) -> None:
        """Call `notify` whenever the kernel kills in it for lack of memory; return when the cgroup is gone.

        Kills from before the call are reported at once, so that none is lost between start and watch. Several
        in a row may be reported as one. Returns immediately where the kernel cannot tell (no memory
        controller).
        """

    def remove(self) -> bool:
        """Thaw it and remove its directories, for what a dead shim left behind. True if nothing is left.

        One pass, no waiting: processes must have been killed before, and one that has only just died may
        still hold its cgroup (then the answer is False: try again).
        """
        self.thaw()
        gone = [remove_tree(directory) for directory in self._directories.values()]
        return all(gone)
