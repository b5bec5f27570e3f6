"""The memory of another process, read from outside: process_vm_readv(2).

Owns the call and the layout of its vectors.

Source of facts: process_vm_readv(2), mm/process_vm_access.c.
"""

import ctypes
import mmap
import struct
from collections.abc import Sequence
from typing import Final

from zeropod.kernel import libc

RANGES: Final = 1024
"""The most ranges of one call (UIO_MAXIOV)."""

_vector = struct.Struct("=QQ")


class Buffer:
    """Memory of this process to read into, at a fixed address."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._memory = mmap.mmap(-1, size)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def read(self, pid: int, ranges: Sequence[tuple[int, int]]) -> memoryview:
        """Return the contents of the ranges (start, end), concatenated; valid until the next call.

        They must fit, and be at most `RANGES`. The result ends before the first page that cannot be read. Blocks for
        missing pages that a pager has to fill. Raises OSError: ESRCH when the process is gone, EFAULT when the first
        page cannot be read.
        """
        total = sum(end - start for start, end in ranges)
        if total > self.size:
            raise ValueError(f"{total} bytes do not fit into {self.size}")
        remote = b"".join(_vector.pack(start, end - start) for start, end in ranges)
        count = libc.call(
            "process_vm_readv",
            pid,
            ctypes.create_string_buffer(_vector.pack(self._address, total), _vector.size),
            1,
            ctypes.create_string_buffer(remote, len(remote)),
            len(ranges),
            0,
        )
        return memoryview(self._memory)[:count]
