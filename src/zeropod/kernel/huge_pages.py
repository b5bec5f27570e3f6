"""Keeps memory that forks share in small pages.

With transparent huge pages set to `always` (/sys/kernel/mm/transparent_hugepage/enabled; the default of many
distributions), khugepaged sooner or later collapses each 2 MiB into a huge page: it fills gaps, and copies pages that
are shared with other forks, up to 256 per 2 MiB by default (max_ptes_shared). That gradually undoes the sharing that a
zygote exists for.

The exemption of a mapping is inherited by forks, but not by programs that they execute. (The setting for a whole
process, prctl(2)'s PR_SET_THP_DISABLE, would be inherited by containers.)

Source of facts: madvise(2), MADV_NOHUGEPAGE; collapse_huge_page() in mm/khugepaged.c.
"""

from contextlib import suppress

from zeropod.kernel import libc, mappings

_MADV_NOHUGEPAGE = 15


def exempt() -> None:
    """Exempt all private mappings that this process can write to. Does not cover what it maps later."""
    with suppress(OSError):  # a kernel without huge pages, say
        for area in list(mappings.of("self", sizes=False)):
            if area.private and area.permissions.startswith("rw"):
                libc.call("madvise", area.start, area.end - area.start, _MADV_NOHUGEPAGE)
