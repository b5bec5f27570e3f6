"""The text formats of cgroup files, as pure functions.

Those of the kernel's Documentation/admin-guide/cgroup-v2.rst ("flat keyed", "nested keyed") and, for v1, of
blkio (`MAJOR:MINOR [OP] VALUE`) and the RDMA controller. Kernels add keys over time, so unknown keys are kept
and unknown lines skipped: statistics must not fail because a newer kernel reports more.
"""

from collections.abc import Iterator
from typing import NamedTuple

#: What containerd reports for `max` in a v2 limit: the largest uint64.
UNLIMITED = 2**64 - 1
#: What containerd reports for `max` in a limit of the RDMA controller, which is a uint32.
RDMA_UNLIMITED = 2**32 - 1


def number(text: str | None, unlimited: int = UNLIMITED) -> int:
    """Parse a single-value file; `max` is `unlimited`, a missing file or a negative value (v1's "none") is 0."""
    word = (text or "").strip()
    if word == "max":
        return unlimited
    return int(word) if word.isdecimal() else 0


def flat_keyed(text: str | None) -> dict[str, int]:
    """Parse `KEY VALUE` lines (memory.stat, cpu.stat, memory.events, v1's memory.oom_control)."""
    pairs = (line.split() for line in (text or "").splitlines())
    return {pair[0]: number(pair[1]) for pair in pairs if len(pair) == 2}


def nested_keyed(text: str | None) -> dict[str, dict[str, str]]:
    """Parse `KEY SUB=VALUE SUB=VALUE…` lines (io.stat, *.pressure, rdma.current); values stay text."""
    rows = (line.split() for line in (text or "").splitlines())
    return {
        row[0]: {key: value for key, equals, value in (word.partition("=") for word in row[1:]) if equals}
        for row in rows
        if row
    }


class DeviceCount(NamedTuple):
    """One line of a v1 blkio file. `operation` is empty in files without operations (sectors)."""

    major: int
    minor: int
    operation: str
    value: int


def device_number(text: str) -> tuple[int, int] | None:
    """Parse `MAJOR:MINOR`; return None for anything else (blkio's final `Total` line)."""
    major, colon, minor = text.partition(":")
    return (int(major), int(minor)) if colon and major.isdecimal() and minor.isdecimal() else None


def device_counts(text: str | None) -> Iterator[DeviceCount]:
    """Yield the lines of a v1 blkio statistics file, without the `Total` over all devices."""
    for line in (text or "").splitlines():
        words = line.split()
        device = device_number(words[0]) if len(words) in (2, 3) else None
        if device is not None:
            yield DeviceCount(*device, words[1] if len(words) == 3 else "", number(words[-1]))


def partition_names(text: str | None) -> dict[tuple[int, int], str]:
    """Return device numbers to `/dev/NAME`, as containerd names devices, from the text of /proc/partitions."""
    names: dict[tuple[int, int], str] = {}
    for line in (text or "").splitlines():
        words = line.split()
        if len(words) == 4 and words[0].isdecimal() and words[1].isdecimal():
            names.setdefault((int(words[0]), int(words[1])), f"/dev/{words[3]}")
    return names
