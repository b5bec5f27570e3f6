"""The open files of one process, with its directories and mapped files, as /proc shows them.

Each costs a readlink, and a stat unless it is a socket; fdinfo is read only for the kinds that need it.
"""

import os
import stat
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from zeropod.kernel.mappings import Area
from zeropod.runtime.image.parsers import value
from zeropod.runtime.image.snapshot import DELETED, Descriptor

MOST_DESCRIPTORS = 50_000
"""The most descriptors of one container: examining more would take seconds."""

_INFORMATIVE = ("anon_inode:", "pipe:")
_MEMORY = ("/memfd:", "/SYSV", "/dev/zero (deleted)", "/[aio]")
"""Name prefixes of mapped shared memory without a file."""


def text(path: str) -> str:
    """Return the text of a file of /proc. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.readall().decode(errors="surrogateescape")


class Table:
    def __init__(self, pid: int, ours: Collection[tuple[int, int]]) -> None:
        self._pid = pid
        self._base = f"/proc/{pid}"
        self._ours = {number for owner, number in ours if owner == pid}
        # Links are relative to the root of the mount namespace, names in a chroot to the chroot's root.
        self._has_whole_root = os.readlink(f"{self._base}/root") == os.readlink("/proc/self/root") == "/"

    def descriptors(self, most: int) -> list[Descriptor]:
        """Return its open descriptors. Raises OSError if they cannot be read, ValueError for more than `most`."""
        numbers = [int(name) for name in os.listdir(f"{self._base}/fd")]
        if len(numbers) > most:
            raise ValueError(f"more than {MOST_DESCRIPTORS} descriptors")
        found = []
        for number in numbers:
            if number in self._ours:
                continue
            with suppress(FileNotFoundError, ProcessLookupError):
                found.append(self._descriptor(number))
        return found

    def _descriptor(self, number: int) -> Descriptor:
        path = f"{self._base}/fd/{number}"
        link = os.readlink(path)
        if link.startswith("socket:["):
            return Descriptor(number, link, inode=int(link[8:-1]), mode=stat.S_IFSOCK)
        found = self._examined(Descriptor(number, link), path)
        if link.startswith(_INFORMATIVE) or stat.S_ISCHR(found.mode) or (link.startswith("/") and found.mode):
            info = text(f"{self._base}/fdinfo/{number}")
            found = replace(found, info=info, flags=int(value(info, "flags") or "0", 8))
        return found

    def held(self, mapped: Sequence[Area]) -> list[Descriptor]:
        """Return its working and root directory and its mapped files. Raises OSError."""
        found = []
        for what in ("cwd", "root"):
            path = f"{self._base}/{what}"
            found.append(self._examined(Descriptor(-1, os.readlink(path), what), path))
        for each in mapped:
            if each.name.startswith(_MEMORY):
                continue
            nothing = Descriptor(-1, each.name, "mapped")
            if not each.name.startswith("/"):
                found.append(nothing)
                continue
            with suppress(FileNotFoundError):
                found.append(self._examined(nothing, f"{self._base}/map_files/{each.start:x}-{each.end:x}"))
        return found

    def _examined(self, descriptor: Descriptor, path: str) -> Descriptor:
        """Return the descriptor with the file's stat(2). A file that cannot be queried (ESTALE) has lost its name."""
        try:
            seen = os.stat(path)
        except (FileNotFoundError, ProcessLookupError):
            raise
        except OSError:
            return replace(descriptor, named=descriptor.link.startswith("/proc/"))
        huge = seen.st_blksize > 1 << 16 and os.statvfs(path).f_bsize > 1 << 16
        return replace(
            descriptor,
            device=seen.st_dev,
            inode=seen.st_ino,
            mode=seen.st_mode,
            links=seen.st_nlink,
            blocks=getattr(seen, "st_blocks", 0),
            special=seen.st_rdev,
            modified=seen.st_mtime,
            named=self._is_named(descriptor.link, seen),
            huge=huge,
        )

    def _is_named(self, link: str, seen: os.stat_result) -> bool:
        if not link.startswith("/"):
            return not link.startswith("(unreachable)")
        # Inodes of /proc may be recreated at any time, and CRIU handles those of ended processes.
        if link.endswith(DELETED) or link.startswith(("/proc/", "/memfd:")):
            return True
        if not self._has_whole_root:
            return True
        try:
            there = os.lstat(f"{self._base}/root{link}")
        except OSError:
            return seen.st_nlink == 0
        return (there.st_dev, there.st_ino) == (seen.st_dev, seen.st_ino)
