"""Which pieces of a page store a container needs at all, and which ones its next wake will need first.

Pure: from the indexes of its processes. Files of a store keep pages that are out of date. Whole pieces of those are not
asked for by the target, and single pages are sent as zeroes by the source, which compress to nothing.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault.extents import Index
from zeropod.runtime.pager.journal import IN, MISSING
from zeropod.runtime.pager.presence import PIECE
from zeropod.runtime.pager.working_set import Page

_USABLE: Final = re.compile(b"[%c%c]+" % (MISSING, IN))

StorePiece = tuple[int, int]
"""(number of the file in the store, number of the piece)."""


def needed(indexes: Iterable[Index]) -> set[StorePiece]:
    """Return every piece with a page that an index may bring back."""
    found: set[StorePiece] = set()
    for index in indexes:
        for extent in index:
            for run in _USABLE.finditer(extent.states):
                first, last = (extent.offset + page * PAGE for page in (run.start(), run.end() - 1))
                found.update((extent.file, piece) for piece in range(first // PIECE, last // PIECE + 1))
    return found


def needed_pages(indexes: Iterable[Index], sizes: Mapping[int, int]) -> dict[int, bytearray]:
    """Return a byte for each page of each file, not 0 if an index may bring the page back; `sizes` are in bytes."""
    found = {number: bytearray(-(-size // PAGE)) for number, size in sizes.items()}
    for index in indexes:
        for extent in index:
            for run in _USABLE.finditer(extent.states):
                first = extent.offset // PAGE + run.start()
                found[extent.file][first : first + len(run[0])] = b"\1" * len(run[0])
    return found


def of_pages(pages: Iterable[Page], indexes: Mapping[int, Index]) -> Iterator[StorePiece]:
    """Yield the pieces with these pages, in the order of the pages; `indexes` has the pids of these."""
    seen: set[StorePiece] = set()
    for pid, address in pages:
        if (index := indexes.get(pid)) is None:
            continue
        runs = index.runs
        at = bisect_right(runs.starts, address) - 1
        if at >= 0 and address < runs.ends[at]:
            piece = runs.files[at], (runs.offsets[at] + address - runs.starts[at]) // PIECE
            if piece not in seen:
                seen.add(piece)
                yield piece
