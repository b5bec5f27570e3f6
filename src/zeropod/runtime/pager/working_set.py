"""Selects the pages to bring in for the next wake, from those that earlier wakes have touched.

A page counts as touched if it faulted, or if it was written to and another page of its block counts. A page that is
brought in before it is touched does not fault, so if it is not written to, nothing shows whether it is still needed. A
program with a large memory touches some pages at every wake and others by chance (redis samples random keys): keeping
all of them would make every wake bring in more. So a few are left out at each wake, at random, and watched. One that is
touched while it is left out counts as needed, and is seldom left out again; one that is not is forgotten.

The order is that of the first touches: what a request needs first is brought in first.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import random
from typing import Final

from zeropod.kernel.userfault import PAGE

WORKING_SET_PAGES: Final = 4096
"""The most pages that are remembered."""
BLOCK: Final = 16
"""Pages of a block: 64 KB, aligned."""

Page = tuple[int, int]
"""(CRIU's pid, address)."""

WorkingSet = tuple[tuple[int, int, int], ...]
"""(CRIU's pid, page address, standing). Returned by a Pager and taken by the next one; opaque to other code."""

Changed = Mapping[int, Sequence[tuple[int, int]]]
"""Sorted ranges of addresses, by pid, that were written to since the last move."""

NEEDED: Final = 2
"""Standing of a known page that was touched again."""
TOUCHED: Final = 1
"""Standing of a page touched for the first time. With a standing above 0, a page is brought in before it faults."""
WATCHED: Final = 0
"""Standing of a page that is left out; decremented at each wake that does not touch it."""
FORGOTTEN: Final = -4

TESTED: Final = {NEEDED: 1 / 64, TOUCHED: 1 / 4}
"""The fraction of pages that is left out at random, by standing, to test whether they still are needed."""


def wanted_pages(wanted: WorkingSet) -> list[Page]:
    """Return the pages to bring in: block by block, in the order of their first touches.

    Blocks with a page that is surely needed come first.
    """
    blocks: dict[Page, list[Page]] = {}
    for best in (NEEDED, TOUCHED):
        for pid, address, standing in wanted:
            if standing == best:
                blocks.setdefault(block_of((pid, address)), []).append((pid, address))
    return [page for pages in blocks.values() for page in sorted(pages)]


def block_of(page: Page) -> Page:
    """Return the first page of its block."""
    pid, address = page
    return pid, address - address % (BLOCK * PAGE)


def following(faults: Iterable[Page], wanted: WorkingSet, changed: Changed | None = None) -> WorkingSet:
    """Return the set for the next wake: the pages known already, in their order, then the new ones in theirs.

    If there are too many, those of the lowest standing go.
    """
    touched = _touched(faults, wanted, changed or {})
    pages: dict[Page, int] = {}
    for pid, address, standing in wanted:
        page = (pid, address)
        if page in touched:
            pages[page] = NEEDED
        elif (left := _untouched(standing)) > FORGOTTEN:
            pages[page] = left
    for page in touched:
        pages.setdefault(page, TOUCHED)
    kept = set(sorted(pages, key=pages.__getitem__, reverse=True)[:WORKING_SET_PAGES])
    return tuple((*page, standing) for page, standing in pages.items() if page in kept)


def _touched(faults: Iterable[Page], wanted: WorkingSet, changed: Changed) -> dict[Page, None]:
    """Return the touched pages, in the order in which something in their block was touched first."""
    faulted = dict.fromkeys(page for page in faults if page[0])  # without forked processes, whose pid changes
    blocks: dict[Page, list[Page]] = {}
    for page in ((pid, address) for pid, address, _ in wanted):
        blocks.setdefault(block_of(page), [])
    for page in faulted:
        blocks.setdefault(block_of(page), []).append(page)
    touched: dict[Page, None] = {}
    for block, pages in blocks.items():
        touched.update(dict.fromkeys(sorted({*pages, *_changed_in(block, changed.get(block[0], ()))})))
    return touched


def _changed_in(block: Page, ranges: Sequence[tuple[int, int]]) -> Iterator[Page]:
    pid, start = block
    end = start + BLOCK * PAGE
    for at in range(max(0, bisect_right(ranges, (start, end)) - 1), len(ranges)):
        if ranges[at][0] >= end:
            break
        yield from ((pid, page) for page in range(max(start, ranges[at][0]), min(end, ranges[at][1]), PAGE))


def _untouched(standing: int) -> int:
    if standing > WATCHED:
        return WATCHED if random() < TESTED[standing] else standing
    return standing - 1
