"""PAGEMAP_SCAN: which pages of a process are present, written or swapped, without reading eight bytes for each page.

Owns the ioctl on /proc/PID/pagemap (Linux 6.7) and its layout.

Source of facts: Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/fs.h.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

WRITTEN: Final = 1 << 1
"""Not write-protected by userfaultfd: written to since it was protected, or never protected."""
FILE: Final = 1 << 2
PRESENT: Final = 1 << 3
SWAPPED: Final = 1 << 4
"""In swap; guard regions count, too."""
ZERO: Final = 1 << 5
"""The kernel's page of zeroes; counts as written."""
HUGE: Final = 1 << 6
GUARD: Final = 1 << 8
"""A guard region, which cannot be read (Linux 6.15; EINVAL before)."""

_PROTECT: Final = 1 << 0
_ONLY_ASYNC: Final = 1 << 1

_SCAN: Final = 0xC0606610
_SIZE: Final = 96
_argument = struct.Struct("=12Q")
_region = struct.Struct("=3Q")
_REGIONS: Final = 8192
"""The most regions that one call returns: 192 KiB."""


class Region(NamedTuple):
    """Pages that lie together and have the same categories."""

    start: int
    end: int
    categories: int


def open(pid: int) -> int:  # noqa: A001 - read as pagemap_scan.open()
    """Return a descriptor (close-on-exec) of a process's page map. Raises OSError."""
    return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def scan(
    pagemap: int, start: int, end: int, *, every: int = 0, some: int = 0, no: int = 0, protect: bool = False
) -> Iterator[Region]:
    """Yield the pages in a range that have `every` category, at least one of `some` (if any), and none of `no`.

    With `protect` they are write-protected as they are found; a range that is not registered for WP_ASYNC is then an
    error (EPERM). Raises OSError: ENOTTY before Linux 6.7, ESRCH when the process is gone.
    """
    found = (ctypes.c_char * (_region.size * _REGIONS))()
    returned = every | some | no
    flags = _PROTECT | _ONLY_ASYNC if protect else 0
    while start < end:
        argument = bytearray(
            _argument.pack(
                *(_SIZE, flags, start, end, 0, ctypes.addressof(found), _REGIONS, 0),
                # An inverted category matches where it is absent.
                *(no, every | no, some, returned),
            )
        )
        try:
            count = fcntl.ioctl(pagemap, _SCAN, argument)
        except OSError as error:
            if error.errno == errno.EINTR:
                continue
            raise
        yield from map(Region._make, _region.iter_unpack(memoryview(found).cast("B")[: count * _region.size]))
        walked = struct.unpack_from("=Q", argument, 32)[0]
        if walked <= start:
            return
        start = walked


def available() -> bool:
    """Return whether the kernel has PAGEMAP_SCAN."""
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(pagemap, _SCAN, bytearray(_argument.pack(_SIZE, *(0,) * 11)))
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(pagemap)
