"""Reads pages from the files of an image, or of the page store, into one buffer to copy from.

The files are read and not mapped: a page fault on a mapping costs more than the read (2.2 against 0.3 µs for each page
of a block), and what the kernel maps around it would count as our memory while the container sleeps.
"""

import ctypes
import mmap
import os
from collections.abc import Sequence
from typing import Final

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pager.wire import Lost

LARGEST: Final = 64
"""The most pages that are read at once."""
_OFFSET: Final = 48
"""Bits of an offset in a source."""
_IN_FILE: Final = (1 << _OFFSET) - 1


def source(file: int, offset: int) -> int:
    """Return one number for a place in a file: offsets of neighbouring pages differ by PAGE."""
    return file << _OFFSET | offset


def place(of: int) -> tuple[int, int]:
    """Return (file, offset) of a source."""
    return of >> _OFFSET, of & _IN_FILE


class Pages:
    """The files, by their number in sources, and the buffer."""

    def __init__(self, files: Sequence[int], fingerprints: Sequence[Fingerprint] = ()) -> None:
        """Take descriptors; with fingerprints, the files are checked for changes before they are read."""
        self._files = files
        self._fingerprints = fingerprints
        self._memory = mmap.mmap(-1, LARGEST * PAGE)
        self._parts = [memoryview(self._memory)[: pages * PAGE] for pages in range(LARGEST + 1)]
        self.buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        """Address of the buffer."""

    def read(self, of: int, pages: int) -> None:
        """Read pages from a source on into the buffer, after a `check`. Raises Lost."""
        file, offset = of >> _OFFSET, of & _IN_FILE
        try:
            read = os.preadv(self._files[file], [self._parts[pages]], offset)
        except OSError as error:
            raise Lost(f"the image cannot be read any more: {error.strerror}") from error
        if read != pages * PAGE:
            raise Lost("the image cannot be read any more: it was cut short")

    def check(self) -> None:
        """Raise Lost if a file has changed."""
        for descriptor, before in zip(self._files, self._fingerprints, strict=False):
            now = os.fstat(descriptor)
            if now.st_size != before.size or (now.st_ctime_ns != before.changed_ns and now.st_nlink):
                raise Lost("a file of the page store was written to, or cut short")
