"""Unpack zeropod.pyz on its first use, so that every later start finds its modules compiled.

Straight from the archive, Python compiles every module at every start: 400 ms for trio and protobuf instead of 140 ms.
So the first use unpacks the archive into a directory named by its contents' hash and compiles it there. From then on
the archive's first lines, a shell script, start Python in that directory without even opening the archive.

The code in the directory runs as root. Therefore the directory is not used if another user can write to it or to a
parent directory; it appears by a rename, complete and on disk, or not at all; and two first uses at once do the work
once. Where it cannot be made (no root, no space, a read-only disk), everything still runs straight from the archive.
Old builds' directories are left alone, since running shims import from them: uninstalling removes them. Another version
of Python uses the same directory and adds its compiled files as it imports, as it does everywhere.
"""

import compileall
import contextlib
import fcntl
import os
import py_compile
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from zeropod.boot import build_info
from zeropod.boot.permissions import exposure

# What starts in the directory; installer/pyz.py puts it there, the archive's shell header names it too.
ENTRY = "start.py"
# Unpacking takes about a second. After this long in wait for another process, it runs from the
# archive instead.
TURN_SECONDS = 20.0
TURN_POLL_SECONDS = 0.02
# Enough at once for a file system to write many files in few commits of its journal.
SYNC_THREADS = 16


class UnpackError(Exception):
    """The archive could not be unpacked; says where and why."""


def main(arguments: list[str]) -> int:
    """`zeropod unpack`: print the directory and return 0, or print what is in the way and return 1."""
    if arguments:
        sys.stderr.write(f"zeropod unpack: takes no arguments, got {' '.join(arguments)!r}\n")
        return 2
    if build_info.TREE is None:
        sys.stderr.write("zeropod unpack: this is a checkout; only zeropod.pyz can be unpacked\n")
        return 1
    archive = getattr(getattr(__spec__, "loader", None), "archive", None)
    try:
        if archive is not None:
            unpack(archive, build_info.TREE)
    except (UnpackError, OSError) as error:
        sys.stderr.write(f"zeropod unpack: {error}\n")
        return 1
    print(build_info.TREE)
    return 0


def continue_unpacked(archive: str) -> None:
    """Continue with the same arguments in the unpacked directory; return only if that is impossible.

    Prints nothing then, because containerd reads a shim's stderr as part of its response; `zeropod unpack` tells the
    reason.
    """
    if build_info.TREE is None:
        return
    try:
        unpack(archive, build_info.TREE)
        os.execv(sys.executable, [sys.executable, "-I", "-S", f"{build_info.TREE}/{ENTRY}", *sys.argv])
    except (UnpackError, OSError):
        return


def unpack(archive: str, tree: str) -> None:
    """Make `tree` hold the contents of `archive`, compiled for this Python, unless it does already.

    Raises UnpackError if other users could write to it, or if another process takes too long over it; OSError
    otherwise.
    """
    if not os.path.isdir(tree):
        library = os.path.dirname(tree)
        os.makedirs(os.path.dirname(library), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(library, 0o700)
        _demand_private(library)
        with _turn(library):
            if not os.path.isdir(tree):
                _unpack_anew(archive, tree, library)
    _demand_private(tree)


def _unpack_anew(archive: str, tree: str, library: str) -> None:
    # They are only made under the lock, so existing ones are left from a process that died.
    for name in os.listdir(library):
        if name.startswith(".new-"):
            shutil.rmtree(f"{library}/{name}", ignore_errors=True)
    fresh = tempfile.mkdtemp(prefix=".new-", dir=library)
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(fresh)
        # A hash that is not checked: nothing but us writes here, so the dates of the sources
        # need not be looked at.
        compileall.compile_dir(
            fresh,
            quiet=2,
            stripdir=fresh,
            prependdir=tree,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        _sync(fresh)
        os.rename(fresh, tree)
        _sync_one(library)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _demand_private(directory: str) -> None:
    if reason := exposure(directory):
        raise UnpackError(reason)


@contextlib.contextmanager
def _turn(library: str) -> Iterator[None]:
    descriptor = os.open(f"{library}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + TURN_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"another process has been unpacking to {library} for {TURN_SECONDS:.0f} s"
                    raise UnpackError(message) from None
                time.sleep(TURN_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _sync(directory: str) -> None:
    # A rename may reach the disk before what it names does: after a power cut the directory would be there,
    # full of empty files. sync(2) would wait for everything else that the node has written.
    paths = [os.path.join(parent, name) for parent, _, files in os.walk(directory) for name in (".", *files)]
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(_sync_one, paths))


def _sync_one(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
