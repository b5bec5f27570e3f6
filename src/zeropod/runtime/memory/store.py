"""The page store as a backend: memory in zeropod's files, brought back by a pager when it is touched.

Owns the trio side of one container's move, wake and end: a thread for each move, a task that supervises the pager, and
the report when memory is lost. `userfault.eviction` has the order of a move, `runtime.pager` serves the page faults.
After a thaw pages are brought in only when touched; the rest stays out and saves memory while the container is awake.
The price: first-time accesses to new memory of a mapping go to the pager, too, and block while no pager lives;
`bring_back` ends that. (Unregistering a mapping once all of it is in would lose the record of its unchanged pages, and
the next sleep would write them all again.)
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from zeropod.concurrency import TaskStarter
from zeropod.kernel import userfault
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.cgroups import Cgroup
from zeropod.runtime.memory.backend import (
    Backend,
    Kind,
    LeftOut,
    MemoryFailed,
    MemoryLost,
    Usage,
    bring_back_within,
)
from zeropod.runtime.memory.userfault import mappings
from zeropod.runtime.memory.userfault.cold import Carried, InStore, leave
from zeropod.runtime.memory.userfault.eviction import Eviction
from zeropod.runtime.memory.userfault.freezer import Cut, Freezer
from zeropod.runtime.memory.userfault.holding import Hold
from zeropod.runtime.memory.userfault.holdings import Holdings
from zeropod.runtime.memory.userfault.piece import Piece
from zeropod.runtime.memory.userfault.stopped import own_thread
from zeropod.runtime.memory.userfault.store import PageStore
from zeropod.runtime.pager import Pager, PagerLost, WorkingSet

MINIMUM: Final = 16 << 20
"""Bytes of anonymous memory below which a container is not moved: a pager takes some 2 MB itself."""
LOOK: Final = 10.0
"""Seconds between two checks that the files are unchanged."""
SWITCH: Final = 0.00005
"""The interpreter's thread switch interval during a move, in seconds: a thaw makes some ten system calls, and may have
to wait this long after each."""
UNREGISTERINGS: Final = 5
"""How often the mappings are read again: the application runs and may change them meanwhile."""


class StoreBackend(Backend):
    """The memory of one container, over all of its sleeps."""

    def __init__(
        self,
        directory: Path,
        cgroup: Cgroup,
        nursery: TaskStarter,
        *,
        say: Callable[[str], None],
        reserve: Callable[[int], str],
        minimum: int = MINIMUM,
    ) -> None:
        """Empty the directory, which only this container uses; the nursery supervises the pagers.

        `reserve` gets the number of bytes about to be written, and returns why they must not be, or an empty string.
        Raises OSError.
        """
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._reserve = reserve
        self._minimum = minimum
        self._say = say
        self._freezer = Freezer(cgroup)
        self._holdings = Holdings(PageStore(directory), self._started, say)
        self._limiter = trio.CapacityLimiter(1)
        self._idle = trio.Event()
        self._idle.set()
        self._written = 0
        self._lost = ""
        self._is_lost = trio.Event()
        self._closed = False
        self._left: Mapping[int, str] = {}
        self._ran = False
        self.renews = True
        """Whether moves write files again that are mostly out of date; what waits for a move may not wait for that."""

    @property
    def kind(self) -> Kind:
        return Kind.STORE

    @property
    def usage(self) -> Usage:
        """What it has done; takes microseconds."""
        generation = self._holdings.generation
        if generation is None or generation.pager.ended:
            return Usage(written=self._written)
        journal = generation.pager.journal
        return Usage(generation.pages_out * PAGE, self._written, journal.faults, journal.pages_brought * PAGE)

    @property
    def left(self) -> Mapping[int, str]:
        return self._left

    @property
    def ran(self) -> bool:
        return self._ran

    @property
    def descriptors(self) -> frozenset[tuple[int, int]]:
        """The userfaultfds that it keeps in the processes, and in their children that have inherited them."""
        numbers = set(self._holdings.kept.values())
        return frozenset(
            (pid, number) for pid in self._freezer.cgroup.pids() for number in numbers if _is_userfaultfd(pid, number)
        )

    async def move_out(self, pids: Sequence[int]) -> None:
        """See the base class. Raises MemoryFailed, MemoryLost."""
        await self._move(pids, None)

    async def move_piece(self, pids: Sequence[int], piece: Piece) -> None:
        """Move a part of the memory out, as `move_out` does with all of it. Raises MemoryFailed, MemoryLost."""
        await self._move(pids, piece)

    async def _move(self, pids: Sequence[int], piece: Piece | None) -> None:
        if self._lost:
            raise MemoryLost(self._lost)
        if self._closed or not self._idle.is_set():
            raise MemoryFailed("its memory is being moved already, or it is closed")
        self._freezer.begin()
        self._idle = trio.Event()
        eviction = Eviction(
            self._holdings, self._freezer, tuple(pids), self._reserve, self._minimum, piece, renews=self.renews
        )
        result: list[BaseException | None] = []
        finished = trio.Event()
        self._nursery.start_soon(self._in_thread, eviction, result, finished)
        try:
            await finished.wait()
        finally:
            if not finished.is_set():
                self.cut()
                with trio.CancelScope(shield=True):
                    await finished.wait()
        if error := result[0]:
            raise error

    async def _in_thread(self, eviction: Eviction, result: list[BaseException | None], finished: trio.Event) -> None:
        error: BaseException | None = None
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(_run, eviction), limiter=self._limiter)
        except (MemoryFailed, MemoryLost) as failure:
            error = failure
            if isinstance(failure, MemoryLost):
                self._declare_lost(str(failure))
        except OSError as failure:
            error = MemoryFailed(f"its memory cannot be moved out: {failure}")
        finally:
            self._written, self._left, self._ran = eviction.written, eviction.left, eviction.ran
            result.append(error)
            finished.set()
            self._idle.set()

    def cut(self) -> None:
        self._freezer.cut()

    async def settle(self) -> None:
        await self._idle.wait()

    def woke(self) -> None:
        if (generation := self._holdings.generation) and not generation.pager.ended:
            generation.pager.wake()

    async def fill(self) -> None:
        if (generation := self._holdings.generation) and not generation.pager.ended:
            await generation.pager.fill()

    async def bring_back(self) -> None:
        """See the base class; the processes may be frozen or run. Raises MemoryLost."""
        await self.settle()
        if self._lost:
            raise MemoryLost(self._lost)
        generation = self._holdings.generation
        if generation is None:
            return
        pager = generation.pager
        out = self.usage.out
        pager.drain()
        with trio.move_on_after(bring_back_within(out)) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_lost, nursery.cancel_scope)
                await pager.drained()
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            raise MemoryLost(
                f"the pager has not brought everything in within {bring_back_within(out):.0f} s: of {out >> 20} MiB "
                f"{self.usage.out >> 20} are still out"
            )
        if self._is_lost.is_set():
            raise MemoryLost(self._lost)
        await trio.to_thread.run_sync(self._unregister, limiter=self._limiter)
        await pager.kill()
        self._holdings.generation = None
        self._holdings.forget_files()
        if self._freezer.cgroup.frozen():
            self._freezer.begin()
            await trio.to_thread.run_sync(own_thread, self._take_descriptors_back, limiter=self._limiter)

    async def leave(self, pids: Sequence[int]) -> LeftOut | None:
        """See the base class: pages in the store stay there. Raises MemoryFailed, MemoryLost."""
        await self.settle()
        if self._lost:
            raise MemoryLost(self._lost)
        if not self.usage.out:
            return None
        self._freezer.begin()
        carried = await trio.to_thread.run_sync(partial(self._leave, tuple(pids)), limiter=self._limiter)
        return None if carried is None else InStore(self._holdings, carried, self._limiter)

    def _leave(self, pids: Sequence[int]) -> Carried | None:
        try:
            with suppress(Cut):
                return own_thread(lambda: leave(self._holdings, self._freezer, pids))
        except OSError as error:
            raise MemoryFailed(f"its processes cannot be made ready for a dump: {error}") from error
        return None

    def adopt(self, files: PageStore, carried: Carried, working_set: WorkingSet) -> InStore:
        """Take over the files of another container's store; return its memory, for processes that were restored.

        They have this backend's cgroup, and its own store is empty.
        """
        self._holdings.store = files
        self._holdings.working_set = working_set
        return InStore(self._holdings, carried, self._limiter)

    async def _until_lost(self, scope: trio.CancelScope) -> None:
        await self.lost()
        scope.cancel()

    def _unregister(self) -> None:
        """Unregister every mapping. Repeated, to find mappings that were made or moved during the first pass."""
        generation = self._holdings.generation
        assert generation
        pids = self._freezer.cgroup.pids()
        uffds = list(generation.pager.guards.values())
        for _ in range(UNREGISTERINGS):
            found = False
            for pid in pids:
                ranges: list[tuple[int, int]] = []
                with suppress(FileNotFoundError, ProcessLookupError):
                    ranges = mappings.registered(pid)
                for start, end in ranges:
                    found = True
                    for uffd in uffds:
                        # Registered by another process's or the application's own userfaultfd, not by this one.
                        with suppress(OSError):
                            userfault.unregister(uffd, start, end - start)
            if not found:
                return

    def _take_descriptors_back(self) -> None:
        """Make the frozen processes close the userfaultfds left in them, which CRIU cannot dump."""
        kept = self.descriptors
        if not kept:
            return
        freezer = self._freezer
        # A process that cannot be stopped keeps its userfaultfd, which the check before a dump reports.
        with suppress(Cut, MemoryFailed):
            with Hold(freezer).stopped() as injections:
                for injection in injections:
                    for pid, number in kept:
                        if pid == injection.pid:
                            injection.close_descriptor(number)
            freezer.wait_frozen()
            self._holdings.kept.clear()

    async def lost(self) -> str:
        while not self._lost:
            with trio.move_on_after(LOOK):
                await self._is_lost.wait()
            generation = self._holdings.generation
            if generation and not generation.pager.ended and (damage := generation.pager.damage()):
                self._declare_lost(damage)
        return self._lost

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            self.cut()
            await self.settle()
            self._closed = True
            if self._holdings.generation:
                await self._holdings.generation.pager.kill()
            self._holdings.close()

    def _started(self, pager: Pager) -> None:
        """Start the supervision of a pager. Called in the thread that moves."""
        self._token.run_sync_soon(self._nursery.start_soon, self._look_after, pager)

    async def _look_after(self, pager: Pager) -> None:
        try:
            await pager.run()
        except PagerLost as reason:
            self._declare_lost(str(reason))

    def _declare_lost(self, reason: str) -> None:
        if not self._lost and not self._closed:
            self._lost = reason
            self._is_lost.set()


def _is_userfaultfd(pid: int, number: int) -> bool:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/fd/{number}") == "anon_inode:[userfaultfd]"
    return False


def _run(eviction: Eviction) -> None:
    with suppress(Cut), _switching_often():
        eviction.run()


@contextmanager
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
