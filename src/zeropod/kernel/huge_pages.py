"""Keeps memory that forks share in small pages.

Where the kernel makes huge pages of whatever it finds (`always` in /sys/kernel/mm/transparent_hugepage/enabled, as many
distributions have it), a process in the background puts together what lies in 2 MiB side by side, sooner or later: it
fills the gaps, and of pages that are shared with other forks, up to 256 in 2 MiB unless somebody has raised that, it
makes copies for this one. So it undoes, bit by bit, what a zygote is for.

A mapping that does not take part in it stays so in all forks; a program that they start knows nothing of it. (What
prctl(2) has for a whole process, PR_SET_THP_DISABLE, would be inherited by containers.)

Source of facts: madvise(2), MADV_NOHUGEPAGE; collapse_huge_page() in mm/khugepaged.c.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from zeropod.kernel import libc

_MADV_NOHUGEPAGE = 15


def refuse() -> None:
    """For all that this process can write to by now; what it maps later is not among it."""
    with suppress(OSError):  # a kernel without huge pages, say
        for start, end in _own():
            libc.call("madvise", start, end - start, _MADV_NOHUGEPAGE)


def _own() -> Iterator[tuple[int, int]]:
    """Where each of its private mappings that can be written to begins and ends. Raises OSError."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, mode, *_ = line.split()
        if mode.startswith("rw") and mode.endswith("p"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end
