"""Which pieces of a page store a container needs at all, and which ones its next wake will need first.

Pure: from the indexes of its processes. Files of a store keep pages that are out of date, and whole pieces of those
need not travel.
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
