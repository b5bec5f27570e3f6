"""Applies the archive of an upper layer to a root file system, through its merged view.

Owns the guarantee that nothing outside is written, whatever the archive has: an entry is made by its last name in an
open directory, which was itself opened by one name in its parent, never through a symbolic link, and never into another
mount. Whatever goes wrong, the root file system is then half of each, and must not be used: it is the end of the move.
"""

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from zeropod.kernel.openat2 import beneath
from zeropod.runtime.exports.upper.records import BadArchive, Entry, Kind, Reader, is_of_overlay

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS: Final = (b"user.", b"trusted.", b"security.capability", b"system.posix_acl_")
"""Extended attributes that an entry has if the archive says so, and otherwise has not."""
_TYPES: Final = {
    Kind.CHARACTERS: stat.S_IFCHR,
    Kind.BLOCKS: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


class NotApplied(Exception):  # noqa: N818 - what has not happened
    """The root file system cannot be made as it was; the text says why."""


@dataclass(slots=True)
class _Open:
    """A directory that entries are being made in; its attributes are set at the end."""

    entry: Entry
    descriptor: int


def apply(archive: BinaryIO, rootfs: Path) -> int:
    """Apply an archive; return the number of its entries. Blocks. Raises BadArchive, NotApplied, OSError."""
    applying = _Applying(rootfs)
    count, path = 0, b""
    try:
        reader = Reader(archive)
        for entry in reader.entries():
            count, path = count + 1, entry.path
            applying.take(entry, reader)
        path = b""
        applying.finish()
    except OSError as error:
        raise NotApplied(_reason(error, path)) from error
    except RecursionError:
        raise NotApplied("directories of the image, which were deleted, lie too deep in each other") from None
    finally:
        applying.close()
    return count


def _reason(error: OSError, path: bytes) -> str:
    where = f"/{os.fsdecode(path)!r}" if path else "the root file system"
    if error.errno in (errno.EXDEV, errno.EBUSY):
        return f"{where}: a mount is in the way"
    if error.errno == errno.ELOOP:
        return f"{where}: a symbolic link is in the way"
    return f"{where}: {error.strerror}"


class _Applying:
    def __init__(self, rootfs: Path) -> None:
        self._rootfs = rootfs
        self._stack: list[_Open] = []

    def close(self) -> None:
        while self._stack:
            os.close(self._stack.pop().descriptor)

    def take(self, entry: Entry, reader: Reader) -> None:
        if not self._stack:
            if entry.path:
                raise BadArchive("it does not begin with the root")
            self._stack.append(_Open(entry, os.open(self._rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
            return
        if not entry.path:
            raise BadArchive("it has the root twice")
        while self._stack[-1].entry.path != entry.parent:
            if len(self._stack) == 1:
                raise BadArchive(f"{os.fsdecode(entry.path)!r} comes without its directory")
            self._leave()
        parent, name = self._stack[-1].descriptor, entry.name
        if entry.kind is Kind.DIRECTORY:
            self._stack.append(_Open(entry, self._directory(parent, name, opaque=entry.opaque)))
            return
        _remove(parent, name)
        match entry.kind:
            case Kind.DELETED:
                return
            case Kind.HARD_LINK:
                self._hard_link(entry, parent)
                return
            case Kind.FILE:
                descriptor = os.open(name, _NEW, 0o600, dir_fd=parent)
                try:
                    _write(descriptor, entry, reader)
                    _set(descriptor, entry)
                finally:
                    os.close(descriptor)
                return
            case Kind.SYMLINK:
                os.symlink(entry.target, name, dir_fd=parent)
            case _:
                os.mknod(name, _TYPES[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=parent)
        _set_by_name(parent, name, entry)

    def finish(self) -> None:
        if not self._stack:
            raise BadArchive("it is empty")
        while self._stack:
            self._leave()

    def _leave(self) -> None:
        left = self._stack.pop()
        try:
            _set(left.descriptor, left.entry)
        finally:
            os.close(left.descriptor)

    def _directory(self, parent: int, name: bytes, *, opaque: bool) -> int:
        """Return a directory, which is there or is made."""
        if not _is_directory(parent, name):
            _remove(parent, name)
            os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = beneath(parent, name, _DIRECTORY)
        if opaque:
            try:
                _empty(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    def _hard_link(self, entry: Entry, parent: int) -> None:
        directory, _, name = entry.target.rpartition(b"/")
        root = self._stack[0].descriptor
        source = beneath(root, directory, _DIRECTORY) if directory else os.dup(root)
        try:
            os.link(name, entry.name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)


def _write(descriptor: int, entry: Entry, reader: Reader) -> None:
    for offset, data in reader.parts(entry.size):
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    os.ftruncate(descriptor, entry.size)


def _set(descriptor: int, entry: Entry) -> None:
    """Set the attributes. In this order: a change of the owner takes capabilities and the setuid bit away."""
    os.fchown(descriptor, entry.uid, entry.gid)
    os.fchmod(descriptor, entry.mode)
    for name in map(os.fsencode, os.listxattr(descriptor)):
        if name.startswith(_OURS) and not is_of_overlay(name) and name not in entry.attributes:
            os.removexattr(descriptor, name)
    for name, value in entry.attributes.items():
        os.setxattr(descriptor, name, value)
    os.utime(descriptor, ns=entry.times)


def _set_by_name(parent: int, name: bytes, entry: Entry) -> None:
    """Do the same for what is not opened: a symbolic link, a device, a fifo."""
    os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    if entry.kind is not Kind.SYMLINK:
        os.chmod(name, entry.mode, dir_fd=parent)  # it was made here, and is not a symbolic link
    place = b"/proc/self/fd/%d/%s" % (parent, name)
    for attribute, value in entry.attributes.items():
        os.setxattr(place, attribute, value, follow_symlinks=False)
    os.utime(name, ns=entry.times, dir_fd=parent, follow_symlinks=False)


def _is_directory(parent: int, name: bytes) -> bool:
    with suppress(FileNotFoundError):
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    return False


def _remove(parent: int, name: bytes) -> None:
    """Remove what has this name, with all that is in it."""
    if _is_directory(parent, name):
        descriptor = beneath(parent, name, _DIRECTORY)
        try:
            _empty(descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=parent)
        return
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _empty(descriptor: int) -> None:
    for name in os.listdir(descriptor):
        _remove(descriptor, os.fsencode(name))
