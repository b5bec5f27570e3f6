"""Locates the pages of a container's processes in CRIU's image: pagemap-PID.img and pages-N.img.

Owns the format. A pagemap is a header that names the pages file, then runs of pages in the order of their addresses;
runs that are `present` lie in the pages file in the same order. The contents of a run in the parent (a pre-dump, linked
as `parent`) are there. The pager decides what to do with a page.

Source of facts: CRIU's images/pagemap.proto and criu/pagemap.c; field 5 carries the number of pages since CRIU 4.1.
"""

import mmap
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zeropod.runtime.errors import CriuError

PAGE = mmap.PAGESIZE

PARENT = 1
LAZY = 2
PRESENT = 4

_LENGTH = struct.Struct("<I")
_MAGICS = 8
"""Bytes of the two magic numbers that every image begins with."""


class Entry(NamedTuple):
    """One run of pages. `flags` are PARENT, LAZY, PRESENT."""

    address: int
    pages: int
    flags: int


@dataclass(slots=True)
class Runs:
    """The pages of one process in the image, as runs sorted by address; each array has one item per run."""

    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    """Address of the first page."""
    ends: "array[int]" = field(default_factory=lambda: array("Q"))
    """Address after the last page."""
    files: "array[int]" = field(default_factory=lambda: array("I"))
    """Number of the pages file in `Image.files`."""
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    """Bytes into that file."""
    lazy: "array[int]" = field(default_factory=lambda: array("B"))
    """1: left out by a lazy restore; 0: CRIU has restored it itself."""

    def append(self, start: int, end: int, file: int, offset: int, lazy: bool) -> None:
        last = len(self.starts) - 1
        if (
            last >= 0
            and self.ends[last] == start
            and self.files[last] == file
            and self.lazy[last] == lazy
            and self.offsets[last] + start - self.starts[last] == offset
        ):
            self.ends[last] = end
            return
        self.starts.append(start)
        self.ends.append(end)
        self.files.append(file)
        self.offsets.append(offset)
        self.lazy.append(lazy)

    @property
    def pages(self) -> int:
        return (sum(self.ends) - sum(self.starts)) // PAGE

    def within(self, start: int, end: int) -> Iterator[tuple[int, int, int, int, bool]]:
        """Yield the parts of runs in [start, end): (start, end, file, offset, lazy)."""
        for at in range(max(0, bisect_right(self.starts, start) - 1), len(self.starts)):
            if self.starts[at] >= end:
                return
            low, high = max(start, self.starts[at]), min(end, self.ends[at])
            if low < high:
                yield low, high, self.files[at], self.offsets[at] + low - self.starts[at], bool(self.lazy[at])


@dataclass(frozen=True, slots=True)
class Image:
    """The pages of every process in an image, and the files that they lie in."""

    processes: dict[int, Runs]
    """By CRIU's pid, which is the one in the container's pid namespace."""
    files: tuple[Path, ...]


def read(images: Path) -> Image:
    """Read the pagemaps of an image. Raises CriuError when one is damaged, OSError when it cannot be read."""
    files: list[Path] = []
    pids = sorted(int(path.stem.removeprefix("pagemap-")) for path in images.glob("pagemap-[0-9]*.img"))
    return Image({pid: _runs(images, pid, files) for pid in pids}, tuple(files))


def _runs(images: Path, pid: int, files: list[Path]) -> Runs:
    pages, entries = _parse(images / f"pagemap-{pid}.img")
    parent: Runs | None = None
    path = images / f"pages-{pages}.img"
    if path not in files:
        files.append(path)
    file, offset, runs = files.index(path), 0, Runs()
    for entry in entries:
        end = entry.address + entry.pages * PAGE
        if entry.flags & PARENT:
            if parent is None:
                parent = _runs((images / "parent").resolve(), pid, files)
            found = 0
            for low, high, file_of, offset_of, lazy in parent.within(entry.address, end):
                found += high - low
                runs.append(low, high, file_of, offset_of, lazy)
            if found != end - entry.address:
                raise CriuError(f"{images / 'parent'} lacks pages at {entry.address:#x} of process {pid}")
        elif entry.flags & PRESENT:
            runs.append(entry.address, end, file, offset, bool(entry.flags & LAZY))
            offset += entry.pages * PAGE
    if (size := path.stat().st_size if offset else 0) < offset:
        raise CriuError(f"{path} has {size} bytes, the pages in it {offset}: it was cut short")
    return runs


def _parse(path: Path) -> tuple[int, list[Entry]]:
    try:
        return parse(path.read_bytes())
    except (IndexError, KeyError, struct.error) as error:
        raise CriuError(f"{path} is damaged: it ends in the middle of an entry, or is not a pagemap") from error


def parse(data: bytes) -> tuple[int, list[Entry]]:
    """Return the number of the pages file, and the entries. Raises IndexError, KeyError or struct.error."""
    number, at = _message(data, _MAGICS)
    entries = []
    while at < len(data):
        fields, at = _message(data, at)
        # Images without flags are older than CRIU 2.9: the page is in the parent, or else present.
        flags = fields.get(4, PARENT if fields.get(3) else PRESENT)
        entries.append(Entry(fields[1], fields.get(5) or fields[2], flags))
    return number.get(1, 0), entries


def _message(data: bytes, at: int) -> tuple[dict[int, int], int]:
    """Return the fields of a message and the offset of the next one.

    A message is four bytes of length, then pairs of key and value, all varints; keys have one byte. A large image has
    tens of thousands of messages, and the container waits for them: hence the loop without calls (for 30,000 messages
    0.3 s; protobuf, which is carried in pure Python, takes 1.0 s).
    """
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    end = at + length
    fields = {}
    while at < end:
        field = data[at] >> 3
        value = data[at + 1]
        at += 2
        if value & 0x80:
            value &= 0x7F
            shift = 7
            while (byte := data[at]) & 0x80:
                value |= (byte & 0x7F) << shift
                shift += 7
                at += 1
            value |= byte << shift
            at += 1
        fields[field] = value
    if at != end:
        raise IndexError(at)
    return fields, end
