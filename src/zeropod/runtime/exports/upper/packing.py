"""Makes the archive of an upper layer: finds it, walks it, and tells deletions from what was written.

Owns what overlayfs does in an upper layer. A deleted file is a character device 0:0 or, in a layer without devices, an
empty file with the attribute "overlay.whiteout" in a directory with "overlay.opaque" = "x"; a directory that hides all
that the image has in it has "overlay.opaque" = "y". With the mount options redirect_dir and metacopy an entry may be
the image's under another name, or its attributes alone: what lies in the upper layer is not all of it then, so such a
layer is refused. The container is frozen: a file that changes while it is read is an error.

Source of facts: Documentation/filesystems/overlayfs.rst, fs/overlayfs/{namei,super,params}.c.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from zeropod.kernel import mountinfo
from zeropod.runtime.exports.upper import records
from zeropod.runtime.exports.upper.records import DEEPEST, MOST_BYTES, MOST_ENTRIES, PART, Entry, Kind

_PREFIXES: Final = (b"trusted.overlay.", b"user.overlay.")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC
_KINDS: Final = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTERS,
    stat.S_IFBLK: Kind.BLOCKS,
    stat.S_IFIFO: Kind.FIFO,
}


class Unpackable(Exception):  # noqa: N818 - what the layer is
    """The container's root file system cannot go with it; the text says why."""


@dataclass(slots=True)
class Packed:
    """What is in an archive."""

    entries: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    """Sockets, which are of no use without their processes. At most a hundred of them."""


def find(rootfs: Path, mounts: list[mountinfo.Mount] | None = None) -> Path:
    """Return the upper layer of the root file system mounted here. Raises Unpackable, OSError."""
    place = os.path.realpath(rootfs)
    at = [mount for mount in mountinfo.read() if mount.place == place] if mounts is None else mounts
    if not at:
        raise Unpackable(f"nothing is mounted at {rootfs}, so what was written to it cannot be told from its image")
    mount = at[-1]
    if mount.kind != "overlay":
        raise Unpackable(f"its root file system is {mount.kind} and no overlay: what was written cannot be told apart")
    for option in mount.options:
        name, _, value = option.partition("=")
        if name == "upperdir" and os.path.isabs(upper := mountinfo.unescaped(value)):
            return Path(upper)
    raise Unpackable("its root file system is read-only, or its upper layer has no absolute path")


def pack(upper: Path, to: BinaryIO, check: Callable[[], None] = lambda: None) -> Packed:
    """Write the archive; `check` may raise to end it. Blocks. Raises Unpackable, OSError."""
    to.write(records.MAGIC)
    packing = _Packing(to, check)
    descriptor = os.open(upper, _DIRECTORY)
    try:
        packing.directory(descriptor, b"", 0)
    finally:
        os.close(descriptor)
    records.write(to, Entry(Kind.END, b"", size=packing.packed.entries))
    return packing.packed


