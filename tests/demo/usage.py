"""What a container takes of the node, from the kernel's side: nobody has to be asked for it, least of all zeropod.

Memory is that of the container's cgroup, and that of the pager which serves its missing pages. The pager is a fork of
the shim, and shares most of its pages with it: what it adds to the node is what is private to it. Pages of the image
that it has mapped are none of that: they are the kernel's cache of a file, which it has of every image.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
K8S = "k8s.io"
"""Where containerd's CRI puts the containers of pods without a parent, in each hierarchy of cgroup v1 and in v2."""

PAGER = "zeropod-pager"
"""The name of the process, as the kernel has it."""

IMAGES = Path("/var/lib/zeropod/i")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container takes of the node right now."""

    processes: int = 0
    frozen: bool = False
    resident: int = 0
    """Bytes of its cgroup, as `kubectl top` counts them: usage without inactive file pages; the kernel's included."""
    pagers: int = 0
    pager: int = 0
    """Bytes that are private to them, the image's cached pages left out."""

    @property
    def memory(self) -> int:
        return self.resident + self.pager


NOTHING = Usage()


def look(container: str) -> Usage:
    """Of the container with this id. One without processes has no cgroup, and that counts as nothing."""
    pagers = _pagers(container)
    pager = sum(map(_private, pagers))
    with suppress(FileNotFoundError, ProcessLookupError):
        if (CGROUPS / "freezer").exists():
            memory, freezer = CGROUPS / "memory" / K8S / container, CGROUPS / "freezer" / K8S / container
            used, inactive, state = "memory.usage_in_bytes", "total_inactive_file", freezer / "freezer.state"
        else:
            memory = CGROUPS / K8S / container
            used, inactive, state = "memory.current", "inactive_file", memory / "cgroup.events"
        processes = len((memory / "cgroup.procs").read_text().split())
        stat = dict(line.split() for line in (memory / "memory.stat").read_text().splitlines())
        resident = max(int((memory / used).read_text()) - int(stat[inactive]), 0)
        frozen = "FROZEN" in (text := state.read_text()) or "frozen 1" in text
        return Usage(processes, frozen, resident, len(pagers), pager)
    return Usage(pagers=len(pagers), pager=pager)


def image_size(container: str) -> int:
    """Bytes of its checkpoint on disk, without holes; 0 if there is none."""
    with suppress(FileNotFoundError):
        return sum(file.stat().st_blocks * 512 for file in os.scandir(IMAGES / container / "images"))
    return 0


def _pagers(container: str) -> list[Path]:
    """The pagers that have this container's image open; not their children, which share their memory (CLONE_VM)."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if (process / "comm").read_text().strip() == PAGER and _has_open(process, IMAGES / container):
                found[process] = _parent(process)
    return [process for process, parent in found.items() if parent not in found]


def _parent(process: Path) -> Path:
    """As /proc/PID/stat has it, in the second field after the name."""
    return process.parent / (process / "stat").read_text().rpartition(")")[2].split()[1]


def _has_open(process: Path, directory: Path) -> bool:
    return any(directory in file.readlink().parents for file in (process / "fd").iterdir())


def _private(process: Path) -> int:
    """Bytes of its mappings' private pages, as /proc/PID/smaps lists them."""
    total, counts = 0, True
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in (process / "smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                counts = not line.partition("/")[2].startswith(str(IMAGES)[1:])
            elif counts and words[0].startswith("Private_"):
                total += int(words[1]) * 1024
    return total
