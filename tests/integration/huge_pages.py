"""Has the kernel make huge pages at once, as it may do by itself at any time.

Source of facts: madvise(2), MADV_COLLAPSE; process_madvise(2).
"""

import mmap
import os
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from zeropod.kernel import libc

HUGE = 2 << 20
COLLAPSE = 25

Mapping = tuple[int, int]
"""Its first address and its end."""


def mappings(pid: int) -> list[Mapping]:
    """What is a process's own, and large."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, mode, *_ = line.split()
        start, end = (int(address, 16) for address in addresses.split("-"))
        if mode == "rw-p" and end - start >= HUGE:
            found.append((start, end))
    return found


def made(pid: int, where: Sequence[Mapping]) -> list[int]:
    """Addresses of huge pages that there are now."""
    descriptor = os.pidfd_open(pid)
    try:
        return [
            address
            for start, end in where
            for address in range(-(-start // HUGE) * HUGE, end - HUGE + 1, HUGE)
            if _made(descriptor, address)
        ]
    finally:
        os.close(descriptor)


def _made(pidfd: int, address: int) -> bool:
    part = struct.pack("@PN", address, HUGE)
    try:
        return libc.syscall("process_madvise", pidfd, part, 1, COLLAPSE, 0) == HUGE
    except OSError:
        return False


def can_be_made() -> bool:
    with closing(mmap.mmap(-1, 4 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) as memory:
        memory.write(b"1" * len(memory))
        return made(os.getpid(), mappings(os.getpid())) != []
