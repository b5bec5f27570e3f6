"""What /proc/PID/smaps says about memory that can be moved out."""

import ctypes
import mmap
import os

import pytest

from zeropod.kernel import mappings, pagemap_scan
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault.mappings import PageMap, Status, can_move, is_registered


def mapping(address: int, head: str, flags: str) -> str:
    return (
        f"{address:x}-{address + 0x1000:x} {head}\n"
        "Size:                  4 kB\nKernelPageSize:        4 kB\nRss:                   4 kB\n"
        f"THPeligible:           0\nVmFlags: {flags} \n"
    )


@pytest.mark.parametrize(
    ("head", "flags", "moves"),
    [
        ("rw-p 00000000 00:00 0 ", "rd wr mr mw me ac sd", True),
        ("rw-p 00000000 00:00 0                          [heap]", "rd wr mr mw me ac", True),
        ("rw-p 00000000 00:00 0                          [anon:glibc: malloc]", "rd wr", True),
        ("r--p 00000000 00:00 0 ", "rd mr mw me ac", True),
        ("rwxp 00000000 00:00 0 ", "rd wr ex um uw", True),
        ("---p 00000000 00:00 0 ", "mr mw me nr", False),
        ("rw-s 00000000 00:01 77                         /dev/zero (deleted)", "rd wr sh", False),
        ("rw-p 00001000 fe:00 1234                       /usr/bin/redis-server", "rd wr", False),
        ("rw-p 00000000 00:00 0                          [stack]", "rd wr gd ac", False),
        ("r--p 00000000 00:00 0                          [vvar]", "rd mr pf io de dd", False),
        ("r-xp 00000000 00:00 0                          [vdso]", "rd ex mr mw me de", False),
        ("rw-p 00000000 00:00 0 ", "rd wr lo", False),
        ("rw-p 00000000 00:0f 99                         /anon_hugepage (deleted)", "rd wr de ht", False),
        ("rw-p 00000000 00:00 0 ", "rd wr wf", False),
    ],
)
def test_only_private_anonymous_memory_moves(head: str, flags: str, moves: bool) -> None:
    text = mapping(0x7F0000000000, "rw-p 00000000 00:00 0 ", "rd wr") + mapping(0x7F0000002000, head, flags)
    expected = [(0x7F0000000000, 0x7F0000001000)] + [(0x7F0000002000, 0x7F0000003000)] * moves
    areas = list(mappings.parse(text))
    assert [(area.start, area.end) for area in areas if can_move(area)] == expected
    assert list(map(is_registered, areas)) == [False, "um" in flags]


def test_the_page_map_is_read_the_same_in_both_ways() -> None:
    if not pagemap_scan.available():
        pytest.skip("needs Linux 6.7")
    memory = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in (3, 4, 5, 40):
        memory[page * PAGE] = 1
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    expected = [(start + 3 * PAGE, start + 6 * PAGE), (start + 40 * PAGE, start + 41 * PAGE)]
    for tracking in (False, True):
        pages = PageMap(os.getpid(), tracking=tracking)
        found = pages.look([(start, start + 64 * PAGE)])
        pages.close()
        assert found.present == expected
        # Not protected by anything: as if it had been written to since.
        assert found.stay == (expected if tracking else [])


def test_status_is_in_bytes() -> None:
    status = Status.of(os.getpid())
    assert status.anonymous > 1 << 20
    assert status.pinned == 0
