"""Reading `io.containerd.cgroups.v1.Metrics` from a v1 cgroup's directories.

The mapping of files to fields follows containerd's cgroup1 package, so that `ctr task metrics`, CRI stats and
`kubectl top` show the same as for runc's shim. Network and task-state statistics do not come from cgroups and
stay empty. A controller without a directory, or a file the kernel does not have, is left out.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from zeropod.rpc.messages import cgroups_v1_pb2

from .files import huge_pages, read
from .fill import Values, fill
from .parse import RDMA_UNLIMITED, device_counts, flat_keyed, nested_keyed, number, partition_names

#: The text of a file in a controller's directory, or None.
Reader = Callable[[str, str], str | None]

_NANOSECONDS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

#: memory.stat's names where the message's differ; each exists with `total_` in front as well.
_RENAMED = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}

#: Message field to blkio file: what the throttling layer counts, whatever the scheduler.
_THROTTLE = {
    "io_service_bytes_recursive": "blkio.throttle.io_service_bytes_recursive",
    "io_serviced_recursive": "blkio.throttle.io_serviced_recursive",
}


def metrics(directories: Mapping[str, Path]) -> cgroups_v1_pb2.Metrics:
    """Return a snapshot; `directories` maps controllers to the cgroup's directory in their hierarchy."""

    def reader(controller: str, name: str) -> str | None:
        directory = directories.get(controller)
        return None if directory is None else read(directory / name)

    # containerd answers with cpu and blkio even where neither is mounted.
    values: dict[str, Values | list[Values]] = {"cpu": _cpu(reader), "blkio": _blkio(reader)}
    if "pids" in directories:
        limit = number(reader("pids", "pids.max"), unlimited=0)
        values["pids"] = {"current": number(reader("pids", "pids.current")), "limit": limit}
    if "memory" in directories:
        values["memory"] = _memory(reader)
        values["memory_oom_control"] = flat_keyed(reader("memory", "memory.oom_control"))
    if "hugetlb" in directories:
        values["hugetlb"] = _hugetlb(directories["hugetlb"])
    if "rdma" in directories:
        values["rdma"] = {
            "current": rdma_entries(reader("rdma", "rdma.current")),
            "limit": rdma_entries(reader("rdma", "rdma.max")),
        }
    message = cgroups_v1_pb2.Metrics()
    fill(message, values)
    return message


def _cpu(reader: Reader) -> Values:
    """Return CPU times in nanoseconds; user and kernel have only the resolution of the kernel's clock ticks."""
    split = flat_keyed(reader("cpuacct", "cpuacct.stat"))
    throttling = flat_keyed(reader("cpu", "cpu.stat"))
    return {
        "usage": {
            "total": number(reader("cpuacct", "cpuacct.usage")),
            "user": split.get("user", 0) * _NANOSECONDS_PER_TICK,
            "kernel": split.get("system", 0) * _NANOSECONDS_PER_TICK,
            "per_cpu": [number(word) for word in (reader("cpuacct", "cpuacct.usage_percpu") or "").split()],
        },
        "throttling": {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttling.get("throttled_time", 0),
        },
    }


def _memory(reader: Reader) -> Values:
    def entry(prefix: str) -> Values:
        return {
            "limit": number(reader("memory", f"{prefix}.limit_in_bytes")),
            "usage": number(reader("memory", f"{prefix}.usage_in_bytes")),
            "max": number(reader("memory", f"{prefix}.max_usage_in_bytes")),
            "failcnt": number(reader("memory", f"{prefix}.failcnt")),
        }

    return {
        **memory_stat(reader("memory", "memory.stat")),
        # These override memory.stat, whose own `swap` has another meaning.
        "usage": entry("memory"),
        "swap": entry("memory.memsw"),
        "kernel": entry("memory.kmem"),
        "kernel_tcp": entry("memory.kmem.tcp"),
    }


def memory_stat(text: str | None) -> dict[str, int]:
    """Return v1's memory.stat under the message's field names: bytes and event counts."""

    def field(key: str) -> str:
        name = key.removeprefix("total_")
        return key.removesuffix(name) + _RENAMED.get(name, name)

    return {field(key): value for key, value in flat_keyed(text).items()}


def _blkio(reader: Reader) -> Values:
    names = partition_names(read(Path("/proc/partitions")))
    return {field: _devices(reader("blkio", name), names) for field, name in _THROTTLE.items()}


def _devices(text: str | None, names: Mapping[tuple[int, int], str]) -> list[Values]:
    return [
        {
            "op": count.operation,
            "device": names.get((count.major, count.minor), ""),
            "major": count.major,
            "minor": count.minor,
            "value": count.value,
        }
        for count in device_counts(text)
    ]


def _hugetlb(directory: Path) -> list[Values]:
    return [
        {
            "pagesize": size,
            "usage": used,
            "max": number(read(directory / f"hugetlb.{size}.max_usage_in_bytes")),
            "failcnt": number(read(directory / f"hugetlb.{size}.failcnt")),
        }
        for size, used in huge_pages(directory, "usage_in_bytes").items()
    ]


def rdma_entries(text: str | None) -> list[Values]:
    """Parse rdma.current or rdma.max (v1 and v2): handles and objects of each host channel adapter."""
    return [
        {
            "device": device,
            "hca_handles": number(counts.get("hca_handle"), RDMA_UNLIMITED),
            "hca_objects": number(counts.get("hca_object"), RDMA_UNLIMITED),
        }
        for device, counts in nested_keyed(text).items()
    ]
