"""Reads pages from the files of an image, or of the page store, into one buffer to copy from.

The files are read and not mapped: a page fault on a mapping costs more than the read (2.2 against 0.3 µs for each page
of a block), and what the kernel maps around it would count as our memory while the container sleeps.

A file may be one that is still being filled (`presence`). What has not arrived is never read: `absent` comes first.
"""

import ctypes
import mmap
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pager.presence import PIECE, Filling, PresenceMap
from zeropod.runtime.pager.wire import Lost

LARGEST: Final = 64
"""The most pages that are read at once."""
Place = tuple[int, int]
"""(number of the file, number of the piece)."""

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

    def __init__(
        self,
        files: Sequence[int],
        fingerprints: Sequence[Fingerprint] = (),
        presences: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Take descriptors; with fingerprints, the files are checked for changes before they are read.

        `presences` has the descriptors of the maps of files that are still being filled, by number.
        """
        self._files = files
        self._fingerprints: list[Fingerprint | None] = list(fingerprints)
        self._filled = {file: PresenceMap(descriptor) for file, descriptor in presences.items()}
        """Of the files that are not complete."""
        for file in self._filled:
            if file < len(self._fingerprints):
                self._fingerprints[file] = None
        self._checks = bool(fingerprints)
        self._memory = mmap.mmap(-1, LARGEST * PAGE)
        self._parts = [memoryview(self._memory)[: pages * PAGE] for pages in range(LARGEST + 1)]
        self.buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        """Address of the buffer."""

    @property
    def complete(self) -> bool:
        """Whether no file was being filled when it was last looked at."""
        return not self._filled

    def absent(self, of: int, pages: int = 1) -> list[Place]:
        """Return the pieces with these pages that are not there yet; they must not be read. Raises Lost."""
        if not self._filled or (presence := self._filled.get(file := of >> _OFFSET)) is None:
            return []
        offset = of & _IN_FILE
        missing = presence.missing(offset // PIECE, (offset + pages * PAGE - 1) // PIECE)
        if missing and presence.filling is Filling.LOST:
            raise Lost(f"pages that have not arrived cannot be had any more: {presence.reason}")
        if presence.filling is Filling.COMPLETE:
            self._completed(file, presence)
        return [(file, piece) for piece in missing]

    def there_around(self, of: int, pages: int, at: int) -> tuple[int, int]:
        """Return (first, number) of the pages that can be read around number `at` of these, which is there."""
        absent = self.absent(of, pages)
        if not absent:
            return 0, pages
        start = of & _IN_FILE
        piece = (start + at * PAGE) // PIECE
        below = max((end + 1 for _, end in absent if end < piece), default=0) * PIECE
        above = min((begin for _, begin in absent if begin > piece), default=1 << _OFFSET) * PIECE
        first = max(0, below - start) // PAGE
        return first, min(pages, (above - start) // PAGE) - first

    def _completed(self, file: int, presence: PresenceMap) -> None:
        """Treat a file like one that was always complete."""
        del self._filled[file]
        if self._checks:
            self._fingerprints[file] = presence.fingerprint

    def read(self, of: int, pages: int) -> None:
        """Read pages, none of which is `absent`, from a source on into the buffer, after a `check`. Raises Lost."""
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
            if before is None:
                continue
            now = os.fstat(descriptor)
            if now.st_size != before.size or (now.st_ctime_ns != before.changed_ns and now.st_nlink):
                raise Lost("a file of the page store was written to, or cut short")