class _Packing:
    def __init__(self, to: BinaryIO, check: Callable[[], None]) -> None:
        self.packed = Packed()
        self._to = to
        self._check = check
        self._links: dict[tuple[int, int], bytes] = {}
        """The first path of each file with several."""

    def directory(self, descriptor: int, path: bytes, depth: int) -> None:
        """Write a directory and all in it."""
        if depth > DEEPEST:
            raise Unpackable(f"its directories lie deeper than {DEEPEST} in each other")
        found = os.fstat(descriptor)
        attributes = _attributes(b"/proc/self/fd/%d" % descriptor, follow=True)
        own = _overlay(attributes, path)
        self._write(_entry(Kind.DIRECTORY, path, found, attributes, opaque=own.get(b"opaque") == b"y"))
        # An entry for each name: memory for the names of one directory for each level.
        for name in sorted(map(os.fsencode, os.listdir(descriptor))):
            self._check()
            self._below(descriptor, name, path + b"/" + name if path else name, depth)

    def _below(self, parent: int, name: bytes, path: bytes, depth: int) -> None:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                self.directory(descriptor, path, depth + 1)
            finally:
                os.close(descriptor)
            return None
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            return self._write(Entry(Kind.DELETED, path))
        if (kind := _KINDS.get(stat.S_IFMT(found.st_mode))) is None:
            if len(self.packed.skipped) < 100:
                self.packed.skipped.append(os.fsdecode(path))
            return None
        if found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                return self._write(Entry(Kind.HARD_LINK, path, target=first))
        attributes = _attributes(b"/proc/self/fd/%d/%s" % (parent, name))
        own = _overlay(attributes, path)
        if b"whiteout" in own and not found.st_size:
            return self._write(Entry(Kind.DELETED, path))
        if kind is Kind.FILE:
            return self._file(parent, name, path, found, attributes)
        target = os.readlink(name, dir_fd=parent) if kind is Kind.SYMLINK else b""
        return self._write(_entry(kind, path, found, attributes, target=target))

    def _file(
        self, parent: int, name: bytes, path: bytes, found: os.stat_result, attributes: dict[bytes, bytes]
    ) -> None:
        descriptor = os.open(name, _FILE, dir_fd=parent)
        try:
            self._write(_entry(Kind.FILE, path, found, attributes))
            for start, end in _extents(descriptor, found.st_size):
                for offset in range(start, end, PART):
                    self._check()
                    data = os.pread(descriptor, min(PART, end - offset), offset)
                    self.packed.bytes += len(data)
                    if len(data) != min(PART, end - offset):
                        raise Unpackable(f"{os.fsdecode(path)!r} changes while it is read")
                    records.write_part(self._to, offset, data)
            if self.packed.bytes > MOST_BYTES:
                raise Unpackable(f"it has written more than {MOST_BYTES >> 30} GiB to its root file system")
            records.write_file_end(self._to)
            if _version(os.fstat(descriptor)) != _version(found):
                raise Unpackable(f"{os.fsdecode(path)!r} changes while it is read")
        finally:
            os.close(descriptor)

    def _write(self, entry: Entry) -> None:
        self.packed.entries += 1
        if self.packed.entries > MOST_ENTRIES:
            raise Unpackable(f"it has written more than {MOST_ENTRIES} files to its root file system")
        try:
            records.write(self._to, entry)
        except ValueError as error:
            raise Unpackable(f"{os.fsdecode(entry.path)!r}: {error}") from None


def _entry(
    kind: Kind,
    path: bytes,
    found: os.stat_result,
    attributes: dict[bytes, bytes],
    *,
    opaque: bool = False,
    target: bytes = b"",
) -> Entry:
    return Entry(
        kind,
        path,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        (found.st_atime_ns, found.st_mtime_ns),
        {name: value for name, value in attributes.items() if not records.is_of_overlay(name)},
        opaque,
        target,
        (os.major(found.st_rdev), os.minor(found.st_rdev)),
        found.st_size if kind is Kind.FILE else 0,
    )


def _version(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _attributes(place: bytes, *, follow: bool = False) -> dict[bytes, bytes]:
    """Return the extended attributes."""
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            return {}
        raise
    return {os.fsencode(name): os.getxattr(place, name, follow_symlinks=follow) for name in names}


def _overlay(attributes: dict[bytes, bytes], path: bytes) -> dict[bytes, bytes]:
    """Return the overlay's own attributes, without their prefix. Raises Unpackable."""
    own = {
        name.removeprefix(prefix): value
        for name, value in attributes.items()
        for prefix in _PREFIXES
        if name.startswith(prefix)
    }
    for name, why in (
        (b"redirect", "was renamed, with the mount option redirect_dir"),
        (b"metacopy", "has no content, with the mount option metacopy"),
    ):
        if name in own:
            raise Unpackable(f"{os.fsdecode(path)!r} in its upper layer {why}: its image would be needed to move it")
    return own


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data."""
    start = end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # the rest is a hole
            raise
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        yield start, end
