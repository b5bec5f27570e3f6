"""The page store of one container: files of pages, and the index that says which page of which process is where.

Owns the directory (open to root alone, since it holds the container's secrets), the files and the format of the index.
A file is written once, from its beginning to its end, by one move, and never again: so what it is can be told from its
size and its change time for as long as it is used, and a move that is broken off leaves nothing but a file to delete.
What is not current any more makes files sparse in what counts; when that is most of a file, the rest is written anew.

Source of facts: sync_file_range(2); stat(2) for st_ctim.
"""

import json
import os
import struct
import zlib
from array import array
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zeropod.kernel import libc
from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pagemap import Runs
from zeropod.runtime.pager.files import PagesFile

INDEX: Final = "index"
_PAGES: Final = "pages-"
_MAGIC: Final = b"zeropod-pages-1\n"
_LENGTHS: Final = struct.Struct("<II")

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


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index has of one process."""

    pid: int
    runs: Runs
    """Their `files` are numbers of files in the store."""
    states: bytes
    """One byte a page, in the order of the runs, as in the pager's journal."""


class Damaged(Exception):  # noqa: N818 - what has happened to it
    """The store cannot be used, and why."""


class PageStore:
    """Files by number. Used by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        """Empties the directory. Raises OSError."""
        self.directory = directory
        self.files: dict[int, PagesFile] = {}
        self._next = 1
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        for path in (*directory.glob(f"{_PAGES}*"), directory / INDEX):
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

    def write_index(self, entries: Iterable[Entry]) -> None:
        """Replace the index on disk. Raises OSError."""
        new = self.directory / f"{INDEX}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(encode(self.files, entries))
        new.rename(self.directory / INDEX)

    def close(self, *, remove: bool = True) -> None:
        """Let go of the files, and delete them."""
        if remove:
            self.keep(())
            (self.directory / INDEX).unlink(missing_ok=True)
            with suppress(OSError):
                self.directory.rmdir()
            return
        while self.files:
            os.close(self.files.popitem()[1].descriptor)


def encode(files: Mapping[int, PagesFile], entries: Iterable[Entry]) -> bytes:
    """Return the index as it is on disk: magic, then head and body with their lengths, then a checksum of all."""
    head: dict[str, list[list[int]]] = {
        "files": [
            [number, file.fingerprint.size, file.fingerprint.inode, file.fingerprint.changed_ns]
            for number, file in sorted(files.items())
        ],
        "processes": [],
    }
    body = []
    for entry in entries:
        head["processes"].append([entry.pid, len(entry.runs.starts), len(entry.states)])
        runs = entry.runs
        body += [runs.starts.tobytes(), runs.ends.tobytes(), runs.offsets.tobytes(), runs.files.tobytes()]
        body.append(zlib.compress(entry.states, 1))
        head["processes"][-1].append(len(body[-1]))
    text, data = json.dumps(head, separators=(",", ":")).encode(), b"".join(body)
    whole = _MAGIC + _LENGTHS.pack(len(text), len(data)) + text + data
    return whole + zlib.crc32(whole).to_bytes(4, "little")


def decode(data: bytes) -> tuple[dict[int, Fingerprint], list[Entry]]:
    """Return what `encode` was given. Raises Damaged."""
    whole, check = data[:-4], data[-4:]
    if not whole.startswith(_MAGIC) or zlib.crc32(whole).to_bytes(4, "little") != check:
        raise Damaged("the index of the page store is damaged: its checksum is wrong")
    try:
        at = len(_MAGIC) + _LENGTHS.size
        length, _ = _LENGTHS.unpack_from(whole, len(_MAGIC))
        head = json.loads(whole[at : at + length])
        at += length
        files = {number: Fingerprint(*rest) for number, *rest in head["files"]}
        entries = []
        for pid, count, pages, packed in head["processes"]:
            columns = []
            for code in "QQQI":
                column = array(code)
                size = count * column.itemsize
                column.frombytes(whole[at : at + size])
                columns.append(column)
                at += size
            states = zlib.decompress(whole[at : at + packed])
            at += packed
            starts, ends, offsets, numbers = columns
            runs = Runs(starts, ends, numbers, offsets, array("B", bytes([1]) * count))
            if len(states) != pages or runs.pages != pages or len(starts) != count:
                raise Damaged("the index of the page store is damaged: its numbers do not agree")
            entries.append(Entry(pid, runs, states))
    except (ValueError, KeyError, TypeError, struct.error, zlib.error) as error:
        raise Damaged(f"the index of the page store is damaged: {error}") from error
    return files, entries
