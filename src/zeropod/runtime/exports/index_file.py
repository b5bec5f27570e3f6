"""Indexes of the page store as files: where each page of one process is in the store's files.

Owns the format and its check. A file is a header, the arrays of the extents, the states of all pages, a digest:

    magic, format | number of extents (u64) | number of pages (u64) | starts | ends | offsets (u64 each) | files (u32)
    | states (a byte each) | blake2b-128 of all before

All little-endian. What is read may come from another node: nothing of it is used before all of it has been checked.
"""

import hashlib
import struct
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.memory.userfault.extents import Index
from zeropod.runtime.pagemap import Runs
from zeropod.runtime.pager.journal import IN, MISSING, OUTDATED

_HEADER: Final = struct.Struct("<8sQQ")
_MAGIC: Final = b"zpindex1"
_DIGEST: Final = 16
_EACH: Final = 8 + 8 + 8 + 4
"""Bytes of an extent."""

LARGEST: Final = 256 << 20
"""Bytes of the largest file that is read: with a page in each extent, a process of 36 GiB."""
HIGHEST: Final = 1 << 56
"""No process has memory from here on, on any machine that we know of."""
_STATES: Final = bytes([MISSING, IN, OUTDATED])


def encode(index: Index) -> bytes:
    """Return the content of the file."""
    runs = index.runs
    body = _HEADER.pack(_MAGIC, len(runs.starts), len(index.states))
    body += b"".join(_little(part) for part in (runs.starts, runs.ends, runs.offsets, runs.files))
    body += index.states
    return body + _digest(body)


def write(path: Path, index: Index) -> None:
    """Raises OSError."""
    path.write_bytes(encode(index))


def read(path: Path, files: Mapping[int, int]) -> Index:
    """Return the index in a file, given the sizes of the store's files by number. Raises BadExport, OSError."""
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    try:
        return decode(content, files)
    except BadExport as error:
        raise BadExport(f"{path}: {error}") from None


def decode(content: bytes, files: Mapping[int, int]) -> Index:
    """Return the index in the content of a file. Raises BadExport."""
    if len(content) > LARGEST:
        raise BadExport("it is too large")
    if len(content) < _HEADER.size + _DIGEST:
        raise BadExport("it is cut short")
    magic, extents, pages = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise BadExport("it is not an index of a format that this version knows")
    if _HEADER.size + extents * _EACH + pages + _DIGEST != len(content):
        raise BadExport("its size is not what its header says")
    if _digest(content[:-_DIGEST]) != content[-_DIGEST:]:
        raise BadExport("its digest is not that of its content")
    at = _HEADER.size
    starts, ends, offsets = (_array("Q", content[at + part * 8 * extents :][: 8 * extents]) for part in range(3))
    numbers = _array("I", content[at + 24 * extents :][: 4 * extents])
    states = content[at + _EACH * extents : -_DIGEST]
    if states.translate(None, _STATES):
        raise BadExport("a page has a state that there is not")
    _check(starts, ends, offsets, numbers, pages, files)
    index = Index()
    index.runs = Runs(starts, ends, numbers, offsets, array("B", b"\1" * extents))
    index.states = bytearray(states)
    return index


def _check(
    starts: "array[int]",
    ends: "array[int]",
    offsets: "array[int]",
    numbers: "array[int]",
    pages: int,
    files: Mapping[int, int],
) -> None:
    before = covered = 0
    for start, end, offset, number in zip(starts, ends, offsets, numbers, strict=True):
        if not before <= start < end <= HIGHEST:
            raise BadExport(f"its extent at {start:#x} is not after the one before, or not in any process's memory")
        if (start | end | offset) % PAGE:
            raise BadExport(f"its extent at {start:#x} does not consist of pages")
        if number not in files:
            raise BadExport(f"it refers to file {number}, which there is not")
        if offset + end - start > files[number]:
            raise BadExport(f"its extent at {start:#x} goes beyond the end of file {number}")
        before, covered = end, covered + end - start
    if covered != pages * PAGE:
        raise BadExport("it does not have a state for each page")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _little(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _array(kind: str, data: bytes) -> "array[int]":
    numbers = array(kind, data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
