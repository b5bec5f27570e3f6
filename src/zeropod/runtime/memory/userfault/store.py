"""The page store of one container: files of pages.

Owns the directory (open to root alone, since it holds the container's secrets) and the files. Which page of which
process is where only the shim and its pager know, in memory: the processes do not outlive the shim, as containerd ends
them with it, and a pager outlives it until then. What is left of a store is deleted with the container's directory.
A file is written once, from its beginning to its end, by one move, and never again: so what it is can be told from its
size and its change time for as long as it is used, and a move that is broken off leaves nothing but a file to delete.
What is not current any more makes files sparse in what counts; when that is most of a file, the rest is written anew.

Source of facts: sync_file_range(2); stat(2) for st_ctim.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from zeropod.kernel import libc
from zeropod.runtime.pager.files import PagesFile

_PAGES: Final = "pages-"

FILES: Final = 12
"""The most files; one more move writes the smallest ones anew."""
GARBAGE: Final = 8 << 20
"""Bytes of a file that may be out of date whatever its size."""

_SYNC_FILE_RANGE_WRITE: Final = 2


class NewFile:
    """A file that is being written. `finish` or `abandon` is due."""

    def __init__(self, directory: Path, number: int) -> None:
        """Raises OSError."""
        self.number = number
        self.path = directory / f"{_PAGES}{number}"
        self.size = 0
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def append(self, data: memoryview | bytes) -> int:
        """Write behind what is there; return where. Raises OSError."""
        at, view = self.size, memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, self.size)
            self.size += count
            view = view[count:]
        return at

    def finish(self) -> PagesFile:
        """Return it for reading. Begins to write it to disk: the kernel can take clean pages. Raises OSError."""
        with suppress(OSError):
            libc.call("sync_file_range", self._descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)
        try:
            return PagesFile.open(self.path)
        finally:
            os.close(self._descriptor)

    def abandon(self) -> None:
        """Delete it."""
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)


class PageStore:
    """Files by number. Used by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        """Empties the directory. Raises OSError."""
        self.directory = directory
        self.files: dict[int, PagesFile] = {}
        self._next = 1
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        for path in directory.glob(f"{_PAGES}*"):
            path.unlink(missing_ok=True)

    def begin(self) -> NewFile:
        """A new file, for one move. Raises OSError."""
        file = NewFile(self.directory, self._next)
        self._next += 1
        return file

    def add(self, file: NewFile) -> None:
        """What has been written counts. Raises OSError."""
        self.files[file.number] = file.finish()

    def keep(self, numbers: Iterable[int]) -> None:
        """Delete the other files; pagers that have them open keep them."""
        kept = set(numbers)
        for number in [number for number in self.files if number not in kept]:
            file = self.files.pop(number)
            os.close(file.descriptor)
            file.path.unlink(missing_ok=True)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.fingerprint.size for file in self.files.values())

    def outdated(self, live: Mapping[int, int]) -> set[int]:
        """Which files are to be written anew with the next move, given how many bytes of each are current."""
        chosen = {
            number
            for number, file in self.files.items()
            if 0 < live.get(number, 0) < file.fingerprint.size - GARBAGE and live[number] * 2 < file.fingerprint.size
        }
        rest = sorted((live.get(number, 0), number) for number in self.files if number not in chosen)
        return chosen | {number for _, number in rest[: max(0, len(rest) - FILES + 1)] if live.get(number, 0)}

    def damage(self) -> str:
        """What has happened to a file; empty if they are as they were written."""
        return next(filter(None, (file.damage() for file in self.files.values())), "")

    def close(self) -> None:
        """Delete the files, and the directory with them."""
        self.keep(())
        with suppress(OSError):
            self.directory.rmdir()
