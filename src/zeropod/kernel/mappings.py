"""The mappings of a process, as /proc/PID/maps and /proc/PID/smaps list them.

Owns the only parser of both files, and the letters of their flags.

Source of facts: proc_pid_maps(5), proc_pid_smaps(5), show_smap_vma_flags() in fs/proc/task_mmu.c.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LOCKED: Final = "lo"
"""mlock(2)."""
HUGE_TLB: Final = "ht"
IO: Final = "io"
RAW_PAGES: Final = "pf"
"""Pages without a struct page (VM_PFNMAP), as devices and the kernel's own pages have."""

_SHARED_MEMORY = ("/dev/zero (deleted)", "/memfd:", "/SYSV", "/dev/shm/", "[anon_shmem:")
"""Prefixes of the names of shared memory mappings; other tmpfs files cannot be told from files on disk by name."""

# 7f51ecf97000-7f51ed0fb000 r-xp 00028000 fe:00 1234   /usr/lib/x86_64-linux-gnu/libc.so.6
# A name cannot begin a line of its own: the kernel writes a newline in it as \012.
_AREA = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)((?:\n(?![0-9a-f]+-).+)*)",
    re.MULTILINE,
)
_KIBIBYTE = 1024


@dataclass(frozen=True, slots=True)
class Area:
    """One mapping."""

    start: int
    end: int
    permissions: str
    """Four letters: r, w, x or `-` for each, then `p` for private or `s` for shared."""
    offset: int
    device: str
    inode: int
    name: str
    """The file's path, followed by ` (deleted)` if it was deleted; a name in brackets; or empty."""
    details: str = ""
    """Its further lines in smaps, each after a newline; empty if it was read from maps."""

    @property
    def flags(self) -> frozenset[str]:
        """Two letters each; none if it was read from maps."""
        return frozenset(self.details.partition("\nVmFlags:")[2].partition("\n")[0].split())

    def size(self, name: str) -> int:
        """Return its `Rss`, `Anonymous`, `Swap`, `Locked` and so on, in bytes; 0 if it was read from maps."""
        return int(self.details.partition(f"\n{name}:")[2].partition(" kB")[0] or 0) * _KIBIBYTE

    @property
    def private(self) -> bool:
        """Whether writes stay with the process (MAP_PRIVATE)."""
        return self.permissions.endswith("p")

    @property
    def anonymous(self) -> bool:
        """Whether it maps memory and not a file, not even an unnamed one."""
        return self.inode == 0

    @property
    def shared_memory(self) -> bool:
        """Whether it is shared memory by its name: MAP_SHARED | MAP_ANONYMOUS, memfd, System V, POSIX."""
        return not self.private and self.name.startswith(_SHARED_MEMORY)


def parse(text: str) -> Iterator[Area]:
    """Yield the mappings in the text of maps or smaps."""
    for found in _AREA.finditer(text):
        start, end, permissions, offset, device, inode, name, details = found.groups()
        # The kernel escapes newlines only, so a name that contains these four characters is indistinguishable.
        name = name.replace(r"\012", "\n")
        yield Area(int(start, 16), int(end, 16), permissions, int(offset, 16), device, int(inode), name, details)


def of(pid: int | str, *, sizes: bool = True) -> Iterator[Area]:
    """Yield the mappings of a process (`self` for ours) from smaps, or, without flags and sizes but sooner, from maps.

    The kernel writes the file in pieces: what the process maps meanwhile may be missing or seen twice. Raises OSError:
    FileNotFoundError or ProcessLookupError if the process does not exist.
    """
    with open(f"/proc/{pid}/{'smaps' if sizes else 'maps'}", errors="surrogateescape", newline="\n") as file:
        yield from parse(file.read())
