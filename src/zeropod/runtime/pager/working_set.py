"""Selects the pages to bring in before the next wake, from those that earlier wakes have touched.

A page that is brought in beforehand does not fault, so it does not show whether it is still needed. A program with a
large memory touches some pages at every wake and others by chance (redis samples random keys): keeping all of them
would fill the sleeping container. So a page that was touched is brought in at the next wake, then left out and watched.
Pages touched again count as needed, and are left out again now and then as a test.
"""

from collections.abc import Iterable, Iterator
from random import random
from typing import Final

WORKING_SET_PAGES: Final = 4096
"""The most pages that are remembered."""

Page = tuple[int, int]
"""(CRIU's pid, address)."""

WorkingSet = tuple[tuple[int, int, int], ...]
"""(CRIU's pid, page address, standing). Returned by a Pager and taken by the next one; opaque to other code."""

NEEDED: Final = 2
"""Standing of a known page that was touched while it was left out."""
TOUCHED: Final = 1
"""Standing of a page touched for the first time. Pages with a standing above 0 are brought in beforehand."""
WATCHED: Final = 0
"""Standing of a page that is left out; decremented at each wake that does not touch it."""
FORGOTTEN: Final = -4

TESTED: Final = 1 / 32
"""The fraction of needed pages that is left out at random, to test whether they still are needed."""


def beforehand(wanted: WorkingSet) -> list[Page]:
    """Return the pages to bring in before the wake, in the order of addresses."""
    return sorted((pid, address) for pid, address, standing in wanted if standing > WATCHED)


def following(touched: Iterable[Page], wanted: WorkingSet) -> WorkingSet:
    """Return the set for the next wake, the most valuable pages first."""
    before = {(pid, address): standing for pid, address, standing in wanted}
    pages = dict(_touched(touched, before))
    for page, standing in before.items():
        if page not in pages and (left := _untouched(standing)) > FORGOTTEN:
            pages[page] = left
    ordered = sorted(pages, key=pages.__getitem__, reverse=True)
    return tuple((*page, pages[page]) for page in ordered[:WORKING_SET_PAGES])


def _touched(touched: Iterable[Page], before: dict[Page, int]) -> Iterator[tuple[Page, int]]:
    for page in touched:
        if page[0]:  # skip processes forked since, which have another pid the next time
            yield page, NEEDED if page in before else TOUCHED


def _untouched(standing: int) -> int:
    if standing == NEEDED:
        return WATCHED if random() < TESTED else NEEDED
    return WATCHED if standing == TOUCHED else standing - 1
