"""A file whose reader stops, without noticing, until it is told what to read: a FIFO, and inotify to see it come.

Source of facts: fifo(7), inotify(7).
"""

import errno
import os
from pathlib import Path

import trio

from zeropod.kernel import libc

_IN_OPEN = 0x20
_EVENTS = 4096


class Gate:
    """A FIFO in the place of a file, for one reader."""

    def __init__(self, path: Path, beginning: str = "") -> None:
        """Replaces the file, of which the reader gets the beginning at once. Raises OSError.

        The beginning is all that it gets if we die.
        """
        self._path = path
        self._fifo: int | None = None
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        # Open at both ends, so that a reader's open(2) returns at once and it is its read(2) that waits.
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(self._fifo, beginning.encode())
        try:
            self._opened = libc.call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            os.close(self._fifo)
            raise
        try:
            libc.call("inotify_add_watch", self._opened, path, _IN_OPEN)
        except OSError:
            self._close()
            raise

    async def reached(self) -> None:
        """Returns when the reader has come."""
        await trio.lowlevel.wait_readable(self._opened)

    def let_through(self, text: str) -> None:
        """The reader reads this, and then the end of the file; what comes later finds an ordinary one. Raises OSError.

        As much as a FIFO takes at once: 64 KiB, unless the machine is short of memory for them.
        """
        assert self._fifo is not None
        data = text.encode()
        if os.write(self._fifo, data) != len(data):
            raise OSError(errno.EFBIG, f"{len(data)} bytes are too much to wait in {self._path}")
        self.close()

    def close(self) -> None:
        """A reader that still waits finds the end of the file: end it before."""
        if self._fifo is not None:
            self._path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        assert self._fifo is not None
        os.close(self._fifo)
        os.close(self._opened)
        self._fifo = None
