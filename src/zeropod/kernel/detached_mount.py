"""Detached mounts: copies of another mount that exist as long as a descriptor of ours is open.

Owns open_tree(2) and move_mount(2), and entering another mount namespace. The mount is copied, not the files in it: a
file written through one is seen through the other.

Source of facts: open_tree(2), move_mount(2), setns(2); include/uapi/linux/mount.h.
"""

import os
from collections.abc import Iterable

from zeropod.kernel import libc, namespace

_AT_FDCWD = -100
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MNT_DETACH = 2
_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000


def copy(place: str | os.PathLike[str]) -> int:
    """Return a copy of the mount at `place` in our mount namespace, without submounts. Raises OSError."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return libc.syscall("open_tree", _AT_FDCWD, os.fspath(place), flags)


def copies_in(pid: int, places: Iterable[str]) -> list[int]:
    """Return copies of the mounts at these places in a process's mount namespace. Raises OSError, and leaves none."""

    def make() -> list[int]:
        libc.call("unshare", _CLONE_FS)  # setns(2) refuses a thread that shares its root and working directory
        namespace.enter(f"/proc/{pid}/ns/mnt", _CLONE_NEWNS)
        copied: list[int] = []
        try:
            copied.extend(map(copy, places))
        except OSError:
            while copied:
                os.close(copied.pop())
            raise
        return copied

    return namespace.in_a_thread(make)


def attach(mount: int, place: str | os.PathLike[str]) -> None:
    """Attach a copy at `place`; it cannot be attached elsewhere afterwards. Raises OSError."""
    empty, flags = b"", _MOVE_MOUNT_F_EMPTY_PATH
    libc.syscall("move_mount", mount, empty, _AT_FDCWD, os.fspath(place), flags)


def detach(place: str | os.PathLike[str]) -> None:
    """Unmount what is mounted at `place`, lazily. Raises OSError."""
    libc.call("umount2", place, _MNT_DETACH)
