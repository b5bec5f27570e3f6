"""process_madvise(2): advice on the memory of another process, to page it out and to read it in.

Owns the layout of the call's vectors and what a partial result means. Nothing is injected into the process; it may run
or be frozen.

The kernel does not report how much it paged out: it skips pages that several processes map, and all pages where the
cgroup may not swap or no swap is free, without an error.

Source of facts: process_madvise(2), madvise(2), mm/madvise.c.
"""

import errno
import struct
from collections.abc import Sequence
from typing import Final

from zeropod.kernel import libc

_WILLNEED: Final = 3
_PAGEOUT: Final = 21
"""MADV_WILLNEED and MADV_PAGEOUT; the same wherever the call is."""

_AT_ONCE: Final = 1024
"""IOV_MAX."""

_VECTOR = struct.Struct("@PN")
"""A struct iovec."""

_PASSED_OVER = frozenset({errno.ENOMEM, errno.EINVAL})
"""ENOMEM: part of the range is not mapped (any more). EINVAL: locked, huge or a device's."""


def page_out(pidfd: int, ranges: Sequence[tuple[int, int]]) -> int:
    """Ask the kernel to page out these ranges (start, end) of a process; return the bytes it has looked at.

    A range that cannot be paged out is passed over. Blocks while pages are handed to the swap device: some 0.6 ms for
    1 MB. Raises OSError: ESRCH when the process is gone, EPERM without CAP_SYS_NICE or the right to ptrace it, ENOSYS.
    """
    return _advise(pidfd, ranges, _PAGEOUT)


def read_in(pidfd: int, ranges: Sequence[tuple[int, int]]) -> int:
    """Ask the kernel to read these ranges in from swap, without mapping them; return the bytes it has looked at.

    Returns before the disk has. Raises OSError as `page_out` does.
    """
    return _advise(pidfd, ranges, _WILLNEED)


def _advise(pidfd: int, ranges: Sequence[tuple[int, int]], advice: int) -> int:
    looked_at, position = 0, 0
    while position < len(ranges):
        some = ranges[position : position + _AT_ONCE]
        vectors = b"".join(_VECTOR.pack(start, end - start) for start, end in some)
        try:
            done = libc.syscall("process_madvise", pidfd, vectors, len(some), advice, 0)
        except OSError as error:
            if error.errno not in _PASSED_OVER:
                raise
            done = 0
        looked_at += done
        complete = _complete(some, done)
        # The kernel stops at the first range that fails, and counts those before it: go on behind it.
        position += complete + (complete < len(some))
    return looked_at


def _complete(ranges: Sequence[tuple[int, int]], done: int) -> int:
    """Return how many of the ranges `done` bytes are."""
    for index, (start, end) in enumerate(ranges):
        done -= end - start
        if done < 0:
            return index
    return len(ranges)
