"""Moves the memory of a sleeping container to the node's swap; the kernel brings back what is touched.

Owns one move in three steps, each of which ends within milliseconds of a cut:

1. Page out, about 1 MB per system call. That suffices for pages of one process where the swap is in memory (zram).
2. Wait for the disk, if the swap is on one: a page cannot be freed before it is written.
3. Reclaim through the cgroup, if anything is left: written pages stay in the swap cache and charged to the container,
   and step 1 skips pages that several processes map (shared memory, and pages not written to since a fork).

The cgroup may forbid swap (memory.swap.max 0 on v2, memory.swappiness 0 on v1), and then all three silently do nothing.
So the limit is raised before the first step and restored after the last: pages in swap stay there, and pages that come
back during a wake cannot be swapped again before the next move, which raises the limit again.

Afterwards the pages that the last wakes have touched are read in again, a megabyte or two (`touched` selects them): for
a request that needs a hundred pages, most of its latency would be a hundred sequential reads from the disk.

Nothing here requires the processes to be frozen; thawed ones fault their pages in again.
"""

import logging
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from zeropod.kernel import interruptible, mappings, memory_advice, pidfd, present_pages
from zeropod.runtime.cgroups import Cgroup

from .backend import Backend, Kind, MemoryFailed, Usage
from .limits import opened, restore_limits
from .touched import Touched

_log = logging.getLogger(__name__)

CHUNK: Final = 1 << 20
"""Bytes of present memory per system call: some 0.6 ms, for which a thawed process may have to wait."""

RECLAIM_CHUNK: Final = 8 << 20
"""Bytes to reclaim from the cgroup at once, where that takes a size (v2)."""

TOLERATED: Final = 1 << 20
"""Bytes that may stay in memory without another round."""

WRITING_TOLERATED: Final = 1 << 20
"""Bytes under writeback that are not waited for: they may belong to files."""

LOOK_EVERY: Final = 0.004
"""Seconds between two checks of the disk's progress."""

RECLAIM_LOOK_EVERY: Final = 0.0003
"""Seconds between two checks of what is left: v1 frees 4 MB per millisecond, and then turns to the page cache."""

WRITE_STALLED: Final = 1.0
"""Seconds without progress after which the wait for the disk ends."""

RECLAIM_SECONDS: Final = 20.0
"""Seconds after which reclaiming ends, whatever is left."""

FRUITLESS: Final = 6
"""Calls in a row that freed nothing after which reclaiming ends; the first ones often only age pages."""

FRUITLESS_PAUSE: Final = 0.02
"""Seconds to pause after one fruitless call; twice that after the second in a row, and so on."""

RECLAIM_STALLED: Final = 0.05
"""Seconds without progress after which a call is interrupted."""

PROGRESS: Final = 64 << 10
"""Bytes that count as progress."""

WORTH_A_FAILURE: Final = 16 << 20
"""Bytes that may stay in memory in any case; if more stays, and that is half of the memory, the move has failed."""

_UNMOVABLE: Final = frozenset({mappings.LOCKED, mappings.HUGE_TLB, mappings.IO, mappings.RAW_PAGES})


class SwapBackend(Backend):
    """One container's memory in swap. Made in the main thread, by the trio task that uses it.

    The kernel brings memory back when it is touched, also by a dump, and reports a failing swap device itself, with
    SIGBUS to the process. So this backend has nothing to bring back, and cannot lose memory.
    """

    def __init__(self, cgroup: Cgroup, record: Path) -> None:
        """Restore the limits in the record of a predecessor, if any. Raises OSError.

        `record` is the path for the former limits, in an existing directory; `restore_limits` reads it if we die.
        """
        self._cgroup = cgroup
        self._record = record
        self._moving: _Move | None = None
        self._settled = trio.Event()
        self._settled.set()
        self._written = 0
        self._touched: dict[int, Touched] = {}
        """By pid."""
        self._limiter = trio.CapacityLimiter(1)
        interruptible.prepare()
        restore_limits(record)

    @property
    def kind(self) -> Kind:
        return Kind.SWAP

    @property
    def usage(self) -> Usage:
        """What is out now by the cgroup's accounting; reads one or two of its files."""
        return Usage(out=self._cgroup.swap_state().out, written=self._written)

    async def move_out(self, pids: Sequence[int]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._touched = {pid: self._touched.get(pid, Touched()) for pid in pids}
        move = _Move(self._cgroup, self._record, self._touched)
        self._moving, self._settled = move, trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cut_when_cancelled, move)
                with trio.CancelScope(shield=True):
                    failure = await trio.to_thread.run_sync(move.run, tuple(pids), limiter=self._limiter)
                nursery.cancel_scope.cancel()
        finally:
            self._written = move.written
            self._moving = None
            self._settled.set()
        if failure is not None:
            raise failure

    def cut(self) -> None:
        if self._moving is not None:
            self._moving.cut.set()

    async def settle(self) -> None:
        await self._settled.wait()

    async def fill(self) -> None:
        wanted = {pid: touched.wanted() for pid, touched in self._touched.items()}
        await trio.to_thread.run_sync(_read_in, wanted, limiter=self._limiter)

    async def close(self) -> None:
        self.cut()
        await self.settle()
        restore_limits(self._record)


async def _cut_when_cancelled(move: "_Move") -> None:
    try:
        await trio.sleep_forever()
    finally:
        # Also cancelled at the end of the move, when a cut has no effect.
        move.cut.set()


