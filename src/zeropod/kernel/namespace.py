"""Namespaces: entering one and returning; creating a network namespace that outlives its creator.

Owns setns(2), unshare(2), the bind mount that pins a namespace, the loopback interface and the sysctls in it.
"""

import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from zeropod.kernel import libc

CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
_NAMES = {CLONE_NEWIPC: "ipc", CLONE_NEWNET: "net"}
_MS_BIND = 0x1000
_MNT_DETACH = 2
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

PathOrFd = str | os.PathLike[str] | int

_Result = TypeVar("_Result")


@contextmanager
def entered(namespace: PathOrFd, flags: int = CLONE_NEWNET) -> Iterator[None]:
    """Run the body with the calling thread inside `namespace`, and always return from it.

    The body must not await: every other trio task would run in the wrong namespace meanwhile. A socket made inside
    belongs to that namespace for good, so open it here and use it outside. Raises OSError when the namespace cannot be
    entered. If the way back fails the process ends at once: anything it did next would affect the wrong network.
    """
    with open(f"/proc/thread-self/ns/{_NAMES[flags]}", "rb", buffering=0) as home:
        enter(namespace, flags)
        try:
            yield
        finally:
            try:
                libc.call("setns", home.fileno(), flags)
            except OSError as error:
                _end(f"zeropod: cannot return from {_NAMES[flags]} namespace {namespace}: {error}")


def enter(namespace: PathOrFd, flags: int) -> None:
    """Move the calling thread into a namespace for good. Raises OSError."""
    # closefd: one that is given stays open.
    with open(namespace, "rb", buffering=0, closefd=not isinstance(namespace, int)) as there:
        libc.call("setns", there.fileno(), flags)


def same(one: PathOrFd, other: PathOrFd) -> bool:
    """Return whether both name the same namespace. Raises OSError when one does not exist."""
    return os.path.samestat(os.stat(one), os.stat(other))


def create_pinned(path: str | os.PathLike[str]) -> None:
    """Make a network namespace with `lo` up and keep it alive by a bind mount at `path`.

    The file is created (0444, as ip-netns(8) does); its directory must exist. Takes 1 to 50 ms.
    Raises OSError, and leaves nothing behind then.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))

    def make() -> None:
        libc.call("unshare", CLONE_NEWNET)
        loopback_up()
        libc.call("mount", "/proc/thread-self/ns/net", path, "none", _MS_BIND, None)

    try:
        in_a_thread(make)
    except OSError as error:
        os.unlink(path)
        raise OSError(error.errno, f"cannot create network namespace {path}: {error.strerror}") from error


def in_a_thread(function: Callable[[], _Result]) -> _Result:
    """Run `function`, which enters a namespace, in a thread that ends right away: it needs no way back.

    Raises the OSError of `function`.
    """
    result: list[_Result] = []
    failure: list[OSError] = []

    def run() -> None:
        try:
            result.append(function())
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def unpin(path: str | os.PathLike[str]) -> None:
    """Undo create_pinned(). Does nothing if the namespace is already unpinned."""
    with suppress(FileNotFoundError):
        try:
            libc.call("umount2", path, _MNT_DETACH)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: not a mount point (any more)
                raise
        os.unlink(path)


def loopback_up() -> None:
    """Bring `lo` of the calling thread's network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def set_sysctl(namespace: PathOrFd, name: str, value: str) -> None:
    """Set a sysctl of a network namespace, as in set_sysctl(ns, "net/ipv4/tcp_migrate_req", "1").

    Raises FileNotFoundError when this kernel has no such sysctl.
    """
    with entered(namespace):
        # /proc/sys/net shows the network namespace of the reading thread, not that of the mount of /proc.
        (Path("/proc/sys") / name).write_text(value)


def _end(message: str) -> NoReturn:
    # Not an exception: its handlers would still run in the wrong namespace.
    with suppress(OSError):
        os.write(2, message.encode() + b"\n")
    os._exit(70)
