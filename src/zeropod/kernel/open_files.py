"""Open files of other processes: which there are, what each one is, how many unread bytes it has.

Owns the reading of /proc/PID/fd and the queries that work on any file.

Nothing here may wait for a file system. A stat(2) of a file on FUSE or NFS asks its server, which may be down, or be
one of the very processes that are frozen; a poll(2) of a FUSE file asks it too, and the close(2) of a duplicate
flushes the file. So a file is identified by the text of its link first, then by a statx(2) that uses only what the
kernel has cached; only files known to be queues in the kernel are duplicated and polled.

Source of facts: proc_pid_fd(5), statx(2), fs/fuse/{dir,file}.c, fs/nfs/dir.c.
"""

import array
import ctypes
import fcntl
import os
import stat
import struct
import termios
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from zeropod.kernel import libc, proc_stat
from zeropod.kernel.mountinfo import Mount

_AT_NO_AUTOMOUNT, _AT_STATX_DONT_SYNC = 0x800, 0x4000
_STATX_TYPE, _STATX_INO = 0x1, 0x100
_STATX_SIZE = 256
_MODE_AND_INODE = struct.Struct("=28xHxxQ")
_DEVICES = struct.Struct("=128xIIII")

GONE = (FileNotFoundError, ProcessLookupError)
"""The errors for a process or a descriptor that does not exist any more."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is, as far as it can be told without asking its file system's server."""

    mode: int
    inode: int
    device: tuple[int, int]
    """Major and minor number of the file system it is on."""
    special: tuple[int, int]
    """Major and minor number of a character or block device itself."""


class Table:
    """The descriptors of one process; a directory of /proc is open as long as the context of `table`."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield (descriptor, text of its link); what is closed meanwhile is left out."""
        for name in os.listdir(self._directory):
            with suppress(*GONE):
                yield int(name), os.readlink(name, dir_fd=self._directory)

    def identity(self, descriptor: int) -> Identity | None:
        """Return what the file of a descriptor is, None if the descriptor is closed.

        Raises OSError where the file system cannot tell from its cache.
        """
        with suppress(*GONE):
            return _identity(self._directory, str(descriptor))
        return None

    def access(self, descriptor: int) -> int:
        """Return os.O_RDONLY, os.O_WRONLY or os.O_RDWR, as the file was opened; -1 if the descriptor is closed.

        Read from the mode of the link in /proc, so the file system is not asked.
        """
        with suppress(*GONE):
            mode = os.lstat(str(descriptor), dir_fd=self._directory).st_mode
            reads, writes = mode & stat.S_IRUSR, mode & stat.S_IWUSR
            return os.O_RDWR if reads and writes else os.O_WRONLY if writes else os.O_RDONLY
        return -1


@contextmanager
def table(pid: int) -> Iterator[Table]:
    """Open the table of a process. Raises FileNotFoundError or ProcessLookupError when it has ended."""
    directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Table(directory)
    finally:
        os.close(directory)


def inode_in(link: str, kind: str) -> int | None:
    """Return N of a link `kind:[N]`, None for any other link."""
    if link.startswith(kind) and link.startswith(":[", len(kind)) and link.endswith("]"):
        digits = link[len(kind) + 2 : -1]
        return int(digits) if digits.isascii() and digits.isdigit() else None
    return None


def fdinfo(pid: int, descriptor: int) -> dict[str, str]:
    """Return the lines `name: value` of /proc/PID/fdinfo; of several of one name the last. Empty once closed."""
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}") as file:
            return proc_stat.fields(file.read())
    except GONE:
        return {}


def unread(descriptor: int) -> int:
    """Return the unread bytes of a stream, pipe or terminal, or of the first message in a queue (FIONREAD).

    0 for files that do not support the ioctl.
    """
    amount = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, amount)
    except OSError:
        return 0
    return amount[0]


def _identity(directory: int, name: str) -> Identity:
    answer = ctypes.create_string_buffer(_STATX_SIZE)
    flags, wanted = _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC, _STATX_TYPE | _STATX_INO
    libc.syscall("statx", directory, name, flags, wanted, answer)
    mode, inode = _MODE_AND_INODE.unpack_from(answer)
    special_major, special_minor, major, minor = _DEVICES.unpack_from(answer)
    return Identity(mode, inode, (major, minor), (special_major, special_minor))


def devices(mounts: Iterable[Mount], file_system: str) -> set[tuple[int, int]]:
    """Return the device numbers of the file systems of one type among these mounts."""
    numbers = (mount.device.partition(":") for mount in mounts if mount.kind == file_system)
    return {(int(major), int(minor)) for major, _, minor in numbers}
