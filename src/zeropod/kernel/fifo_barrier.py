"""A FIFO in place of a file: its reader blocks in read(2) until the content is supplied; inotify tells of the reader.

Source of facts: fifo(7), inotify(7).
"""

import errno
import os
from pathlib import Path

import trio

from zeropod.kernel import libc

_IN_OPEN = 0x20


class FifoBarrier:
    """A FIFO in the place of a file, for one reader."""

    def __init__(self, path: Path, beginning: str = "") -> None:
        """Replace the file; the reader gets `beginning` at once. Raises OSError.

        If this process dies, the reader gets the beginning and no more.
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
            path.unlink()  # a FIFO without a reader would block the next process that writes there
            self.close()
            raise

    async def reached(self) -> None:
        assert self._opened is not None
        await trio.lowlevel.wait_readable(self._opened)

    def let_through(self, text: str) -> None:
        """Let the reader read `text` and the end of the file; later readers find an ordinary file. Raises OSError.

        `text` must fit into the FIFO at once: 64 KiB, less where the machine limits pipe memory (EFBIG).
        """
        assert self._fifo is not None
        data = text.encode()
        if os.write(self._fifo, data) != len(data):
            raise OSError(errno.EFBIG, f"{len(data)} bytes do not fit into the FIFO {self._path}")
        self.close()

    def close(self) -> None:
        """Close the FIFO. A reader that still waits reads the end of the file, so end that process first."""
        if self._fifo is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fifo)
        if self._opened is not None:
            os.close(self._opened)
        self._fifo = self._opened = None
