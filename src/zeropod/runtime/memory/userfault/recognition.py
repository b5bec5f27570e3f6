"""Finds the process of a userfaultfd that came with a fork, which the kernel does not report.

Write-protecting a page through it shows in the page map of its process only. Afterwards the page is left unprotected,
in whichever process it was: it is then stored once more, whereas a page that was written to and then protected would
count as unchanged.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

from zeropod.kernel import pagemap_scan, userfault
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault import mappings
from zeropod.runtime.memory.userfault.holdings import Member
from zeropod.runtime.memory.userfault.mappings import PageMap
from zeropod.runtime.memory.userfault.ranges import Range


def recognise(members: Sequence[Member], pids: Sequence[int], page_map: Callable[[int], PageMap]) -> None:
    """Set the pid of each unidentified member to that of its process among `pids`."""
    unknown = [member for member in members if not member.known]
    known = {member.pid for member in members}
    for pid in pids:
        if unknown and pid not in known and (found := _owner(page_map, pid, unknown)):
            found.pid = pid
            unknown.remove(found)


def _owner(page_map: Callable[[int], PageMap], pid: int, candidates: Sequence[Member]) -> Member | None:
    """Return the candidate whose userfaultfd belongs to this process, None if there is none."""
    with suppress(FileNotFoundError, ProcessLookupError):
        pages = page_map(pid)
        for start, end in mappings.registered(pid):
            if not (present := pages.look([(start, end)]).present):
                continue
            page = present[0][0], present[0][0] + PAGE
            before = _is_written(pages, page)
            for member in candidates:
                try:
                    userfault.write_protect(member.uffd, page[0], PAGE, protect=before)
                except OSError:
                    continue
                changed = _is_written(pages, page) != before
                userfault.write_protect(member.uffd, page[0], PAGE, protect=False)
                if changed:
                    return member
            return None
    return None


def _is_written(pages: PageMap, page: Range) -> bool:
    return any(pagemap_scan.scan(pages.descriptor, *page, every=pagemap_scan.WRITTEN))