def _pages(pieces: Iterable[present_pages.Ranges]) -> Iterator[int]:
    for piece in pieces:
        for start, end in piece:
            yield from range(start, end, present_pages.PAGE)


def _read_in(wanted: Mapping[int, Sequence[int]]) -> None:
    """Read pages (addresses by pid) in from swap. Pages that cannot be read now are read when touched."""
    for pid, addresses in wanted.items():
        # For a mapping of a file the advice applies to the file: private copies of its pages come in only when touched.
        with suppress(OSError):
            copies = [area for area in mappings.of(pid, sizes=False) if area.private and not area.anonymous]
            with pidfd.opened(pid) as handle:
                memory_advice.read_in(handle, [(address, address + present_pages.PAGE) for address in addresses])
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                for area in copies:
                    for address in addresses[bisect_left(addresses, area.start) : bisect_left(addresses, area.end)]:
                        os.pread(memory.fileno(), 1, address)


def _has_something(area: mappings.Area) -> bool:
    """Return whether a mapping may have pages for swap: anonymous or shared memory; a file's go back to the file."""
    if area.flags & _UNMOVABLE:
        return False
    if area.private:
        return area.size("Anonymous") > 0
    return area.shared_memory and area.size("Rss") > 0


class _Move:
    """One move, in a thread of its own. `cut` may be set by any thread."""

    def __init__(self, cgroup: Cgroup, record: Path, touched: Mapping[int, Touched]) -> None:
        self._cgroup = cgroup
        self._record = record
        self._touched = touched
        self.cut = threading.Event()
        self.written = 0

    def run(self, pids: Sequence[int]) -> MemoryFailed | None:
        """Move the memory of these processes; return a failure instead of raising it, which a nursery would wrap."""
        try:
            self._run(pids)
        except MemoryFailed as error:
            return error
        except OSError as error:
            failed = MemoryFailed(f"cannot move memory to swap: {error}")
            failed.__cause__ = error
            return failed
        return None

    def _run(self, pids: Sequence[int]) -> None:
        if self._cgroup.swap_room() == 0:
            raise MemoryFailed(f"a cgroup above {self._cgroup.directory} does not let it swap (memory.swap.max)")
        before = self._cgroup.swap_state()
        restore_limits(self._record)
        with opened(self._record, self._cgroup.swap_settings()):
            for pid in pids:
                # The process has ended, and its memory is free.
                with suppress(ProcessLookupError, FileNotFoundError):
                    self._page_out(pid)
            self._wait_for_the_disk()
            self._reclaim()
        after = self._cgroup.swap_state()
        self.written = max(0, after.out + after.cached - before.out - before.cached)
        if self.cut.is_set():
            return
        if after.present > max(WORTH_A_FAILURE, before.present // 2):
            raise MemoryFailed(
                f"{after.present >> 20} of {before.present >> 20} MiB could not be moved to swap; "
                "is it full (/proc/swaps)?"
            )
        if after.may_go > WORTH_A_FAILURE:
            _log.warning(
                "%s: %d MiB stay in memory, of which %d MiB are in swap already",
                *(self._cgroup.directory, after.may_go >> 20, after.cached >> 20),
            )

    def _page_out(self, pid: int) -> None:
        with pidfd.opened(pid) as handle, open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
            areas = [area for area in mappings.of(pid) if _has_something(area)]
            self._touched[pid].learn(_pages(self._present(pagemap.fileno(), areas)))
            for piece in self._present(pagemap.fileno(), areas):
                memory_advice.page_out(handle, piece)

    def _present(self, pagemap: int, areas: Sequence[mappings.Area]) -> Iterator[present_pages.Ranges]:
        """Yield the present pages in pieces of CHUNK, until a cut."""
        for area in areas:
            for piece in present_pages.pieces(pagemap, area.start, area.end, CHUNK, shared=not area.private):
                if self.cut.is_set():
                    return
                yield piece

    def _wait_for_the_disk(self) -> None:
        least, since = self._cgroup.swap_state().writing, time.monotonic()
        while least > WRITING_TOLERATED and time.monotonic() - since < WRITE_STALLED:
            if self.cut.wait(LOOK_EVERY):
                return
            writing = self._cgroup.swap_state().writing
            if writing < least:
                least, since = writing, time.monotonic()

    def _reclaim(self) -> None:
        until = time.monotonic() + RECLAIM_SECONDS
        left, fruitless = self._may_go(), 0
        while left > TOLERATED and fruitless < FRUITLESS and not self.cut.is_set() and time.monotonic() < until:
            self._cgroup.reclaim_to_swap(min(left, RECLAIM_CHUNK), self._stop_reclaiming())
            now = self._may_go()
            fruitless = 0 if now < left - PROGRESS else fruitless + 1
            left = min(left, now)
            # The kernel may be waiting for the disk.
            self.cut.wait(FRUITLESS_PAUSE * fruitless)

    def _stop_reclaiming(self) -> Callable[[], bool]:
        """Return the condition to end one call: a cut, nothing left, or no progress (v1 turns to page cache then)."""
        least, since = self._may_go(), time.monotonic()

        def over() -> bool:
            nonlocal least, since
            if self.cut.wait(RECLAIM_LOOK_EVERY):
                return True
            left, now = self._may_go(), time.monotonic()
            if left < least - PROGRESS:
                least, since = left, now
            return left <= TOLERATED or now - since > RECLAIM_STALLED

        return over

    def _may_go(self) -> int:
        return self._cgroup.swap_state().may_go
