"""Locates the pages of one process in the page store, and updates that for a move.

Pure: from the table of an address space, as the journal has it, to the index for the next pager.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault.ranges import Range, joined
from zeropod.runtime.pagemap import Runs
from zeropod.runtime.pager.journal import IN, MISSING
from zeropod.runtime.pager.pages import place
from zeropod.runtime.pager.space import Space


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


def of_space(space: Space) -> Iterator[Extent]:
    """Yield the extents of a table whose sources have the store's numbers of files, in the order of addresses."""
    for start, end, source, first in zip(space.starts, space.ends, space.sources, space.firsts, strict=True):
        states = space.states[first : first + (end - start) // PAGE]
        yield Extent(start, end, *place(source), states)


def count(space: Space, live: dict[int, int]) -> None:
    """Add to `live` how many bytes of each file such a table refers to."""
    for start, end, source in zip(space.starts, space.ends, space.sources, strict=True):
        file, _ = place(source)
        live[file] = live.get(file, 0) + end - start


def usable(extents: Iterable[Extent]) -> list[Range]:
    """Return the pages whose copy in the store is current unless written to since they were protected."""
    return joined(_with_states(extents, (MISSING, IN)))


def missing(extents: Iterable[Extent]) -> list[Range]:
    """Return the pages that are out."""
    return joined(_with_states(extents, (MISSING,)))


def _with_states(extents: Iterable[Extent], wanted: Sequence[int]) -> Iterator[Range]:
    table = bytes(1 if state in wanted else 0 for state in range(256))
    for extent in extents:
        states = extent.states.translate(table)
        first = states.find(1)
        while first >= 0:
            end = states.find(0, first)
            end = len(states) if end < 0 else end
            yield extent.start + first * PAGE, extent.start + end * PAGE
            first = states.find(1, end)


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


def replaced(extents: Iterable[Extent], ranges: Sequence[Range], others: Iterable[Extent]) -> list[Extent]:
    """Return the extents with the parts in the ranges replaced by the others, which lie there."""
    return sorted([*without(extents, ranges), *others])


def to_runs(extents: Iterable[Extent]) -> tuple[Runs, bytes]:
    """Return runs whose `files` are numbers in the store, and the pages' states."""
    runs, states = Runs(), []
    for extent in extents:
        runs.append(extent.start, extent.end, extent.file, extent.offset, True)
        states.append(extent.states)
    return runs, b"".join(states)


def renumbered(runs: Runs, places: dict[int, int]) -> Runs:
    """Return the runs with their files renumbered."""
    return Runs(runs.starts, runs.ends, array("I", [places[file] for file in runs.files]), runs.offsets, runs.lazy)
