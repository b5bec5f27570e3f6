"""What a container takes of the node, from the kernel's side: nobody has to be asked for it, least of all zeropod.

Memory is that of the container's cgroup, and that of the pager which serves its missing pages. The pager is a fork of
the shim, and shares most of its pages with it: what it adds to the node is what is private to it. Pages of files that
it has mapped do not count: they are the kernel's cache. Memory that has moved out is in swap, by the count of the
cgroup, or in the container's page store, by the blocks of its files.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
K8S = "k8s.io"
"""containerd's namespace for pods; its CRI gives the same name to the cgroup of those without a parent."""

PAGER = "zeropod-pager"
"""The name of the process, as the kernel has it."""

CONTAINERS = Path("/var/lib/zeropod/containers")
"""One directory for each container: its image, its page store."""

SWAP, STORE, RESIDENT = "swap", "store", "resident"
"""Where the memory of a container in STANDBY is, as the annotation `standby-memory` calls it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container takes of the node right now."""

    processes: int = 0
    frozen: bool = False
    resident: int = 0
    """Bytes of its cgroup, as `kubectl top` counts them: usage without inactive file pages; the kernel's included."""
    pagers: int = 0
    pager: int = 0
    """Bytes that are private to them, files that they have mapped left out."""
    swapped: int = 0
    """Bytes that the cgroup has in swap."""
    stored: int = 0
    """Bytes on the disk of its page store."""

    @property
    def memory(self) -> int:
        return self.resident + self.pager

    @property
    def backend(self) -> str:
        """Where the memory is that is not resident."""
        return STORE if self.pagers else SWAP if self.swapped else RESIDENT

    @property
    def out(self) -> int:
        return self.stored if self.backend == STORE else self.swapped


NOTHING = Usage()


def look(container: str, namespace: str = K8S) -> Usage:
    """Of the container with this id. One without processes has no cgroup, and that counts as nothing."""
    pagers = _pagers(container, namespace)
    pager = sum(map(_private, pagers))
    with suppress(FileNotFoundError, ProcessLookupError):
        if (CGROUPS / "freezer").exists():
            memory, freezer = CGROUPS / "memory" / namespace / container, CGROUPS / "freezer" / namespace / container
            used, inactive, state = "memory.usage_in_bytes", "total_inactive_file", freezer / "freezer.state"
        else:
            memory = CGROUPS / namespace / container
            used, inactive, state = "memory.current", "inactive_file", memory / "cgroup.events"
        processes = len((memory / "cgroup.procs").read_text().split())
        stat = dict(line.split() for line in (memory / "memory.stat").read_text().splitlines())
        swapped = _swapped(memory, stat)
        resident = max(int((memory / used).read_text()) - int(stat[inactive]), 0)
        frozen = "FROZEN" in (text := state.read_text()) or "frozen 1" in text
        stored = _on_disk(CONTAINERS / namespace / container / "store")
        return Usage(processes, frozen, resident, len(pagers), pager, swapped, stored)
    return Usage(pagers=len(pagers), pager=pager)


def image_size(container: str, namespace: str = K8S) -> int:
    """Bytes of its checkpoint on disk, without holes; 0 if there is none."""
    return _on_disk(CONTAINERS / namespace / container / "images")


def _on_disk(directory: Path) -> int:
    total = 0
    with suppress(FileNotFoundError):
        for file in directory.rglob("*"):
            with suppress(FileNotFoundError):  # it comes and goes while this looks
                total += file.stat().st_blocks * 512
    return total


def _swapped(cgroup: Path, stat: Mapping[str, str]) -> int:
    if "swap" in stat:  # v1
        return int(stat["swap"])
    with suppress(FileNotFoundError):
        return int((cgroup / "memory.swap.current").read_text())
    return 0


def _pagers(container: str, namespace: str) -> list[Path]:
    """The pagers that have this container's files open; not their children, which share their memory (CLONE_VM)."""
    found = {}
    directory = CONTAINERS / namespace / container
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if (process / "comm").read_text().strip() == PAGER and _has_open(process, directory):
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
                counts = not line.partition("/")[2].startswith(str(CONTAINERS)[1:])
            elif counts and words[0].startswith("Private_"):
                total += int(words[1]) * 1024
    return total
