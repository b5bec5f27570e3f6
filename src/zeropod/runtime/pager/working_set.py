"""Which pages are brought in before the next wake: those that wakes have touched, as far as they can be told apart.

A page that is brought in beforehand faults no more, so nobody sees whether it is still needed. A program with a large
memory touches some pages at every wake, and others by chance (redis samples random keys): remembering all of them would
fill the sleeping container. So a page that was touched is brought in at the next wake, then left out and watched. Those
that are touched again are needed for good, and are put to that test again now and then.
"""

from collections.abc import Iterable, Iterator
from random import random
from typing import Final

WORKING_SET_PAGES: Final = 4096
"""The most that is remembered."""

Page = tuple[int, int]
"""(pid as CRIU names it, address)."""

WorkingSet = tuple[tuple[int, int, int], ...]
"""(pid as CRIU names it, page address, standing). What a Pager returns and the next one takes; opaque to others."""

NEEDED: Final = 2
"""The standing of a page that was touched when it was not brought in beforehand."""
TOUCHED: Final = 1
"""It was touched for the first time. What is above 0 is brought in beforehand."""
WATCHED: Final = 0
"""Left out; one less at each wake that does not touch it."""
FORGOTTEN: Final = -4

TESTED: Final = 1 / 32
"""The part of the needed pages that is left out, by chance, to see whether it still is."""


def beforehand(wanted: WorkingSet) -> list[Page]:
    """What to bring in before the wake, in the order of addresses."""
    return sorted((pid, address) for pid, address, standing in wanted if standing > WATCHED)


def following(touched: Iterable[Page], wanted: WorkingSet) -> WorkingSet:
    """The set for the next wake, the most valuable pages first."""
    before = {(pid, address): standing for pid, address, standing in wanted}
    pages = dict(_touched(touched, before))
    for page, standing in before.items():
        if page not in pages and (left := _untouched(standing)) > FORGOTTEN:
            pages[page] = left
    ordered = sorted(pages, key=pages.__getitem__, reverse=True)
    return tuple((*page, pages[page]) for page in ordered[:WORKING_SET_PAGES])


def _touched(touched: Iterable[Page], before: dict[Page, int]) -> Iterator[tuple[Page, int]]:
    for page in touched:
        if page[0]:  # a process that was forked since has another pid the next time
            yield page, NEEDED if page in before else TOUCHED


def _untouched(standing: int) -> int:
    if standing == NEEDED:
        return WATCHED if random() < TESTED else NEEDED
    return WATCHED if standing == TOUCHED else standing - 1
