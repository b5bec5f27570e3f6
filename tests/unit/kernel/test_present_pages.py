"""Present pages, by either way of asking, in pieces that are never too large."""

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import pagemap_scan, present_pages

PAGE = mmap.PAGESIZE
PAGES = 64


@pytest.fixture
def pagemap() -> Iterator[int]:
    opened = pagemap_scan.open(os.getpid())
    try:
        yield opened
    finally:
        os.close(opened)


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_only_pages_of_the_wanted_kind_that_were_touched_are_found(pagemap: int, scan: bool, shared: bool) -> None:
    if scan and not pagemap_scan.available():
        pytest.skip("needs Linux 6.7")
    memory = mmap.mmap(-1, PAGES * PAGE, mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE))
    memory.madvise(15)  # MADV_NOHUGEPAGE
    touched = [0, 1, 2, 10, 63]
    for page in touched:
        memory[page * PAGE] = 1
    start = address_of(memory)
    end = start + PAGES * PAGE
    found = list(present_pages.pieces(pagemap, start, end, 2 * PAGE, shared=shared, scan=scan))
    first = [
        [(start + a * PAGE, start + b * PAGE) for a, b in group] for group in ([(0, 2)], [(2, 3), (10, 11)], [(63, 64)])
    ]
    assert found == first
    assert list(present_pages.pieces(pagemap, start, end, PAGES * PAGE, shared=not shared, scan=scan)) == []


ranges = st.lists(st.integers(0, 1000), unique=True).map(
    lambda cuts: [(a * PAGE, b * PAGE) for a, b in zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False)]
)


@given(ranges, st.integers(1, 100).map(lambda pages: pages * PAGE), st.integers(1, 4) | st.just(1000))
def test_grouping_loses_nothing_and_keeps_to_the_size(
    given_ranges: list[tuple[int, int]], most: int, count: int
) -> None:
    groups = list(present_pages.grouped(given_ranges, most, count))
    sizes = [sum(end - start for start, end in group) for group in groups]
    assert all(len(group) <= count for group in groups)
    assert all(size == most or len(group) == count for size, group in zip(sizes[:-1], groups, strict=False))
    assert all(0 < size <= most for size in sizes[-1:])
    covered = {page for group in groups for start, end in group for page in range(start, end, PAGE)}
    assert covered == {page for start, end in given_ranges for page in range(start, end, PAGE)}
    assert sum(sizes) == len(covered) * PAGE
