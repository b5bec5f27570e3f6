"""The page store of one container: files of pages.

Owns the directory (accessible to root alone, since it holds the container's secrets) and the files. The index of pages
exists only in the memory of the shim and its pager: containerd ends the processes with the shim, and a pager outlives
the shim until then. The remains of a store are deleted with the container's directory.
A file is written once, sequentially, by one move, and never again: so its size and change time identify its content for
as long as it is used, and a move that is cut leaves only a file to delete. Outdated pages remain in files; when they
are most of a file, the current rest is written to a new one: little at a time, unless the disk needs it.

Source of facts: sync_file_range(2); stat(2) for st_ctim.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from zeropod.kernel import libc
from zeropod.runtime.pager.files import PagesFile

_PAGES: Final = "pages-"

FILES: Final = 12
"""The most files; beyond that, a move rewrites the smallest ones."""
GARBAGE: Final = 8 << 20
"""Bytes of a file that may be outdated, whatever its size."""
LITTLE: Final = 1 / 50
"""Part of what is current that a move may rewrite for the sake of the disk."""
LARGE: Final = 2
"""How many times as large as what is current the files may be; beyond that, a move rewrites as much as it takes."""

_SYNC_FILE_RANGE_WRITE: Final = 2


class NewFile:
    """A file that is being written. Call `finish` or `abandon` at the end."""

    def __init__(self, directory: Path, number: int) -> None:
        """Create the file. Raises OSError."""
        self.number = number
        self.path = directory / f"{_PAGES}{number}"
        self.size = 0
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def append(self, data: memoryview | bytes) -> int:
        """Append data; return its offset. Raises OSError."""
        at, view = self.size, memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, self.size)
            self.size += count
            view = view[count:]
        return at

    def finish(self) -> PagesFile:
        """Start writeback, so that the kernel can reclaim its pages; return the file for reading. Raises OSError."""
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

    def __init__(self, directory: Path, files: Mapping[int, PagesFile] | None = None) -> None:
        """Empty the directory; or take over its `files`, which are open and complete or will be. Raises OSError."""
        self.directory = directory
        self.files = dict(files or {})
        self._next = max(self.files, default=0) + 1
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        if files is None:
            for path in directory.glob(f"{_PAGES}*"):
                path.unlink(missing_ok=True)

    @classmethod
    def existing(cls, directory: Path, numbers: Iterable[int]) -> "PageStore":
        """Return a store that takes over the files with these numbers. Raises OSError."""
        files: dict[int, PagesFile] = {}
        try:
            for number in numbers:
                files[number] = PagesFile.open(directory / f"{_PAGES}{number}")
        except OSError:
            for file in files.values():
                os.close(file.descriptor)
            raise
        return cls(directory, files)

    def has_moved(self, directory: Path) -> None:
        """Take note that the directory was renamed, which leaves its files as they are."""
        self.directory = directory
        self.files = {number: replace(file, path=directory / file.path.name) for number, file in self.files.items()}

    def begin(self) -> NewFile:
        """Return a new file, for one move. Raises OSError."""
        file = NewFile(self.directory, self._next)
        self._next += 1
        return file

    def add(self, file: NewFile) -> None:
        """Finish a file and add it to the store. Raises OSError."""
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
        """Return the size of all files."""
        return sum(file.fingerprint.size for file in self.files.values())

    def outdated(self, live: Mapping[int, int]) -> set[int]:
        """Return the files to rewrite with the next move, given how many bytes of each are current.

        One that is still being filled cannot be.
        """
        whole_files = [number for number in self.files if self.files[number].complete]
        current = sum(live.values())
        room = current * LITTLE if self.bytes <= current * LARGE else current
        chosen = set()
        for size, number in sorted((live.get(number, 0), number) for number in whole_files):
            whole = self.files[number].fingerprint.size
            if 0 < size < whole - GARBAGE and size * 2 < whole and size <= room:
                chosen.add(number)
                room -= size
        rest = sorted((live.get(number, 0), number) for number in whole_files if number not in chosen)
        excess = len(self.files) - len(chosen) - FILES + 1
        return chosen | {number for _, number in rest[: max(0, excess)] if live.get(number, 0)}

    def leave_files(self) -> None:
        """Let go of the files, which stay where they are."""
        while self.files:
            os.close(self.files.popitem()[1].descriptor)

    def damage(self) -> str:
        """Return how a file was changed or lost; empty if all are as they were written."""
        return next(filter(None, (file.damage() for file in self.files.values())), "")

    def close(self) -> None:
        """Delete the files, and the directory with them."""
        self.keep(())
        with suppress(OSError):
            self.directory.rmdir()
