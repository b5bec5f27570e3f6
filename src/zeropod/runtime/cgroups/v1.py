"""A cgroup on v1: one directory a controller, its freezer, its OOM notifications.

Kernel: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and memory.rst. What its statistics mean is
`metrics_v1`'s business. A hybrid node, v1 controllers beside an empty v2 tree, is a v1 node.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from zeropod.kernel import interruptible
from zeropod.rpc.messages import cgroups_v1_pb2

from .base import Cgroup, SwapState
from .files import huge_pages, is_absent, read, unless_absent, write
from .metrics_v1 import metrics
from .parse import flat_keyed, number

#: Hierarchies to read its processes from, in order of preference. The freezer's are those that a freeze stops.
_PREFERRED = ("freezer", "pids", "devices", "memory")

# A freeze takes 0.4 to 6 ms. trio cannot sleep for less than epoll's millisecond, so the first checks only yield
# to other trio tasks, about 50 µs each; later ones are a millisecond apart.
_EAGER_LOOKS = 20
_LOOK_EVERY = 0.001

#: Seconds by which events of a removed cgroup may be late: they come from kernel work queues.
_LAST_WORD = 0.1

#: The maximum of memory.swappiness: the kernel reclaims only anonymous and shared memory, while any is left.
#: With 0 it reclaims neither.
_MOST_SWAPPINESS = "200"


class CgroupV1(Cgroup):
    # Frozen tasks are in state D on v1, wherever they sleep.
    _awake = frozenset("RS")

    @property
    def directory(self) -> Path:
        for controller in _PREFERRED:
            if controller in self._directories:
                return self._directories[controller]
        return next(iter(self._directories.values()))

    def _file(self, controller: str, name: str) -> Path:
        directory = self._directories.get(controller)
        if directory is None:
            raise FileNotFoundError(
                f"the {controller} controller of cgroup v1 is not mounted, or not for this container"
            )
        return directory / name

    async def _freeze(self) -> None:
        state = self._file("freezer", "freezer.state")
        looks = 0
        write(state, "FROZEN")
        # Reading the state is what advances it from FREEZING to FROZEN.
        while state.read_text().strip() != "FROZEN":
            looks += 1
            if looks < _EAGER_LOOKS:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(_LOOK_EVERY)
                # Again, for tasks that could not stop at the first request.
                write(state, "FROZEN")

    def thaw(self) -> None:
        with unless_absent():
            write(self._file("freezer", "freezer.state"), "THAWED")

    def kill(self) -> bool:
        pids = self.pids()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # A task frozen by v1 does not die until thawed; with SIGKILL pending it then runs no more instructions.
        self.thaw()
        return bool(pids)

    def frozen(self) -> bool:
        return (self._text("freezer", "freezer.state") or "").strip() == "FROZEN"

    def stats(self) -> cgroups_v1_pb2.Metrics:
        return metrics(self._directories)

    def _text(self, controller: str, name: str) -> str | None:
        directory = self._directories.get(controller)
        return None if directory is None else read(directory / name)

    def cpu_seconds(self) -> float:
        return number(self._text("cpuacct", "cpuacct.usage")) / 1e9

    def resident_bytes(self) -> int:
        stat = flat_keyed(self._text("memory", "memory.stat"))
        pages = max(stat.get("total_rss", 0) + stat.get("total_shmem", 0), stat.get("total_unevictable", 0))
        directory = self._directories.get("hugetlb")
        return pages + (sum(huge_pages(directory, "usage_in_bytes").values()) if directory else 0)

    def swap_state(self) -> SwapState:
        stat = flat_keyed(self._text("memory", "memory.stat"))
        present = stat.get("total_rss", 0) + stat.get("total_shmem", 0) - stat.get("total_unevictable", 0)
        return SwapState(
            # v1 counts a page here only once it has left memory.
            out=stat.get("total_swap", 0),
            cached=stat.get("total_swapcached", 0),
            writing=stat.get("total_writeback", 0),
            present=max(0, present),
        )

    def swap_room(self) -> int | None:
        """Return None: v1 limits memory and swap together (memory.memsw), and swapped pages leave memory."""
        return None

    def swap_settings(self) -> dict[Path, str]:
        stands = self._text("memory", "memory.swappiness")
        if stands is None or stands.strip() == _MOST_SWAPPINESS:
            return {}
        return {self._file("memory", "memory.swappiness"): _MOST_SWAPPINESS}

    def reclaim_to_swap(self, size: int, over: Callable[[], bool]) -> None:  # noqa: ARG002 - v1 takes no size
        with unless_absent():
            interruptible.write(self._file("memory", "memory.force_empty"), "0", over)

    def oom_kills(self) -> int:
        return flat_keyed(self._text("memory", "memory.oom_control")).get("oom_kill", 0)

    async def watch_oom(self, notify: Callable[[], None]) -> None:
        """See the base class. The kernel propagates a parent's OOM to children; that counts too, as in containerd."""
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(self._file("memory", "memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if self.oom_kills():
                    notify()
                write(self._file("memory", "cgroup.event_control"), f"{event} {control}")
            finally:
                os.close(control)
            await self._oom_events(event, notify)
        except OSError as error:
            if not is_absent(error):
                raise
        finally:
            os.close(event)

    async def _oom_events(self, event: int, notify: Callable[[], None]) -> None:
        while True:
            await trio.lowlevel.wait_readable(event)
            signals = os.eventfd_read(event)
            if self._directories["memory"].is_dir():
                notify()
                continue
            # Removing the cgroup signals once, too. A further signal is an OOM just before the removal.
            with trio.move_on_after(_LAST_WORD):
                await trio.lowlevel.wait_readable(event)
                signals += os.eventfd_read(event)
            if signals > 1:
                notify()
            return
