"""Which pages of a process are in memory, in pieces of a bounded size.

Owns the choice between the two interfaces: PAGEMAP_SCAN (Linux 6.7), which skips untouched ranges as a whole, and
reading /proc/PID/pagemap, eight bytes a page. Measured with 100 MiB present: 3 ms and 2 ms where all of the mapping is,
3 ms and 84 ms in a mapping of 64 GiB.

Source of facts: Documentation/admin-guide/mm/pagemap.rst.
"""

import errno
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from zeropod.kernel import pagemap_scan

PAGE: Final = mmap.PAGESIZE

Ranges = list[tuple[int, int]]
"""Start and end of each range."""

_WINDOW: Final = 1 << 16
"""Pages whose entries are read from pagemap at once (512 KiB)."""

_TOP: Final = 7
_OWN = bytes(int(top & 0xA0 == 0x80) for top in range(256))
_SHARED = bytes(int(top & 0xA0 == 0xA0) for top in range(256))


def pieces(pagemap: int, start: int, end: int, most: int, *, shared: bool, scan: bool = True) -> Iterator[Ranges]:
    """Yield the ranges that are present between two addresses, in groups of up to `most` bytes.

    Only a process's own pages (anonymous, or its copies of a file's), or with `shared` only those of files and
    shared memory. `pagemap` is a descriptor of /proc/PID/pagemap; with `scan` false it is read even where the kernel
    has the ioctl. Raises OSError: ESRCH when the process is gone.
    """
    if scan:
        try:
            yield from grouped(_scanned(pagemap, start, end, shared=shared), most)
        except OSError as error:
            if error.errno != errno.ENOTTY:  # before Linux 6.7
                raise
        else:
            return
    found = runs(pagemap, start, end, _SHARED if shared else _OWN)
    yield from grouped(((low, high) for low, high, _ in found), most)


def _scanned(pagemap: int, start: int, end: int, *, shared: bool) -> Iterator[tuple[int, int]]:
    # The kernel's shared page of zeroes occupies no memory that could be freed.
    every = pagemap_scan.PRESENT | (pagemap_scan.FILE if shared else 0)
    no = pagemap_scan.ZERO | (0 if shared else pagemap_scan.FILE)
    for region in pagemap_scan.scan(pagemap, start, end, every=every, no=no):
        yield region.start, region.end


def runs(pagemap: int, start: int, end: int, *kinds: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield start and end of pages of one kind that lie together, and which of `kinds` that is; those of each in order.

    A kind has 1 for every value that the uppermost byte of its pages' (little-endian) entries may have, and 0 for all
    others. Bit 63 is "present", 62 "swapped", 61 "a file's or shared", 58 "a guard region".
    """
    while start < end:
        count = min((end - start) // PAGE, _WINDOW)
        tops = os.pread(pagemap, count * 8, start // PAGE * 8)[_TOP::8]
        if not tops:  # the process has ended
            return
        for number, kind in enumerate(kinds):
            marks = tops.translate(kind)
            first = marks.find(1)
            while first >= 0:
                last = marks.find(0, first)
                last = len(marks) if last < 0 else last
                yield start + first * PAGE, start + last * PAGE, number
                first = marks.find(1, last)
        start += len(tops) * PAGE


def grouped(ranges: Iterable[tuple[int, int]], most: int, count: int = sys.maxsize) -> Iterator[Ranges]:
    """Yield the ranges in groups of at most `most` bytes and `count` ranges; split longer ranges."""
    group, left = Ranges(), most
    for start, end in ranges:
        while start < end:
            if not left or len(group) == count:
                yield group
                group, left = Ranges(), most
            stop = min(end, start + left)
            group.append((start, stop))
            left -= stop - start
            start = stop
    if group:
        yield group
