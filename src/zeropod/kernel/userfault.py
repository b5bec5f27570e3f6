"""userfaultfd(2): filling in the missing pages of another process's memory.

Owns the numbers of the ioctls, the layout of their arguments and of messages. The calls are made once for each page
fault while an application waits, so they are plain, thread-safe functions, and a copy returns an errno instead of
raising.

Source of facts: include/uapi/linux/userfaultfd.h, fs/userfaultfd.c, mm/userfaultfd.c; userfaultfd(2).
"""

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final

from zeropod.kernel import libc

PAGE: Final = mmap.PAGESIZE

PAGEFAULT: Final = 0x12
FORK: Final = 0x13
REMAP: Final = 0x14
REMOVE: Final = 0x15
UNMAP: Final = 0x16

MESSAGE: Final = 32
"""Bytes of one message; read(2) returns whole ones only, page faults before events."""

COPY: Final = 0xC028AA03
ZEROPAGE: Final = 0xC020AA04
NEW: Final = 0xAA00
"""USERFAULTFD_IOC_NEW on /dev/userfaultfd; its argument is flags of open(2)."""
_API_CALL: Final = 0xC018AA3F
_REGISTER: Final = 0xC020AA00
_UNREGISTER: Final = 0x8010AA01
_WAKE: Final = 0x8010AA02
_WRITEPROTECT: Final = 0xC018AA06

_API: Final = 0xAA
EVENTS: Final = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6
"""UFFD_FEATURE_EVENT_{FORK,REMAP,REMOVE,UNMAP}."""
PAGEFAULT_FLAG_WP: Final = 1 << 0
"""UFFD_FEATURE_PAGEFAULT_FLAG_WP: write protection can be registered for at all."""
WP_UNPOPULATED: Final = 1 << 13
"""UFFD_FEATURE_WP_UNPOPULATED: pages that do not exist yet can be write-protected, too (Linux 6.4)."""
WP_ASYNC: Final = 1 << 15
"""UFFD_FEATURE_WP_ASYNC: a write lifts the protection without a message (Linux 6.7)."""

MISSING: Final = 1
"""Register for missing pages."""
WRITES: Final = 2
"""Register for writes to protected pages (UFFDIO_REGISTER_MODE_WP)."""
_PROTECTED: Final = 1 << 1
"""UFFDIO_COPY_MODE_WP."""
_PROTECT: Final = 1
_DONTWAKE: Final = 1 << 1

DEVICE: Final = "/dev/userfaultfd"
"""Its ioctl makes a userfaultfd of the calling process, whatever capabilities that has."""

_LOWEST: Final = 1 << 16
"""The kernel's usual vm.mmap_min_addr: nothing is mapped below."""

_copy = struct.Struct("=QQQQq")
_zero = struct.Struct("=QQQq")
_range = struct.Struct("=QQ")
_done = struct.Struct("=q")
_message = struct.Struct("=BxxxxxxxQQQ")


@dataclass(frozen=True, slots=True)
class Message:
    """One message, in the kernel's own order of fields."""

    event: int
    first: int
    """PAGEFAULT: flags; FORK: the new descriptor, opened by the read; REMAP: from; REMOVE, UNMAP: start."""
    second: int
    """PAGEFAULT: the address; REMAP: to; REMOVE, UNMAP: end."""
    third: int
    """REMAP: the length in bytes."""


def messages(data: bytes) -> Iterator[Message]:
    for event, first, second, third in _message.iter_unpack(data):
        # The new descriptor is 32 bits wide, and what follows it is not defined.
        yield Message(event, first & 0xFFFFFFFF if event == FORK else first, second, third)


def copy(uffd: int, to: int, source: int, length: int, *, protected: bool = False) -> tuple[int, int]:
    """UFFDIO_COPY from our address `source`; wake threads that wait there. Returns (bytes copied, errno or 0).

    With `protected` the pages are write-protected at once, where the range is registered for `WRITES`. All must lie in
    one mapping (else ENOENT, with nothing copied). EEXIST: the page exists already; EAGAIN: read events first, or the
    copy stopped midway; ESRCH: the process is gone; EFAULT: `source` cannot be read, for instance because its file was
    truncated.
    """
    return copy_prepared(uffd, prepare(to, source, length, protected=protected))


def prepare(to: int, source: int, length: int, *, protected: bool) -> bytearray:
    """Return the argument for one call of `copy_prepared`."""
    return bytearray(_copy.pack(to, source, length, _PROTECTED if protected else 0, 0))


def copy_prepared(uffd: int, argument: bytearray) -> tuple[int, int]:
    """Do what `copy` does, with an argument that was prepared before it mattered."""
    try:
        fcntl.ioctl(uffd, COPY, argument)
    except OSError as error:
        # Here the kernel writes either the number of bytes copied or the negative errno.
        return max(0, _done.unpack_from(argument, 32)[0]), error.errno or errno.EIO
    return int(_done.unpack_from(argument, 32)[0]), 0


