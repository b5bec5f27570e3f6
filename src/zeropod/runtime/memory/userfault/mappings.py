"""Finds the mappings of a process that can be moved out, and their pages in memory.

Owns the reasons for which memory stays: shared,
locked, huge pages, wiped in children, a file's, or the kernel's own. Mappings of another userfaultfd are found when
they are registered. Reads only; the process is frozen.

Source of facts: proc_pid_smaps(5), fs/proc/task_mmu.c, Documentation/admin-guide/mm/pagemap.rst.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zeropod.kernel import mappings, pagemap_scan, present_pages, proc_stat
from zeropod.kernel.mappings import Area
from zeropod.runtime.memory.userfault.ranges import Range, joined

_STAY: Final = frozenset({"lo", "ht", "io", "pf", "wf", "sh", "ss", "dp"})
"""VmFlags: locked, huge pages, device memory, no page structures, wiped in a forked child, shared, a shadow stack,
droppable."""


def movable(pid: int) -> list[Range]:
    """Return the mappings of a process whose private anonymous memory can be moved out. Raises OSError."""
    return [(area.start, area.end) for area in mappings.of(pid) if can_move(area)]


def can_move(area: Area) -> bool:
    """Return whether the memory of a mapping, read from smaps, can be moved out."""
    return (
        area.anonymous
        and area.private
        and area.permissions.startswith("r")
        and (area.name in ("", "[heap]") or area.name.startswith("[anon:"))
        and _STAY.isdisjoint(area.flags)
    )


def registered(pid: int) -> list[Range]:
    """Return the mappings of a process that are registered with any userfaultfd. Raises OSError."""
    return [(area.start, area.end) for area in mappings.of(pid) if is_registered(area)]


def is_registered(area: Area) -> bool:
    return not area.flags.isdisjoint({"um", "uw"})


@dataclass(frozen=True, slots=True)
class Status:
    """The fields of /proc/PID/status that matter here, sizes in bytes."""

    anonymous: int
    pinned: int
    """Memory pinned for devices or io_uring, which write to it bypassing the page tables."""
    tracer: int
    """The pid of its tracer, which prevents stopping it by another one; 0 without a tracer."""

    @property
    def obstacle(self) -> str:
        """Why its memory stays; empty if no reason is known yet."""
        if self.pinned:
            return "has memory that a device may write to"
        return f"is traced by {self.tracer}" if self.tracer else ""

    @classmethod
    def of(cls, pid: int) -> "Status":
        """Read the sizes from /proc/PID/status. Raises OSError."""
        found = proc_stat.status(pid)
        anonymous, pinned = (int(found.get(key, "0 kB").split()[0]) * 1024 for key in ("RssAnon", "VmPin"))
        return cls(anonymous, pinned, int(found.get("TracerPid", "0")))


@dataclass(slots=True)
class Pages:
    """Pages of a process, sorted."""

    present: list[Range]
    """In memory, without the kernel's shared page of zeroes, which costs nothing."""
    stay: list[Range]
    """Not to be dropped now: written to since they were protected, or in swap."""
    zero: list[Range]
    """The kernel's page of zeroes."""


_THERE: Final = pagemap_scan.PRESENT | pagemap_scan.ZERO


class PageMap:
    """The page map of one process, held open."""

    def __init__(self, pid: int, *, tracking: bool) -> None:
        """Open the page map. `tracking`: the kernel has PAGEMAP_SCAN, and writes are tracked. Raises OSError."""
        self.descriptor = pagemap_scan.open(pid)
        self._tracking = tracking

    def close(self) -> None:
        os.close(self.descriptor)

    def protect(self, ranges: Sequence[Range]) -> list[Range]:
        """Write-protect all present pages of these mappings; return those written to since the last protection.

        Returns all of them without tracking. Raises OSError.
        """
        if not self._tracking:
            return self.look(ranges).present
        scan, written, present, zero = (
            pagemap_scan.scan,
            pagemap_scan.WRITTEN,
            pagemap_scan.PRESENT,
            pagemap_scan.ZERO,
        )
        found: list[Range] = []
        for start, end in ranges:
            for low, high, categories in scan(
                self.descriptor, start, end, every=written, some=present | zero, protect=True
            ):
                if not categories & zero:
                    found.append((low, high))
        return joined(found)

    def look(self, ranges: Sequence[Range]) -> Pages:
        """Return the pages in these ranges by state. Raises OSError."""
        return self._scan(ranges) if self._tracking else self._read(ranges)

    def _scan(self, ranges: Sequence[Range]) -> Pages:
        scan = pagemap_scan
        present: list[Range] = []
        stay: list[Range] = []
        zero: list[Range] = []
        asked = scan.PRESENT | scan.SWAPPED | scan.ZERO
        for start, end in ranges:
            for low, high, found in scan.scan(self.descriptor, start, end, some=asked):
                (zero if found & scan.ZERO else present if found & scan.PRESENT else stay).append((low, high))
            for low, high, found in scan.scan(self.descriptor, start, end, every=scan.WRITTEN, some=_THERE):
                if not found & scan.ZERO:
                    stay.append((low, high))
        return Pages(joined(present), joined(sorted(stay)), joined(zero))

    def _read(self, ranges: Sequence[Range]) -> Pages:
        pages = Pages([], [], [])
        for start, end in ranges:
            for low, high, stays in present_pages.runs(self.descriptor, start, end, _IN_MEMORY, _STAYING):
                (pages.stay if stays else pages.present).append((low, high))
        return pages


_IN_MEMORY: Final = bytes(int(top & 0x84 == 0x80) for top in range(256))
"""Present, and no guard region: see `present_pages.runs`."""
_STAYING: Final = bytes(int(bool(top & 0xC0) and not _IN_MEMORY[top]) for top in range(256))
"""In swap, or a guard region."""
