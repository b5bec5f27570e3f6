"""One move of frozen processes' memory to the page store, in steps that can be cut at any moment.

Owns the order of the steps, which guarantees that no byte is lost. The rules:

1. A page is dropped only if it was stored since it last changed. Frozen processes can still change: system calls in
   progress complete when they are thawed in order to be stopped, and the kernel writes signal frames. So pages are
   write-protected before they are stored, and pages written to since then are not dropped. Where the kernel cannot tell
   (before Linux 6.7) memory is compared with what was stored.
2. A mapping is registered before anything in it is dropped, and a pager runs before anything is registered.
3. A page is marked as out before it is dropped. A page that is marked but still present is served all the same.
4. If the processes may have run between protecting pages and recording that, no page counts as unchanged next time.
5. A cut ends the step in progress. Pages stored but not in the index yet are deleted; dropped pages are out.

    open        stopped    a userfaultfd for each process that has none
    register    frozen     the mappings
    protect     frozen     which pages have to be stored
    store       frozen     in pieces of 1 MB; takes the longest
    index       frozen     a new pager with the new index
    drop        stopped    in pieces of 4 MB

Runs in a thread of its own. Other code may thaw the container at any moment; the move then stops.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from zeropod.kernel import userfault
from zeropod.kernel.present_pages import grouped
from zeropod.kernel.process_memory import RANGES, Buffer
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.backend import MemoryFailed, MemoryLost
from zeropod.runtime.memory.userfault import extents, mappings
from zeropod.runtime.memory.userfault.extents import Extent, Index
from zeropod.runtime.memory.userfault.freezer import Cut, Freezer
from zeropod.runtime.memory.userfault.holding import Hold
from zeropod.runtime.memory.userfault.holdings import Holdings, Member, Written
from zeropod.runtime.memory.userfault.mappings import PageMap
from zeropod.runtime.memory.userfault.opening import open_members
from zeropod.runtime.memory.userfault.piece import Piece
from zeropod.runtime.memory.userfault.ranges import (
    Range,
    divided,
    equal_pages,
    intersect,
    joined,
    pieces,
    subtract,
    together,
    total,
)
from zeropod.runtime.memory.userfault.recognition import recognise
from zeropod.runtime.memory.userfault.stopped import own_thread
from zeropod.runtime.memory.userfault.store import NewFile
from zeropod.runtime.pager.journal import IN, MISSING, OUTDATED

STORED_AT_ONCE: Final = 1 << 20
"""Bytes stored between two checks for a cut."""
DROPPED_AT_ONCE: Final = 4 << 20
"""Bytes dropped between two checks for a cut: about a millisecond."""
CALLS_AT_ONCE: Final = 24
"""Calls in the process between two checks for a cut: 20 to 40 µs each."""
CONFIRM_WITHIN: Final = 5.0
"""Seconds within which a pager, or its successor, must confirm a request; it takes 0.1 ms."""


WORTH_TELLING: Final = 1 << 20
"""Bytes of anonymous memory above which a process whose memory stays is reported."""


def _anonymous(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        return mappings.Status.of(pid).anonymous
    return 0


class Eviction:
    """One move."""

    def __init__(
        self,
        holdings: Holdings,
        freezer: Freezer,
        pids: Sequence[int],
        reserve: Callable[[int], str],
        minimum: int,
        piece: Piece | None = None,
        *,
        renews: bool = True,
    ) -> None:
        """Of everything, or of a `piece`. `renews`: write files again that are mostly out of date."""
        self._piece = piece
        self._renews = renews
        self.written = 0
        """Bytes that were stored."""
        self._hold = Hold(freezer, pids)
        self._left = self._hold.left
        self._holdings = holdings
        self._freezer = freezer
        self._pids = pids
        self._reserve = reserve
        self._minimum = minimum
        self._maps: dict[int, PageMap] = {}
        """By pid."""
        self._buffer: Buffer | None = None

    @property
    def left(self) -> dict[int, str]:
        """Return the processes whose memory stays, with the reason; without those that have next to none or ended."""
        return {pid: why for pid, why in self._left.items() if _anonymous(pid) >= WORTH_TELLING}

    @property
    def ran(self) -> bool:
        """Whether a process has run while others were stopped."""
        return self._hold.ran

    def run(self) -> None:
        """Do the whole move, or as much as a cut allows. Raises Cut, MemoryFailed, MemoryLost."""
        self._freezer.check_frozen()
        pids = self._large_enough()
        if not pids:
            return
        try:
            self._move(pids)
        finally:
            for pages in self._maps.values():
                pages.close()

    def _large_enough(self) -> list[int]:
        """Return the processes; none if all of them together are too small to be worth a pager."""
        size, pids = 0, []
        for pid in self._pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                status = mappings.Status.of(pid)
                if reason := status.obstacle:
                    self._left[pid] = reason
                    continue
                size += status.anonymous
                pids.append(pid)
        return pids if self._holdings.generation or size >= self._minimum else []

    def _move(self, pids: Sequence[int]) -> None:
        holdings = self._holdings
        holdings.look_for_members()
        if holdings.tracking:
            recognise(holdings.members, pids, self._map)
        known = {member.pid for member in holdings.members}
        new = open_members(holdings, self._hold, [pid for pid in pids if pid not in known])
        learn = True
        if new:
            holdings.replace(new, learn=learn, check=self._freezer.check)
            learn = False
        members = [member for member in holdings.movable() if member.pid in pids]
        self._freezer.check_frozen()
        members = [member for member in members if self._register(member)]
        if self._piece:
            members = self._piece.cut(members, lambda pid, ranges: self._map(pid).look(ranges).present)
        as_of = holdings.generation.pager.journal.event_count if holdings.generation else 0
        stored = self._store(members)
        faults = holdings.generation.pager.journal.faults if holdings.generation else 0
        if any(written.ranges for written in stored.values()) or (learn and faults):
            try:
                self._freezer.check_frozen()
                check = self._freezer.check
                if not holdings.replace(written=stored, as_of=as_of, learn=learn, check=check):
                    raise Cut
            finally:
                holdings.forget_files()
        self._freezer.check_frozen()
        own_thread(lambda: self._drop(members))
        self._freezer.wait_frozen()

    # Register, protect, store

    def _register(self, member: Member) -> bool:
        """Register the process's mappings; return whether any of its memory can be moved out."""
        modes = userfault.MISSING | (userfault.WRITES if self._holdings.tracking else 0)
        member.ranges = []
        try:
            found = mappings.movable(member.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        for start, end in found:
            # Registered by another userfaultfd (EBUSY), or a kind of memory that cannot be registered.
            with suppress(OSError):
                userfault.register(member.uffd, start, end - start, modes)
                member.ranges.append((start, end))
        self._freezer.check()
        return bool(member.ranges)

    def _map(self, pid: int) -> PageMap:
        if pid not in self._maps:
            self._maps[pid] = PageMap(pid, tracking=self._holdings.tracking)
        return self._maps[pid]

    def _store(self, members: Sequence[Member]) -> dict[int, Written]:
        """Write the pages that the store lacks or has outdated. Raises Cut, MemoryFailed."""
        stored: dict[int, Written] = {}
        wanted: dict[int, tuple[Member, list[Range], Index]] = {}
        renewed = self._sparse()
        for member in members:
            self._freezer.check()
            with suppress(FileNotFoundError, ProcessLookupError):
                changed = self._protect(member, renewed)
                copied = self._copied(member, changed, renewed)
                wanted[member.number] = member, changed, copied
        need = sum(total(changed) + total(copied.ranges) for _, changed, copied in wanted.values())
        if not need:
            return stored
        if refusal := self._reserve(need):
            raise MemoryFailed(refusal)
        if damage := self._holdings.store.damage():
            raise MemoryFailed(damage)
        self._buffer = self._buffer or Buffer(STORED_AT_ONCE)
        try:
            file = self._holdings.store.begin()
        except OSError as error:
            raise MemoryFailed(f"the page store cannot be written: {error}") from error
        try:
            for number, (member, changed, copied) in wanted.items():
                ranges = joined(sorted([*changed, *copied.ranges]))
                saved = self._save(member, changed, file)
                stored[number] = Written(ranges, extents.replaced(saved, (), self._copy(copied, file)))
            self._holdings.store.add(file)
        except OSError as error:
            file.abandon()
            raise MemoryFailed(f"the page store cannot be written: {error.strerror}") from error
        except BaseException:  # a cut, too: the file is deleted
            file.abandon()
            raise
        self.written = file.size
        return stored

    def _sparse(self) -> set[int]:
        """Return the files to write again, because most of their content is out of date."""
        store = self._holdings.store
        return store.outdated(self._holdings.live_bytes()) if store.files and self._renews else set()

    def _protect(self, member: Member, renewed: set[int]) -> list[Range]:
        """Write-protect the pages in memory; return those that have to be stored."""
        holdings, pages = self._holdings, self._map(member.pid)
        assert holdings.generation
        tracked, member.tracked = member.tracked and holdings.tracking, False
        written = pages.protect(member.ranges)
        present = pages.look(member.ranges).present
        self._freezer.check()
        current = holdings.index(member)
        if renewed:
            current = Index(extent for extent in current if extent.file not in renewed)
        self._freezer.check()
        unchanged: list[Range] = []
        space = holdings.generation.space(member)
        if tracked:
            unchanged = subtract(intersect(present, current.usable), written)
            for start, end in intersect(unchanged, current.missing):
                space.mark(start, end, IN)
        changed = subtract(present, unchanged)
        for start, end in changed:
            self._freezer.check()
            space.mark(start, end, OUTDATED)
        # Check only now: after a thaw the protected pages and the marked ones might differ.
        self._freezer.check_frozen()
        member.tracked = holdings.tracking
        return changed

    def _copied(self, member: Member, changed: Sequence[Range], renewed: set[int]) -> Index:
        """Return the pages to copy from older files, because they are not in memory."""
        if not renewed:
            return Index()
        old = (extent for extent in self._holdings.index(member) if extent.file in renewed)
        return Index(extents.without(old, changed))

    def _save(self, member: Member, changed: Sequence[Range], file: NewFile) -> Index:
        """Write these pages to the file; return where they are."""
        assert self._buffer
        found = Index()
        for group in grouped(changed, STORED_AT_ONCE, RANGES):
            while group:
                self._freezer.check()
                try:
                    data = self._buffer.read(member.pid, group)
                except ProcessLookupError:
                    return found
                except OSError:
                    data = memoryview(b"")
                data = data[: len(data) & -PAGE]
                offset = file.append(data)
                group, done = divided(group, len(data))
                for start, end in done:
                    found.append(Extent(start, end, file.number, offset, bytes([IN]) * ((end - start) // PAGE)))
                    offset += end - start
                # A page that cannot be read stays where it is.
                group = subtract(group, [(group[0][0], group[0][0] + PAGE)]) if group else []
        return found

    def _copy(self, copied: Iterable[Extent], file: NewFile) -> Index:
        """Copy pages that are out from older files to the file; return where they are."""
        found = Index()
        for extent in copied:
            source = self._holdings.store.files[extent.file].descriptor
            for start in range(extent.start, extent.end, STORED_AT_ONCE):
                self._freezer.check()
                part = extent.part(start, min(extent.end, start + STORED_AT_ONCE))
                data = os.pread(source, part.end - part.start, part.offset)
                if len(data) != part.end - part.start:
                    raise MemoryFailed("a file of the page store was cut short")
                found.append(part._replace(file=file.number, offset=file.append(data)))
        return found

    # Drop

    def _drop(self, members: Sequence[Member]) -> None:
        """Stop the processes and drop the pages that are stored."""
        generation = self._holdings.generation
        assert generation
        with self._hold.stopped() as injections:
            by_pid = {injection.pid: injection for injection in injections}
            chosen = [member for member in members if member.pid in by_pid]
            numbers = [member.number for member in chosen]
            try:
                if not generation.pager.move(numbers, begins=True, patience=CONFIRM_WITHIN):
                    raise MemoryFailed("the pager does not answer")
                for member in chosen:
                    injection = by_pid[member.pid]
                    spared = joined((page, page + PAGE) for page in sorted(injection.kept_pages))
                    for groups in together(self._droppable(member, spared), DROPPED_AT_ONCE, CALLS_AT_ONCE):
                        self._freezer.check()
                        for start, end in (part for group in groups for part in group):
                            generation.space(member).mark(start, end, MISSING)
                        pages = sum(map(total, groups)) // PAGE
                        generation.dropped += pages
                        try:
                            injection.drop([(group[0][0], group[-1][1] - group[0][0]) for group in groups])
                        except OSError as error:
                            # It has ended, or the mapping is sealed. Pages that are marked but present do no harm.
                            generation.dropped -= pages
                            self._left[member.pid] = f"does not drop its memory: {error.strerror}"
                            if isinstance(error, ProcessLookupError | TimeoutError):
                                break
            finally:
                if not generation.pager.move(numbers, begins=False, patience=CONFIRM_WITHIN):
                    # It would mistake the application's discards for ours, and bring the old content back.
                    raise MemoryLost("the pager does not answer")

    def _droppable(self, member: Member, spared: Sequence[Range]) -> Iterator[list[Range]]:
        """Yield pages whose content in the store is current, in groups that one call drops."""
        found = self._map(member.pid).look(member.ranges)
        self._freezer.check()
        index = self._holdings.index(member)
        self._freezer.check()
        usable = intersect(found.present, index.usable)
        wanted = subtract(subtract(usable, found.stay), spared)
        if not self._holdings.tracking:
            wanted = self._as_stored(member, index, wanted)
        # Pages of zeroes may be dropped with their neighbours, unless the index has other content for them.
        zero = intersect(found.zero, index.ranges)
        kept = joined(sorted([*subtract(found.present, wanted), *found.stay, *spared, *zero]))
        return pieces(wanted, kept, member.ranges, DROPPED_AT_ONCE)

    def _as_stored(self, member: Member, index: Index, wanted: Sequence[Range]) -> list[Range]:
        """Return those of these pages that equal their stored content, by comparison."""
        if self._buffer is None:
            return []
        result: list[Range] = []
        for extent in extents.without(index, subtract([(0, 1 << 64)], wanted)):
            if not self._holdings.store.files[extent.file].complete:
                continue  # what has not arrived would be compared as zeroes
            source = self._holdings.store.files[extent.file].descriptor
            for start in range(extent.start, extent.end, STORED_AT_ONCE):
                self._freezer.check()
                part = extent.part(start, min(extent.end, start + STORED_AT_ONCE))
                now = bytes(self._buffer.read(member.pid, [(part.start, part.end)]))
                then = os.pread(source, part.end - part.start, part.offset)
                result += ((start + low, start + high) for low, high in equal_pages(now, then))
        return joined(result)
