"""Which pieces of a file of pages are there, while the file is still being filled from elsewhere.

Owns the map: memory without a name that the shim writes and its pagers read, since a pager cannot wait for a message
with a page fault in its hand. One byte says how the filling goes, then there is the file's fingerprint, valid once it
is complete, then one byte for each piece. Rules, by which no page is read before it is there:

1. The shim marks a piece after its bytes are written, and never takes a mark back.
2. The fingerprint is written before the file is declared complete. Until then nothing can be said of the file's size
   and times, from then on it is like a file that was written here.
3. A file whose source is lost stays so: pieces that are there are served, a page of another one ends the service.
"""

import mmap
import os
import struct
import weakref
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from zeropod.runtime.images import Fingerprint

PIECE: Final = 1 << 18
"""Bytes of a piece: whole pages, 64 of them where they have 4 KB. The last one of a file may be shorter."""
_FINGERPRINT: Final = struct.Struct("=QQQ")
_FINGERPRINT_AT: Final = 8
_REASON_AT: Final = 64
_REASON: Final = 192
_PIECES_AT: Final = 256

Need = Callable[[int, bool], None]
"""Asks for a piece; with True a process waits for it."""


class Filling(IntEnum):
    """How the filling goes."""

    CONTINUES = 0
    COMPLETE = 1
    LOST = 2


class PresenceMap:
    """The map as both sides see it."""

    def __init__(self, descriptor: int) -> None:
        """Open it; the descriptor stays the caller's."""
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)

    @property
    def filling(self) -> Filling:
        return Filling(self._memory[0])

    @property
    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of a complete file."""
        return Fingerprint(*_FINGERPRINT.unpack_from(self._memory, _FINGERPRINT_AT))

    @property
    def reason(self) -> str:
        """Return why the source is lost."""
        return self._memory[_REASON_AT:_PIECES_AT].rstrip(b"\0").decode(errors="replace")

    def has(self, piece: int) -> bool:
        return bool(self._memory[_PIECES_AT + piece])

    def missing(self, first: int, last: int) -> list[int]:
        """Return the pieces from `first` to `last`, both included, that are not there."""
        return [piece for piece in range(first, last + 1) if not self._memory[_PIECES_AT + piece]]

    def next_missing(self, first: int = 0) -> int:
        """Return the next piece from `first` on that is not there; -1 without one."""
        found = self._memory.find(b"\0", _PIECES_AT + first)
        return found - _PIECES_AT if found >= 0 else -1

    @property
    def count_missing(self) -> int:
        return self._memory[_PIECES_AT:].count(0)


class Presence(PresenceMap):
    """The shim's side of the map of one file: it writes, and passes on what pagers ask for.

    The descriptor stays open as long as the object is referred to: a pager may be started at any time, in any thread.
    """

    def __init__(self, size: int, need: Need) -> None:
        """Make the map of a file with this many bytes of which nothing is there. Raises OSError."""
        self.need = need
        self.descriptor = os.memfd_create("zeropod-presence", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        pieces = -(-size // PIECE)
        os.ftruncate(self.descriptor, _PIECES_AT + pieces)
        super().__init__(self.descriptor)

    def mark(self, piece: int) -> None:
        """The piece is there."""
        self._memory[_PIECES_AT + piece] = 1

    def complete(self, fingerprint: Fingerprint) -> None:
        """Every piece is there, and the file is not written to any more."""
        _FINGERPRINT.pack_into(
            self._memory, _FINGERPRINT_AT, fingerprint.size, fingerprint.inode, fingerprint.changed_ns
        )
        self._memory[0] = Filling.COMPLETE

    def lose(self, reason: str) -> None:
        """No more pieces will come, unless all are there."""
        if self.filling is Filling.CONTINUES:
            text = reason.encode()[:_REASON]
            self._memory[_REASON_AT : _REASON_AT + len(text)] = text
            self._memory[0] = Filling.LOST
