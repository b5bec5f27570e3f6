"""A file whose reader stops, without noticing, until it is told what to read: a FIFO, and inotify to see it come.

Source of facts: fifo(7), inotify(7).
"""

import errno
import os
from pathlib import Path

import trio

from zeropod.kernel import libc

_IN_OPEN = 0x20


class Gate:
    """A FIFO in the place of a file, for one reader."""

    def __init__(self, path: Path, beginning: str = "") -> None:
        """Replaces the file, of which the reader gets the beginning at once. Raises OSError.

        The beginning is all that it gets if we die.
        """
        self._path = path
        self._fifo: int | None = None
        self._opened: int | None = None
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        try:
            # Open at both ends, so that a reader's open(2) returns at once and it is its read(2) that waits.
            self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._fifo, beginning.encode())
            self._opened = libc.call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
            libc.call("inotify_add_watch", self._opened, path, _IN_OPEN)
        except OSError:
            path.unlink()  # a FIFO that nobody opens would hold up who writes there next
            self.close()
            raise

    async def reached(self) -> None:
        """Returns when the reader has come."""
        assert self._opened is not None
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
            os.close(self._fifo)
        if self._opened is not None:
            os.close(self._opened)
        self._fifo = self._opened = None
