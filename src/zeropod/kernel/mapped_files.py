"""Pages of files that processes have in their page tables: noted before a dump, brought back after a restore.

A restored process has its program and its libraries mapped, but not one page of them in its page tables. All of it is
in the page cache, and still every 64 KiB that it touches for the first time is a page fault: some 60 until redis has
answered for the first time, half of what the wake takes. Whoever reads a page of the process from outside takes such a
fault in its place, and the kernel maps the pages around it as well.

Only mappings that are private and cannot be written to: nothing else is sure to be a file's, and a page of memory that
is still with the pager would be brought in by a look at it.

Source of facts: proc_pid_pagemap(5), process_vm_readv(2), do_fault_around() in mm/memory.c.
"""

import ctypes
import errno
import mmap
import os
import struct
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from zeropod.kernel import libc

PAGE = mmap.PAGESIZE
AROUND = max(1, (64 << 10) // PAGE)
"""Pages that one fault maps, at an address that is a multiple of as many."""

LARGEST = 256 << 20
"""Bytes of a mapping beyond which it is left alone: that is data rather than a program."""

MOST = 4096
"""Places in all processes together; each takes some microseconds to bring back."""

Noted = Mapping[int, Sequence[int]]
"""Addresses of used pages in ascending order, one for each `AROUND`, by the pid that the process sees itself."""

_PRESENT = bytes(int(top >= 0x80) for top in range(256))
_TOP = 7 if sys.byteorder == "little" else 0
_ENTRY = 8
_RANGE = struct.Struct("@PN")
"""A struct iovec."""
_AT_ONCE = 1024
"""IOV_MAX."""


def note(pids: Iterable[int]) -> Noted:
    """What these processes have used. One that ends meanwhile, or is not ours to look at, is left out."""
    noted: dict[int, list[int]] = {}
    left = MOST
    for pid in pids:
        if not left:
            break
        with suppress(OSError):
            noted[_own_pid(pid)] = addresses = _used(pid)[:left]
            left -= len(addresses)
    return noted


def bring_back(pids: Iterable[int], noted: Noted) -> int:
    """Maps in restored processes what was noted before; returns how many places. Reads from the disk what is not in
    the page cache any more: call it in a thread."""
    count = 0
    for pid in pids:
        with suppress(OSError):
            count += _touch(pid, _still_mapped(pid, noted.get(_own_pid(pid), ())))
    return count


def _own_pid(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[-1]) for line in file if line.startswith("NSpid:"))


def _used(pid: int) -> list[int]:
    found: list[int] = []
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for start, end in _mappings(pid):
            first, count = start // PAGE, (end - start) // PAGE
            entries = os.pread(pagemap.fileno(), count * _ENTRY, first * _ENTRY)
            found += [(first + page) * PAGE for page in _one_of_each_block(entries[_TOP::_ENTRY], first)]
    return found


def _one_of_each_block(tops: bytes, first: int) -> Iterator[int]:
    """The first page that is present in each block, as an index, by the upper bytes of the pages' entries."""
    present = tops.translate(_PRESENT)
    page = present.find(1)
    while page >= 0:
        yield page
        page = present.find(1, page + AROUND - (first + page) % AROUND)


def _mappings(pid: int) -> Iterator[tuple[int, int]]:
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            # 7f51ecf97000-7f51ed0fb000 r-xp 00028000 fe:00 1234   /usr/lib/x86_64-linux-gnu/libc.so.6
            bounds, mode, _, _, inode, *path = line.split(maxsplit=5)
            if mode in ("r-xp", "r--p") and inode != "0" and path and path[0].startswith("/"):
                start, end = (int(bound, 16) for bound in bounds.split("-"))
                if end - start <= LARGEST:
                    yield start, end


def _still_mapped(pid: int, addresses: Sequence[int]) -> list[int]:
    found: list[int] = []
    if addresses:
        for start, end in _mappings(pid):
            found += addresses[bisect_left(addresses, start) : bisect_left(addresses, end)]
    return found


def _touch(pid: int, addresses: Sequence[int]) -> int:
    """Reads a byte at each address; returns how many could be read. Raises OSError when there is no such process."""
    count, position = 0, 0
    buffer = bytearray(_AT_ONCE)
    local = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    while position < len(addresses):
        part = addresses[position : position + _AT_ONCE]
        remote = b"".join(_RANGE.pack(address, 1) for address in part)
        try:
            done = libc.call("process_vm_readv", pid, _RANGE.pack(local, len(part)), 1, remote, len(part), 0)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            done = 0
        count += done
        position += done + (done < len(part))  # one that cannot be read, beyond the end of a file that was cut, is left
    return count
