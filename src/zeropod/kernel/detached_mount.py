"""Mounts without a place: copies of another mount that exist as long as a descriptor of ours is open.

Owns open_tree(2) and move_mount(2), and the way into another mount namespace. What is copied is the mount, not what is
in it: a file written through one is seen through the other.

Source of facts: open_tree(2), move_mount(2), setns(2); include/uapi/linux/mount.h.
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from zeropod.kernel import libc

_OPEN_TREE = 428
_MOVE_MOUNT = 429
_AT_FDCWD = -100
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MNT_DETACH = 2
_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000

_Result = TypeVar("_Result")


def copy(place: str | os.PathLike[str]) -> int:
    """A copy of the mount at a place in our own mount namespace, without what is mounted below. Raises OSError."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return libc.syscall("open_tree", _OPEN_TREE, _AT_FDCWD, os.fspath(place), flags)


def copies_in(pid: int, places: Iterable[str]) -> list[int]:
    """Copies of the mounts at these places in a process's mount namespace. Raises OSError, and then there are none."""

    def make() -> list[int]:
        libc.call("unshare", _CLONE_FS)  # without which a thread may not go elsewhere
        there = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc.call("setns", there, _CLONE_NEWNS)
        finally:
            os.close(there)
        copied: list[int] = []
        try:
            copied.extend(map(copy, places))
        except OSError:
            while copied:
                os.close(copied.pop())
            raise
        return copied

    return _in_a_thread(make)


def attach(mount: int, place: str | os.PathLike[str]) -> None:
    """Gives a copy a place; it cannot be given another one afterwards. Raises OSError."""
    empty, flags = b"", _MOVE_MOUNT_F_EMPTY_PATH
    libc.syscall("move_mount", _MOVE_MOUNT, mount, empty, _AT_FDCWD, os.fspath(place), flags)


def detach(place: str | os.PathLike[str]) -> None:
    """Takes what is mounted there from its place. Raises OSError."""
    libc.call("umount2", place, _MNT_DETACH)


def _in_a_thread(function: Callable[[], _Result]) -> _Result:
    """A thread that ends right away spares us the way back into our own namespace."""
    result: list[_Result] = []
    failure: list[OSError] = []

    def run() -> None:
        try:
            result.append(function())
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="mounts")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
