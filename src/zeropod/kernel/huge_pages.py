"""Keeps memory that forks share in small pages.

With transparent huge pages set to `always` (/sys/kernel/mm/transparent_hugepage/enabled; the default of many
distributions), khugepaged sooner or later collapses each 2 MiB into a huge page: it fills gaps, and copies pages that
are shared with other forks, up to 256 per 2 MiB by default (max_ptes_shared). That gradually undoes the sharing that a
zygote exists for.

The exemption of a mapping is inherited by forks, but not by programs that they execute. (The setting for a whole
process, prctl(2)'s PR_SET_THP_DISABLE, would be inherited by containers.)

Source of facts: madvise(2), MADV_NOHUGEPAGE; collapse_huge_page() in mm/khugepaged.c.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from zeropod.kernel import libc

_MADV_NOHUGEPAGE = 15


def refuse() -> None:
    """Exempt all private mappings that this process can write to. Does not cover what it maps later."""
    with suppress(OSError):  # a kernel without huge pages, say
        for start, end in _own():
            libc.call("madvise", start, end - start, _MADV_NOHUGEPAGE)


def _own() -> Iterator[tuple[int, int]]:
    """Yield start and end of each private writable mapping of this process. Raises OSError."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, mode, *_ = line.split()
        if mode.startswith("rw") and mode.endswith("p"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end
