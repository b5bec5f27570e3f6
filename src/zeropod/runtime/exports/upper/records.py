"""The archive of an upper layer as a stream of records.

Owns the format and its bounds. A record is 4 bytes of length and a JSON object; after that of a file come its parts:
8 bytes of offset, 4 bytes of length, that many bytes, and a part of length 0 at the end. Holes are left out. The last
record counts the ones before it, so an archive that was cut shows. Entries come depth first, a directory before what is
in it, so that they can be applied with one open directory for each level. A name is bytes: what is not UTF-8 in it is
written as Python's surrogates.

It is a format of its own because tar's have no deletions, and each of its dialects loses something else.
"""

import json
import os
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO, Final

MAGIC: Final = b"zpupper1"
LARGEST: Final = 1 << 20
"""Bytes of a record."""
PART: Final = 1 << 20
"""Bytes of a part of a file."""
MOST_ENTRIES: Final = 4_000_000
MOST_BYTES: Final = 1 << 38
"""Of content."""
LARGEST_FILE: Final = 1 << 44
"""Bytes, with its holes."""
DEEPEST: Final = 256
"""Levels of directories."""
MOST_ATTRIBUTES: Final = 256
_LENGTH: Final = struct.Struct(">I")
_PART_HEAD: Final = struct.Struct(">QI")


class BadArchive(Exception):  # noqa: N818 - named for what was found
    """The archive is damaged, or was made to do harm; the text says how."""


class Kind(StrEnum):
    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    """Another name of an entry before it; it has no attributes of its own."""
    CHARACTERS = "character device"
    BLOCKS = "block device"
    FIFO = "fifo"
    DELETED = "deleted"
    """The image has something here that the container has deleted."""
    END = "end"


@dataclass(frozen=True, slots=True)
class Entry:
    kind: Kind
    path: bytes
    """From the root, without a leading slash; empty for the root itself."""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    times: tuple[int, int] = (0, 0)
    """Access and modification in ns."""
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    """Extended ones."""
    opaque: bool = False
    """Of a directory: nothing that the image has in it is left."""
    target: bytes = b""
    """Of a symbolic link, or the path of the entry that a hard link is another name of."""
    device: tuple[int, int] = (0, 0)
    """Major and minor."""
    size: int = 0
    """Of a file; for END the number of entries."""

    @property
    def parent(self) -> bytes:
        return self.path.rpartition(b"/")[0]

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]


def write(to: BinaryIO, entry: Entry) -> None:
    """Raises OSError, ValueError for a record that would be too large."""
    found = {
        "kind": entry.kind,
        "path": os.fsdecode(entry.path),
        "mode": entry.mode,
        "owner": [entry.uid, entry.gid],
        "times": list(entry.times),
        "attributes": {os.fsdecode(name): b64encode(value).decode() for name, value in entry.attributes.items()},
        "opaque": entry.opaque,
        "target": os.fsdecode(entry.target),
        "device": list(entry.device),
        "size": entry.size,
    }
    data = json.dumps(found).encode()
    if len(data) > LARGEST:
        raise ValueError("its attributes are too large")
    to.write(_LENGTH.pack(len(data)) + data)


def write_part(to: BinaryIO, offset: int, data: bytes | memoryview) -> None:
    to.write(_PART_HEAD.pack(offset, len(data)))
    to.write(data)


def write_file_end(to: BinaryIO) -> None:
    to.write(_PART_HEAD.pack(0, 0))


class Reader:
    """Reads an archive, of which nothing is believed. Its methods raise BadArchive, OSError."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive
        self._bytes = 0
        if self._exactly(len(MAGIC)) != MAGIC:
            raise BadArchive("it is not an archive of an upper layer")

    def entries(self) -> Iterator[Entry]:
        """Yield the entries; the parts of a file must be read before the next one is."""
        for count in range(MOST_ENTRIES + 1):
            (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
            if length > LARGEST:
                raise BadArchive(f"it has a record of {length} bytes")
            entry = _decoded(self._exactly(length))
            if entry.kind is Kind.END:
                if entry.size != count or self._archive.read(1):
                    raise BadArchive("it does not end where it says")
                return
            yield entry
        raise BadArchive(f"it has more than {MOST_ENTRIES} entries")

    def parts(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, content) of a file of this size."""
        end = 0
        while True:
            offset, length = _PART_HEAD.unpack(self._exactly(_PART_HEAD.size))
            if not length:
                return
            if length > PART or offset < end or offset + length > size:
                raise BadArchive("it has a part of a file that does not fit in")
            end = offset + length
            self._bytes += length
            if self._bytes > MOST_BYTES:
                raise BadArchive(f"it has more than {MOST_BYTES >> 30} GiB")
            yield offset, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = self._archive.read(length)
        if len(data) != length:
            raise BadArchive("it was cut short")
        return data


def _decoded(data: bytes) -> Entry:
    try:
        found = json.loads(data)
        return _checked(found)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadArchive(f"it has a record of another form: {error}") from None


def _checked(found: dict[str, Any]) -> Entry:
    kind, path, target = Kind(found["kind"]), os.fsencode(found["path"]), os.fsencode(found["target"])
    check_path(path)
    if kind is Kind.HARD_LINK:
        check_path(target)
    if (kind in (Kind.SYMLINK, Kind.HARD_LINK)) != bool(target) or b"\0" in target or len(target) > 4096:
        raise ValueError("a link without a target, or a target without a link")
    if not path and kind not in (Kind.DIRECTORY, Kind.END):
        raise ValueError("the root is a directory")
    attributes = {os.fsencode(name): b64decode(value, validate=True) for name, value in found["attributes"].items()}
    if len(attributes) > MOST_ATTRIBUTES or not all(0 < len(name) < 256 and b"\0" not in name for name in attributes):
        raise ValueError("too many attributes, or names that none has")
    if any(is_of_overlay(name) for name in attributes):
        raise ValueError("attributes of an overlay itself")
    if not isinstance(found["opaque"], bool):
        raise ValueError("opaque is true or false")
    return Entry(
        kind=kind,
        path=path,
        mode=_number(found["mode"], 0o7777),
        uid=_number(found["owner"][0], 0xFFFFFFFE),
        gid=_number(found["owner"][1], 0xFFFFFFFE),
        times=(_time(found["times"][0]), _time(found["times"][1])),
        attributes=attributes,
        opaque=found["opaque"],
        target=target,
        device=(_number(found["device"][0], 0xFFF), _number(found["device"][1], 0xFFFFF)),
        size=_number(found["size"], LARGEST_FILE),
    )


def check_path(path: bytes) -> None:
    """Raises ValueError for one that could lead elsewhere."""
    if len(path) > 1 << 14 or b"\0" in path:
        raise ValueError("a path that is too long, or has a zero in it")
    parts = path.split(b"/") if path else []
    if len(parts) > DEEPEST or any(part in (b"", b".", b"..") or len(part) > 255 for part in parts):
        raise ValueError(f"the path {os.fsdecode(path[:200])!r}")


def is_of_overlay(name: bytes) -> bool:
    """Whether an extended attribute is an overlay's own."""
    return name.startswith((b"trusted.overlay.", b"user.overlay."))


def _number(found: object, highest: int) -> int:
    if type(found) is not int or not 0 <= found <= highest:
        raise ValueError(f"a number that is not from 0 to {highest}")
    return found


def _time(found: object) -> int:
    if type(found) is not int or not -(1 << 63) < found < 1 << 63:
        raise ValueError("a time that none is")
    return found
