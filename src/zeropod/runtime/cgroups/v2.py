"""A cgroup on v2: one directory for everything, its freezer, its OOM notifications.

Kernel: Documentation/admin-guide/cgroup-v2.rst. What its statistics mean is `metrics_v2`'s business.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import trio

from zeropod.kernel import interruptible
from zeropod.rpc.messages import cgroups_v2_pb2

from .base import Cgroup, SwapState
from .change import Changes
from .files import huge_pages, is_absent, read, unless_absent, write
from .metrics_v2 import metrics
from .parse import flat_keyed, number
from .placement import UNIFIED

#: Seconds between checks whether an empty cgroup is gone: the kernel does not notify of a removal.
_EMPTY_LOOK_EVERY = 1.0


class CgroupV2(Cgroup):
    # A frozen task is in state S on v2; one in D that does not freeze is in D after the thaw, too.
    _awake = frozenset("R")

    @property
    def directory(self) -> Path:
        return self._directories[UNIFIED]

    async def _freeze(self) -> None:
        with Changes(self.directory, "cgroup.events") as changes:
            write(self.directory / "cgroup.freeze", "1")
            while not flat_keyed(events := changes.read("cgroup.events")).get("frozen"):
                if events is None:
                    raise FileNotFoundError("it was removed meanwhile")
                await changes.wait()

    def thaw(self) -> None:
        with unless_absent():
            write(self.directory / "cgroup.freeze", "0")

    def kill(self) -> bool:
        """See the base class. cgroup.kill is atomic: no process escapes by forking, and no pid can be reused."""
        populated = bool(self.pids())
        if populated:
            with unless_absent():
                write(self.directory / "cgroup.kill", "1")
        return populated

    def frozen(self) -> bool:
        return flat_keyed(read(self.directory / "cgroup.events")).get("frozen", 0) == 1

    def stats(self) -> cgroups_v2_pb2.Metrics:
        return metrics(self.directory)

    def cpu_seconds(self) -> float:
        return flat_keyed(read(self.directory / "cpu.stat")).get("usage_usec", 0) / 1e6

    def resident_bytes(self) -> int:
        stat = flat_keyed(read(self.directory / "memory.stat"))
        pages = max(stat.get("anon", 0) + stat.get("shmem", 0), stat.get("unevictable", 0))
        return pages + sum(huge_pages(self.directory, "current").values())

    def swap_state(self) -> SwapState:
        stat = flat_keyed(read(self.directory / "memory.stat"))
        cached = stat.get("swapcached", 0)
        present = stat.get("anon", 0) + stat.get("shmem", 0) - stat.get("unevictable", 0)
        return SwapState(
            # v2 counts every page that has a slot in swap, also while it is in memory.
            out=max(0, number(read(self.directory / "memory.swap.current")) - cached),
            cached=cached,
            # Includes the swap cache, despite the name.
            writing=stat.get("file_writeback", 0),
            present=max(0, present),
        )

    def swap_room(self) -> int | None:
        rooms = []
        for above in self.directory.parents:
            limit = read(above / "memory.swap.max")
            if limit is None:
                break
            if limit.strip() != "max":
                rooms.append(max(0, number(limit) - number(read(above / "memory.swap.current"))))
        return min(rooms, default=None)

    def swap_settings(self) -> dict[Path, str]:
        limit = self.directory / "memory.swap.max"
        stands = read(limit)
        return {} if stands is None or stands.strip() == "max" else {limit: "max"}

    def reclaim_to_swap(self, size: int, over: Callable[[], bool]) -> None:
        reclaim = self.directory / "memory.reclaim"
        # `swappiness` keeps the kernel from reclaiming page cache instead; older kernels reject it and reclaim both.
        for value in (f"{size} swappiness=200", str(size)):
            try:
                interruptible.write(reclaim, value, over)
            except OSError as error:
                if error.errno == errno.EINVAL and value != str(size):
                    continue
                # EAGAIN: the kernel reclaimed less than that.
                if error.errno != errno.EAGAIN and not is_absent(error):
                    raise
            return

    def oom_kills(self) -> int:
        return flat_keyed(read(self.directory / "memory.events")).get("oom_kill", 0)

    async def watch_oom(self, notify: Callable[[], None]) -> None:
        reported = 0
        try:
            changes = Changes(self.directory, "memory.events", "cgroup.events")
        except FileNotFoundError:
            return
        with changes:
            while (events := changes.read("memory.events")) is not None:
                killed = flat_keyed(events).get("oom_kill", 0)
                if killed > reported:
                    notify()
                reported = killed
                if flat_keyed(changes.read("cgroup.events")).get("populated"):
                    await changes.wait()
                else:
                    with trio.move_on_after(_EMPTY_LOOK_EVERY):
                        await changes.wait()
