"""One process's memory for its pager: the source of each page, and whether it is in.

Owns the table of runs, and its changes when the process unmaps, moves or discards memory, or forks. Pages outside of
the table are zero. `serve` does the copying. The shim builds the same tables from the same journal (`Spaces.catch_up`),
to know where pages are before it moves memory out again.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from mmap import mmap

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.pagemap import Image, Runs
from zeropod.runtime.pager.journal import IN, MISSING, Event, Journal, Kind
from zeropod.runtime.pager.pages import source as pages_source

Piece = tuple[int, int, int, int]
"""(start, end, source, number of the first page's state)."""


class Space:
    """Sorted runs of pages: parallel arrays, since Python objects would take ten times the memory."""

    def __init__(self, number: int, pid: int, states: mmap, pages: int) -> None:
        self.number = number
        self.pid = pid
        """CRIU's pid; 0 for a process that was forked since."""
        self.states = states
        self.pages = pages
        self.starts = array("Q")
        self.ends = array("Q")
        self.sources = array("Q")
        """The place of the first page's content (see `pages`)."""
        self.firsts = array("Q")
        """Number of the first page's state."""
        self.cursor = 0
        """The drain has passed all pages below this address."""
        self.gone = False
        """Whether the address space has ended; its states must not be read then."""

    def add(self, start: int, end: int, source: int, first: int) -> None:
        at = bisect_right(self.starts, start)
        self.starts.insert(at, start)
        self.ends.insert(at, end)
        self.sources.insert(at, source)
        self.firsts.insert(at, first)

    def find(self, address: int) -> tuple[int, int]:
        """Return (source, number of its state) of the page at an address; (-1, -1) if it is not in the image."""
        at = bisect_right(self.starts, address) - 1
        if at < 0 or address >= self.ends[at]:
            return -1, -1
        offset = address - self.starts[at]
        return self.sources[at] + offset, self.firsts[at] + offset // PAGE

    def unknown_after(self, address: int, limit: int) -> int:
        """Return how many pages behind this one, which is not in the image, are in an aligned block of `limit` + 1 and
        not in the image either."""
        at = bisect_right(self.starts, address)
        end = address - address % ((limit + 1) * PAGE) + (limit + 1) * PAGE
        return (min(end, self.starts[at]) if at < len(self.starts) else end) // PAGE - address // PAGE - 1

    def around(self, address: int, ahead: int) -> tuple[int, int, int, int]:
        """Return the missing pages around one in an aligned block of `ahead`, contiguous in memory and in the file:
        (address, source, number of the first state, pages); 0 pages if it is not in the image."""
        at = bisect_right(self.starts, address) - 1
        if at < 0 or address >= self.ends[at]:
            return 0, 0, 0, 0
        start = self.starts[at]
        low = max(start, address - address % (ahead * PAGE))
        high = min(self.ends[at], low - low % (ahead * PAGE) + ahead * PAGE)
        first = self.firsts[at] + (low - start) // PAGE
        before = (address - low) // PAGE
        states = self.states[first : first + (high - low) // PAGE]
        begin = before - len(states[:before]) + len(states[:before].rstrip(b"\0"))
        after = states[before + 1 :]
        pages = before + 1 - begin + len(after) - len(after.lstrip(b"\0"))
        return low + begin * PAGE, self.sources[at] + low + begin * PAGE - start, first + begin, pages

    def count_missing(self, start: int = 0, end: int = 1 << 64) -> int:
        """Return how many of the pages in [start, end) are missing."""
        count = 0
        for at in range(max(0, bisect_right(self.starts, start) - 1), len(self.starts)):
            low, high = max(start, self.starts[at]), min(end, self.ends[at])
            if self.starts[at] >= end:
                break
            if low < high:
                first = self.firsts[at] + (low - self.starts[at]) // PAGE
                count += self.states[first : first + (high - low) // PAGE].count(MISSING)
        return count

    def mark(self, start: int, end: int, state: int) -> None:
        """Set the state of every page in [start, end) that is in the image."""
        for at in range(max(0, bisect_right(self.starts, start) - 1), len(self.starts)):
            low, high = max(start, self.starts[at]), min(end, self.ends[at])
            if self.starts[at] >= end:
                break
            if low < high:
                first, pages = self.firsts[at] + (low - self.starts[at]) // PAGE, (high - low) // PAGE
                self.states[first : first + pages] = bytes([state]) * pages

    def missing(self, limit: int) -> tuple[int, int, int, int]:
        """Return the next run of missing pages from the cursor on, of at most `limit` pages.
        The result is (address, source, number of its first state, pages); 0 pages if all are in."""
        at = max(0, bisect_right(self.starts, self.cursor) - 1)
        for at in range(at, len(self.starts)):  # noqa: B020 - from there on
            start, first = self.starts[at], self.firsts[at]
            skip = max(0, self.cursor - start) // PAGE
            pages = (self.ends[at] - start) // PAGE
            if skip < pages and (found := self.states.find(b"\0", first + skip, first + pages)) >= 0:
                states = self.states[found : min(first + pages, found + limit)]
                address = start + (found - first) * PAGE
                self.cursor = address
                count = len(states) - len(states.lstrip(b"\0"))
                return address, self.sources[at] + address - start, found, count
        self.cursor = 1 << 64
        return 0, 0, 0, 0

    def cut(self, start: int, end: int) -> list[Piece]:
        """Remove the pieces in [start, end) and return them."""
        taken: list[Piece] = []
        at = max(0, bisect_right(self.starts, start) - 1)
        while at < len(self.starts) and self.starts[at] < end:
            low, high, source, first = self.starts[at], self.ends[at], self.sources[at], self.firsts[at]
            if high <= start:
                at += 1
                continue
            for column in (self.starts, self.ends, self.sources, self.firsts):
                del column[at]
            inner, outer = max(low, start), min(high, end)
            taken.append((inner, outer, source + inner - low, first + (inner - low) // PAGE))
            if low < start:
                self.add(low, start, source, first)
                at += 1
            if end < high:
                self.add(end, high, source + end - low, first + (end - low) // PAGE)
                break
        return taken

    def move(self, start: int, to: int, length: int) -> None:
        """Apply mremap(2): the pages at `start` are at `to` now."""
        pieces = self.cut(start, start + length)
        self.cut(to, to + length)
        for low, high, source, first in pieces:
            self.add(low - start + to, high - start + to, source, first)
        self.cursor = 0

    def fork(self, number: int, states: mmap) -> "Space":
        """Return the space of a forked child, in which the same pages are missing; they change independently."""
        child = Space(number, 0, states, self.pages)
        child.starts, child.ends = self.starts[:], self.ends[:]
        child.sources, child.firsts = self.sources[:], self.firsts[:]
        return child


class Spaces:
    """Every address space that the pager serves or has served, by number; determined by the journal's events."""

    def __init__(self, image: Image, files: Sequence[int], journal: Journal) -> None:
        """`files` has the number of each of the image's files in sources."""
        self._image = image
        self._files = files
        self._journal = journal
        self._applied = 0
        self.all: list[Space] = []
        self.catch_up()

    def catch_up(self) -> None:
        """Apply the events that another process has recorded."""
        for event in self._journal.events(self._applied):
            self.apply(event, again=True)
            self._applied += 1

    def happen(self, events: Iterable[Event]) -> bool:
        """Apply and record events; return False if one could not be recorded."""
        recorded = True
        for event in events:
            self.apply(event)
            self._applied += 1
            recorded = self._journal.record(event) and recorded
        return recorded

    def apply(self, event: Event, *, again: bool = False) -> None:
        match event.kind:
            case Kind.ADOPT:
                self.all.append(self._restored(len(self.all), event.first, again))
            case Kind.FORK:
                parent = self.all[event.space]
                states = self._journal.states(parent.pages)
                if not again:
                    states[:] = parent.states[:]
                    self._journal.inherited(parent.count_missing())
                self.all.append(parent.fork(len(self.all), states))
            case Kind.REMAP:
                self.all[event.space].move(event.first, event.second, event.third)
            case Kind.REMOVE:
                space = self.all[event.space]
                if not again and (missing := space.count_missing(event.first, event.second)):
                    self._journal.forgotten(missing)
                space.cut(event.first, event.second)
            case Kind.GONE:
                self._end(self.all[event.space], again)

    def _end(self, space: Space, again: bool) -> None:
        if space.gone:
            return
        if not again:
            self._journal.forgotten(space.count_missing())
        space.gone = True
        for column in (space.starts, space.ends, space.sources, space.firsts):
            del column[:]
        self._journal.release(space.number, space.states)

    def _restored(self, number: int, pid: int, again: bool) -> Space:
        runs = self._image.processes.get(pid) or Runs()
        space = Space(number, pid, self._journal.states(runs.pages), runs.pages)
        space.starts, space.ends = runs.starts[:], runs.ends[:]
        first = 0
        for start, end, file, offset, lazy in zip(
            runs.starts, runs.ends, runs.files, runs.offsets, runs.lazy, strict=True
        ):
            space.sources.append(pages_source(self._files[file], offset))
            space.firsts.append(first)
            pages = (end - start) // PAGE
            if not lazy and not again:
                space.states[first : first + pages] = bytes([IN]) * pages
            first += pages
        return space
