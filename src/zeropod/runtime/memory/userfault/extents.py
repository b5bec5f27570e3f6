"""Locates the pages of one process in the page store, and updates that for a move.

Pure: from the table of an address space, as the journal has it, to the index for the next pager.
"""

import heapq
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Self

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault.ranges import Range
from zeropod.runtime.pagemap import Runs
from zeropod.runtime.pager.journal import IN, MISSING
from zeropod.runtime.pager.pages import place
from zeropod.runtime.pager.space import Space

_USABLE: Final = re.compile(b"[%c%c]+" % (MISSING, IN))
_MISSING: Final = re.compile(b"%c+" % MISSING)


class Extent(NamedTuple):
    """Pages that are contiguous both in memory and in a file."""

    start: int
    end: int
    file: int
    """Number in the store."""
    offset: int
    states: bytes

    def part(self, start: int, end: int) -> "Extent":
        """Return the part in [start, end), which must lie within."""
        first = (start - self.start) // PAGE
        return Extent(
            start,
            end,
            self.file,
            self.offset + start - self.start,
            self.states[first : first + (end - start) // PAGE],
        )


class Index:
    """Extents sorted by address, as arrays: scattered writes leave ten thousands of them, in a tenth of the memory."""

    __slots__ = ("runs", "states")

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        self.runs = Runs()
        """With the store's numbers as `files`."""
        self.states = bytearray()
        """Of all pages, in order."""
        for extent in extents:
            self.append(extent)

    @classmethod
    def of_space(cls, space: Space) -> Self:
        """Return the index from a table whose sources have the store's numbers of files."""
        index = cls()
        files, offsets = array("I"), array("Q")
        for source in space.sources:
            file, offset = place(source)
            files.append(file)
            offsets.append(offset)
        index.runs = Runs(space.starts[:], space.ends[:], files, offsets, array("B", b"\1" * len(files)))
        for start, end, first in zip(space.starts, space.ends, space.firsts, strict=True):
            index.states += space.states[first : first + (end - start) // PAGE]
        return index

    def append(self, extent: Extent) -> None:
        self.runs.append(extent.start, extent.end, extent.file, extent.offset, True)
        self.states += extent.states

    def __iter__(self) -> Iterator[Extent]:
        runs, first = self.runs, 0
        for start, end, file, offset in zip(runs.starts, runs.ends, runs.files, runs.offsets, strict=True):
            after = first + (end - start) // PAGE
            yield Extent(start, end, file, offset, bytes(self.states[first:after]))
            first = after

    @property
    def files(self) -> set[int]:
        return set(self.runs.files)

    @property
    def ranges(self) -> list[Range]:
        """Return the addresses of all pages."""
        starts, ends = self.runs.starts, self.runs.ends
        breaks = [at for at in range(1, len(starts)) if starts[at] != ends[at - 1]]
        return [(starts[first], ends[after - 1]) for first, after in pairwise([0, *breaks, len(starts)]) if after]

    @property
    def usable(self) -> list[Range]:
        """Return the pages whose copy in the store is current unless written to since they were protected."""
        return self._in_state(_USABLE)

    @property
    def missing(self) -> list[Range]:
        """Return the pages that are out."""
        return self._in_state(_MISSING)

    def _in_state(self, pattern: "re.Pattern[bytes]") -> list[Range]:
        found: list[Range] = []
        first = 0
        for start, end in self.ranges:
            after = first + (end - start) // PAGE
            base = start - first * PAGE
            runs = pattern.finditer(self.states, first, after)
            found += ((base + run.start() * PAGE, base + run.end() * PAGE) for run in runs)
            first = after
        return found


def count(space: Space, live: dict[int, int]) -> None:
    """Add to `live` how many bytes of each file a table refers to whose sources have the store's numbers."""
    for start, end, source in zip(space.starts, space.ends, space.sources, strict=True):
        file, _ = place(source)
        live[file] = live.get(file, 0) + end - start


def without(extents: Iterable[Extent], ranges: Sequence[Range]) -> Iterator[Extent]:
    """Yield the parts of extents outside the ranges."""
    at = 0
    for extent in extents:
        start = extent.start
        while at < len(ranges) and ranges[at][1] <= start:
            at += 1
        place = at
        while place < len(ranges) and ranges[place][0] < extent.end:
            low, high = ranges[place]
            if start < low:
                yield extent.part(start, low)
            start = max(start, high)
            place += 1
        if start < extent.end:
            yield extent if start == extent.start else extent.part(start, extent.end)


def replaced(extents: Iterable[Extent], ranges: Sequence[Range], others: Iterable[Extent]) -> Index:
    """Return the extents with the parts in the ranges replaced by the others, which lie there."""
    return Index(heapq.merge(without(extents, ranges), others))


def renumbered(runs: Runs, places: Mapping[int, int]) -> Runs:
    """Return the runs with their files renumbered."""
    return Runs(runs.starts, runs.ends, array("I", [places[file] for file in runs.files]), runs.offsets, runs.lazy)