def zero(uffd: int, to: int, pages: int = 1) -> int:
    """UFFDIO_ZEROPAGE for one page, and as many of the next ones as do not exist yet; wake threads that wait there.

    Returns errno or 0 for the first page (see `copy`).
    """
    argument = bytearray(_zero.pack(to, pages * PAGE, 0, 0))
    try:
        fcntl.ioctl(uffd, ZEROPAGE, argument)
    except OSError as error:
        if _done.unpack_from(argument, 24)[0] > 0:
            return 0
        # All must lie in one mapping.
        return zero(uffd, to) if pages > 1 and error.errno == errno.ENOENT else error.errno or errno.EIO
    return 0


def wake(uffd: int, start: int, length: int) -> None:
    """Wake threads that wait in the range, so that they fault again if pages are still missing. Raises OSError."""
    fcntl.ioctl(uffd, _WAKE, _range.pack(start, length))


def wake_all(uffd: int) -> None:
    """Wake all threads that wait on this userfaultfd, so that they fault again if pages are still missing.

    The kernel refuses a range beyond the address space, whose size it does not report: the largest range that it
    accepts is the right one.
    """
    for bits in range(57, 30, -1):
        with suppress(OSError):
            return wake(uffd, _LOWEST, (1 << bits) - _LOWEST - PAGE)
    raise OSError(errno.EINVAL, "UFFDIO_WAKE: the kernel takes no range at all")


def alive(uffd: int) -> bool:
    """Return whether the address space that it belongs to still exists.

    Probes by lifting a write protection that was never set, which changes nothing: no other interface tells.
    """
    try:
        fcntl.ioctl(uffd, _WRITEPROTECT, bytearray(struct.pack("=QQQ", _LOWEST, PAGE, _DONTWAKE)))
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def open() -> int:  # noqa: A001 - read as userfault.open()
    """Return a userfaultfd (close-on-exec, non-blocking) on our own memory that reports every event.

    Raises OSError: EPERM without CAP_SYS_PTRACE, ENOSYS or EINVAL where the kernel lacks it.
    """
    uffd = libc.syscall("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        handshake(uffd, EVENTS)
    except OSError:
        os.close(uffd)
        raise
    return uffd


def device() -> int:
    """Open the device on which another process makes a userfaultfd (ioctl `NEW`). Raises OSError: ENOENT without it."""
    return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)


def new(descriptor: int) -> int:
    """Return a userfaultfd (close-on-exec, non-blocking) on our own memory, without the handshake. Raises OSError."""
    return fcntl.ioctl(descriptor, NEW, os.O_CLOEXEC | os.O_NONBLOCK)


def handshake(uffd: int, features: int) -> int:
    """UFFDIO_API: choose features, once, before anything else; return those that the kernel has.

    Call it before the descriptor is polled: until then poll(2) reports an error. Raises OSError: EINVAL for a feature
    that the kernel lacks or for a second handshake, EPERM for fork events without CAP_SYS_PTRACE.
    """
    argument = bytearray(struct.pack("=QQQ", _API, features, 0))
    fcntl.ioctl(uffd, _API_CALL, argument)
    return int(struct.unpack_from("=Q", argument, 8)[0])


@cache
def offered() -> int:
    """Return the features that this kernel has. Raises OSError as `device` does."""
    descriptor = device()
    try:
        uffd = new(descriptor)
    finally:
        os.close(descriptor)
    try:
        return handshake(uffd, 0)
    finally:
        os.close(uffd)


def register(uffd: int, start: int, length: int, modes: int = MISSING) -> None:
    """Register a range, to get its missing-page faults and with `WRITES` its write-protect faults.

    Registering again with fewer modes removes none: unregister first. Raises OSError: EBUSY if the range belongs to
    another userfaultfd, EINVAL if the range or its kind of memory cannot be registered.
    """
    fcntl.ioctl(uffd, _REGISTER, bytearray(struct.pack("=QQQQ", start, length, modes, 0)))


def unregister(uffd: int, start: int, length: int) -> None:
    """Unregister a range: lifts its write protection; pages still missing then read as zeroes. Raises OSError."""
    fcntl.ioctl(uffd, _UNREGISTER, _range.pack(start, length))


def write_protect(uffd: int, start: int, length: int, *, protect: bool = True) -> None:
    """Write-protect the pages of a range, or lift that and wake threads that wait. Raises OSError.

    EAGAIN: read events first, then call it again.
    """
    fcntl.ioctl(uffd, _WRITEPROTECT, bytearray(struct.pack("=QQQ", start, length, _PROTECT if protect else 0)))
