"""Chooses the backend for a container by what the node has.

Owns the order of preference and the texts of its reasons, for the log, `why` and `doctor`. `facts` reads the node; the
rest is pure.
"""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zeropod.kernel import mountinfo
from zeropod.runtime.cgroups import placement
from zeropod.runtime.quantity import shown

from .backend import Kind

AUTO: Final = "auto"
"""The value of the annotation `standby-memory` that leaves the choice to the node."""

SMALL: Final = 16 << 20
"""Bytes of memory up to which moving does not pay: such a container is only frozen."""

SPARE: Final = 64 << 20
"""Bytes of swap that must stay free beyond what a container needs, for other processes."""

_STORE_MACHINES: Final = frozenset({"x86_64", "aarch64"})


@dataclass(frozen=True, slots=True)
class SwapDevice:
    """One line of /proc/swaps, in bytes."""

    name: str
    kind: str
    """`partition` for any block device, or `file`."""
    size: int
    used: int

    @property
    def in_memory(self) -> bool:
        """Whether it is zram, which frees memory at once, but only as much as it can compress."""
        return Path(self.name).name.startswith("zram")

    @property
    def free(self) -> int:
        return max(0, self.size - self.used)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The facts about a node that decide where the memory of sleeping containers can go."""

    machine: str
    swaps: tuple[SwapDevice, ...] = ()
    accounting: bool = False
    """Whether cgroups account swap: otherwise it is unknown what is out, and v2 has no limit to raise."""
    userfaultfd: bool = False
    """Whether /dev/userfaultfd exists and may be opened."""

    @property
    def free_swap(self) -> int:
        return sum(device.free for device in self.swaps)


def choose(wanted: str, node: NodeFacts, present: int, *, for_a_dump: bool = False) -> tuple[Kind, str]:
    """Return the backend for a container with `present` bytes of memory, and the reason as text.

    `wanted` is `auto` or a kind. A kind that the node does not support is replaced by the next in the order swap,
    store, resident. `for_a_dump`: the container is about to be dumped, which would read back everything from swap, so
    swap is not chosen. Raises ValueError for any other word.
    """
    kinds = list(Kind)
    if wanted != AUTO and wanted not in kinds:
        raise ValueError(f"{wanted!r} is none of {AUTO}, {', '.join(kinds)}")
    if for_a_dump:
        kinds.remove(Kind.SWAP)
        wanted = AUTO if wanted == Kind.SWAP else wanted
    if wanted == AUTO and present <= SMALL:
        return Kind.RESIDENT, f"{shown(present)} are too little to move"
    passed_over: list[str] = []
    for kind in kinds if wanted == AUTO else kinds[kinds.index(Kind(wanted)) :]:
        against = obstacle(kind, node, present)
        if against is None:
            return kind, "; ".join([*passed_over, _in_favour(kind, node, wanted)])
        passed_over.append(f"not in {kind}: {against}")
    raise AssertionError("resident is always possible")


def obstacle(kind: Kind, node: NodeFacts, present: int = 0) -> str | None:
    """Return why a backend cannot take `present` bytes on this node; None if it can."""
    match kind:
        case Kind.SWAP:
            return _against_swap(node, present)
        case Kind.STORE:
            return _against_store(node)
        case Kind.RESIDENT:
            return None


def _against_swap(node: NodeFacts, present: int) -> str | None:
    if not node.swaps:
        return "the node has no swap"
    if not node.accounting:
        return "cgroups do not account swap (kernel parameter swapaccount, or no memory controller)"
    if node.free_swap < present + SPARE:
        return f"only {shown(node.free_swap)} of swap are free, {shown(present)} and {shown(SPARE)} more are needed"
    return None


def _against_store(node: NodeFacts) -> str | None:
    if node.machine not in _STORE_MACHINES:
        return f"not supported on {node.machine}"
    if not node.userfaultfd:
        return "/dev/userfaultfd is missing or may not be opened (CONFIG_USERFAULTFD)"
    return None


def _in_favour(kind: Kind, node: NodeFacts, wanted: str) -> str:
    if kind is Kind.SWAP:
        return f"{shown(node.free_swap)} of swap are free ({', '.join(map(_describe, node.swaps))})"
    if kind is Kind.STORE:
        return "page store by userfaultfd"
    return "memory stays" if wanted != Kind.RESIDENT else "memory stays in place, as the annotation says"


def advice(node: NodeFacts) -> list[str]:
    """Return the lines for `doctor`: one for each backend, and how to make a better one possible."""
    lines = [
        f"{kind}: yes, {_in_favour(kind, node, kind)}"
        if (against := obstacle(kind, node)) is None
        else f"{kind}: no, {against}"
        for kind in (Kind.SWAP, Kind.STORE)
    ]
    if obstacle(Kind.SWAP, node) is not None:
        lines.append(
            "better: swap, on zram or a disk, wakes containers sooner than the page store does; a kubelet starts on a "
            "node with swap if its failSwapOn is false, and zeropod opens it for its own containers only"
        )
    elif not any(device.in_memory for device in node.swaps):
        lines.append("better: zram gives memory back at once and is read five times as fast as a swap file")
    if obstacle(Kind.SWAP, node) is not None and obstacle(Kind.STORE, node) is not None:
        lines.append("sleeping containers keep their memory on this node")
    return lines


def facts(proc: Path = Path("/proc"), dev: Path = Path("/dev")) -> NodeFacts:
    """Read the node. Blocks for some hundred microseconds."""
    return NodeFacts(
        machine=platform.machine(),
        swaps=parse_swaps(_text(proc / "swaps")),
        accounting=_accounts_swap(mountinfo.parse(_text(proc / "self/mountinfo"))),
        userfaultfd=os.access(dev / "userfaultfd", os.R_OK | os.W_OK),
    )


def parse_swaps(text: str) -> tuple[SwapDevice, ...]:
    """Return the devices in a text of /proc/swaps, whose numbers are KiB; skip unknown lines."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        # A deleted file is `/swap\040(deleted)`: one word.
        if len(words) == 5 and words[2].isdecimal() and words[3].isdecimal():
            found.append(SwapDevice(mountinfo.unescaped(words[0]), words[1], int(words[2]) << 10, int(words[3]) << 10))
    return tuple(found)


def _accounts_swap(all_mounts: list[mountinfo.Mount]) -> bool:
    mounts = placement.cgroup_mounts(all_mounts)
    memory = [mount.mount_point for mount in mounts if "memory" in mount.controllers]
    if memory:
        return any((point / "memory.memsw.usage_in_bytes").exists() for point in memory)
    unified = [mount.mount_point for mount in mounts if placement.UNIFIED in mount.controllers]
    # The root cgroup itself does not have the file.
    return any((child / "memory.swap.max").exists() for point in unified for child in _children(point))


def _children(directory: Path) -> Iterable[Path]:
    try:
        return [child for child in directory.iterdir() if child.is_dir()]
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""  # a kernel without swap has no /proc/swaps


def _describe(device: SwapDevice) -> str:
    kind = "zram" if device.in_memory else device.kind
    return f"{device.name}: {kind}, {shown(device.free)} of {shown(device.size)}"
