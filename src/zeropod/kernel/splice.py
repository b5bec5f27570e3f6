"""Copies bytes between descriptors without passing them through Python.

Owns the copy loop between a container's pipe and containerd's fifo.

splice(2) between two pipes moves references to pages. Where an end is a terminal, or a file opened
with O_APPEND, the kernel may refuse (EINVAL): then the bytes are read and written.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable

import trio

_CHUNK = 1 << 20
_PIPE_SIZE = 1 << 20  # /proc/sys/fs/pipe-max-size, where it was not changed
_PIPE_BUF = 4096  # a pipe that polls as writable takes this much at once: pipe(7)
_READ = 1 << 16
_SPLICE_F_MOVE, _SPLICE_F_NONBLOCK = 1, 2
_LAST_WRITE = 1.0  # seconds


async def copy(read_fd: int, write_fd: int, on_data: Callable[[], None] | None = None) -> int:
    """Move bytes until `read_fd` is at its end; return how many were moved.

    The end is end-of-file, the EIO of a terminal whose other side is closed, or a reader of
    `write_fd` that has gone for good. A fifo whose reader may return (containerd restarts) must be
    opened O_RDWR, so that its reader never counts as gone: a slow or absent reader then only blocks
    the writer. Both descriptors become non-blocking, and the caller closes them.

    `on_data` is called after each piece moved. Cancellation loses no byte that was read.
    Only one task may read a descriptor, and only one may write it: trio refuses a second.
    """
    for fd in (read_fd, write_fd):
        os.set_blocking(fd, False)
        _enlarge(fd)
    moved = 0
    move = _splice if _is_pipe(read_fd) or _is_pipe(write_fd) else _read_write
    while True:
        try:
            count = await move(read_fd, write_fd)
        except OSError as error:
            if error.errno == errno.EINVAL and move is _splice:
                move = _read_write
                continue
            if error.errno in (errno.EIO, errno.EPIPE):
                return moved
            raise
        if count == 0:
            return moved
        moved += count
        if on_data:
            on_data()


async def _splice(read_fd: int, write_fd: int) -> int:
    while True:
        try:
            count = os.splice(read_fd, write_fd, _CHUNK, flags=_SPLICE_F_MOVE | _SPLICE_F_NONBLOCK)
        except BlockingIOError:
            # Either end may have blocked, and the call does not say which.
            await trio.lowlevel.wait_readable(read_fd)
            await _wait_writable(write_fd)
        else:
            await trio.lowlevel.checkpoint()
            return count


async def _read_write(read_fd: int, write_fd: int) -> int:
    while True:
        await trio.lowlevel.wait_readable(read_fd)
        await _wait_writable(write_fd)
        try:
            data = os.read(read_fd, _PIPE_BUF if _is_pipe(write_fd) else _READ)
        except BlockingIOError:
            continue
        rest = bytearray(data)
        try:
            await _write_all(write_fd, rest)
        except trio.Cancelled:
            # The bytes that were read are in no pipe any more: give the writing end a moment to take them.
            with trio.move_on_after(_LAST_WRITE, shield=True):
                await _write_all(write_fd, rest)
            raise
        return len(data)


async def _write_all(fd: int, rest: bytearray) -> None:
    while rest:
        with contextlib.suppress(BlockingIOError):
            del rest[: os.write(fd, rest)]
        if rest:
            await _wait_writable(fd)


async def _wait_writable(fd: int) -> None:
    try:
        await trio.lowlevel.wait_writable(fd)
    except PermissionError:
        # Files that epoll refuses never block: regular files, /dev/null.
        await trio.lowlevel.checkpoint()


def _is_pipe(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


def _enlarge(fd: int) -> None:
    # Fewer rounds while output is fast. The kernel refuses sizes beyond the user's limit (EPERM), and
    # accepts a pipe that is larger already.
    if _is_pipe(fd):
        with contextlib.suppress(OSError):
            if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < _PIPE_SIZE:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
