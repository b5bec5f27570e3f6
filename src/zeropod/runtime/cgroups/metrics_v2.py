"""Reading `io.containerd.cgroups.v2.Metrics` from a v2 cgroup's directory.

The mapping of files to fields follows containerd's cgroup2 package; CPU times are in microseconds, memory in
bytes, and "no limit" is the largest uint64. A file that is missing because its controller is not enabled for
this cgroup counts as zero.
"""

from pathlib import Path

from zeropod.rpc.messages import cgroups_v2_pb2

from .files import huge_pages, read
from .fill import Values, fill
from .metrics_v1 import rdma_entries
from .parse import device_number, flat_keyed, nested_keyed, number

#: The kernel counts these for anonymous and file pages separately; the message has the sum.
_SPLIT = ("workingset_refault", "workingset_activate")


def metrics(directory: Path) -> cgroups_v2_pb2.Metrics:
    def text(name: str) -> str | None:
        return read(directory / name)

    values: dict[str, Values | list[Values]] = {
        "pids": {"current": number(text("pids.current")), "limit": number(text("pids.max"))},
        "cpu": {**flat_keyed(text("cpu.stat")), **pressure(text("cpu.pressure"))},
        "memory": {
            **memory_stat(text("memory.stat")),
            **pressure(text("memory.pressure")),
            "usage": number(text("memory.current")),
            "usage_limit": number(text("memory.max")),
            "max_usage": number(text("memory.peak")),
            "swap_usage": number(text("memory.swap.current")),
            "swap_limit": number(text("memory.swap.max")),
            "swap_max_usage": number(text("memory.swap.peak")),
        },
        "rdma": {"current": rdma_entries(text("rdma.current")), "limit": rdma_entries(text("rdma.max"))},
        "io": {"usage": io_entries(text("io.stat")), **pressure(text("io.pressure"))},
        "hugetlb": _hugetlb(directory),
    }
    events = text("memory.events")
    if events is not None:
        values["memory_events"] = flat_keyed(events)
    message = cgroups_v2_pb2.Metrics()
    fill(message, values)
    return message


def memory_stat(text: str | None) -> dict[str, int]:
    """Return memory.stat, with the separate counters of `_SPLIT` summed."""
    stat = flat_keyed(text)
    for name in _SPLIT:
        stat[name] = stat.get(f"{name}_anon", 0) + stat.get(f"{name}_file", 0)
    return stat


def io_entries(text: str | None) -> list[Values]:
    """Parse io.stat: bytes and operations read and written, for each device."""
    entries: list[Values] = []
    for name, counts in nested_keyed(text).items():
        device = device_number(name)
        if device is not None:
            numbers = {key: number(value) for key, value in counts.items()}
            entries.append({"major": device[0], "minor": device[1], **numbers})
    return entries


def pressure(text: str | None) -> Values:
    """Parse a *.pressure file (PSI): percent of time over 10, 60 and 300 seconds, and the total in microseconds."""
    if not text:
        return {}
    shares = {
        kind: {name: number(value) if name == "total" else float(value) for name, value in words.items()}
        for kind, words in nested_keyed(text).items()
    }
    return {"psi": shares}


def _hugetlb(directory: Path) -> list[Values]:
    return [
        {
            "pagesize": size,
            "current": used,
            "max": number(read(directory / f"hugetlb.{size}.max")),
        }
        for size, used in huge_pages(directory, "current").items()
    ]
